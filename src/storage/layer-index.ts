/**
 * What is in a layer: written while it is unpacked, compared when it is checked.
 *
 * One line of JSON for each file, in the order of unpacking; a later line of the same path replaces an
 * earlier one, `["-", path]` takes one away with all below it, and `["x", path, …]` adds attributes. Paths
 * are latin1, which keeps every byte; they may lead through the layer's own symlinks. The checksum is there
 * to find what a disk or a power cut has damaged, not what an attacker has.
 */
import { closeSync, constants, openSync, readSync } from "node:fs";
import * as v from "valibot";

/** Overlayfs's mark of a directory that hides those of the layers below; its value is "y". */
export const OPAQUE_XATTR = "trusted.overlay.opaque";

const CHUNK_BYTES = 256 * 1024;
const NEWLINE = 0x0a;
/** Names and attributes that Linux allows are far shorter, also as JSON. */
const LINE_LIMIT_BYTES = 1024 * 1024;

const number = v.number();
export const recordSchema = v.variant("kind", [
  v.object({
    kind: v.literal("directory"),
    mode: number,
    uid: number,
    gid: number,
    /** The archive does not mention it: it is like that of the layers below (inherit-directories.ts). */
    implied: v.optional(v.literal(true)),
  }),
  v.object({
    kind: v.literal("file"),
    mode: number,
    uid: number,
    gid: number,
    size: number,
    /** CRC-32 of the content. */
    crc: number,
  }),
  v.object({ kind: v.literal("hardlink"), target: v.string() }),
  v.object({ kind: v.literal("symlink"), target: v.string(), uid: number, gid: number }),
  /** Devices, FIFOs, whiteouts. */
  v.object({ kind: v.literal("special"), type: number, device: number }),
]);
export const xattrsSchema = v.record(v.string(), number);
const lineSchema = v.union([
  v.tuple([v.literal("+"), v.string(), recordSchema]),
  v.tuple([v.literal("-"), v.string()]),
  v.tuple([v.literal("x"), v.string(), xattrsSchema]),
]);

export type IndexRecord = v.InferOutput<typeof recordSchema>;
export type IndexLine = v.InferOutput<typeof lineSchema>;

/** One line of the index; `record` undefined takes the path away. `path` without a leading slash. */
export function indexLine(path: readonly string[], record: IndexRecord | undefined): string {
  const name = path.join("/");
  return `${JSON.stringify(record === undefined ? ["-", name] : ["+", name, record])}\n`;
}

/** Another line: the extended attributes that a file has, by the CRC-32 of their values. */
export function xattrLine(
  path: readonly string[],
  xattrs: Readonly<Record<string, number>>,
): string {
  return `${JSON.stringify(["x", path.join("/"), xattrs])}\n`;
}

/** Its lines, in the order of unpacking. Throws (anything) when it is not there or not one. */
export function* readIndex(file: string): Generator<IndexLine, void, void> {
  for (const text of linesOf(file)) yield v.parse(lineSchema, JSON.parse(text));
}

function* linesOf(file: string): Generator<string, void, void> {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    let rest = Buffer.alloc(0);
    for (;;) {
      const count = readSync(fd, chunk, 0, chunk.length, null);
      if (count === 0) break;
      rest = Buffer.concat([rest, chunk.subarray(0, count)]);
      const end = rest.lastIndexOf(NEWLINE) + 1;
      if (end > 0) yield* rest.toString("utf8", 0, end - 1).split("\n");
      rest = Buffer.from(rest.subarray(end));
      if (rest.length > LINE_LIMIT_BYTES) throw new Error("a line without an end");
    }
    if (rest.length > 0) yield rest.toString();
  } finally {
    closeSync(fd);
  }
}
