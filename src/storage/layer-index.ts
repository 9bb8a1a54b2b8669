/**
 * What is in a layer: written while it is unpacked, compared when it is checked.
 *
 * One line of JSON for each file, in the order of unpacking; a later line of the same path replaces an
 * earlier one, `["-", path]` takes one away with all below it, and `["x", path, …]` adds attributes. Paths are latin1, which keeps every
 * byte. The checksum is there to find what a disk or a power cut has damaged, not what an attacker has.
 */
import { open } from "node:fs/promises";
import * as v from "valibot";

const CHUNK_BYTES = 256 * 1024;
const NEWLINE = 0x0a;

const number = v.number();
const recordSchema = v.variant("kind", [
  v.object({ kind: v.literal("directory"), mode: number, uid: number, gid: number }),
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
const lineSchema = v.union([
  v.tuple([v.literal("+"), v.string(), recordSchema]),
  v.tuple([v.literal("-"), v.string()]),
  v.tuple([v.literal("x"), v.string(), v.record(v.string(), number)]),
]);

export type IndexRecord = v.InferOutput<typeof recordSchema>;

/** A directory of the index by names; a node without a record is only on the way to others. */
export interface IndexNode {
  record?: IndexRecord;
  /** Those that it was given; lists of older versions have none. */
  xattrs?: Record<string, number>;
  children: Map<string, IndexNode>;
}

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

/** Reads an index. Throws (anything) when it is not there or not one. */
export async function readIndex(file: string): Promise<IndexNode> {
  const root: IndexNode = { children: new Map() };
  for await (const text of linesOf(file)) {
    const line = v.parse(lineSchema, JSON.parse(text));
    if (line[0] === "+") place(root, line[1], line[2]);
    else if (line[0] === "-") takeAway(root, line[1]);
    else nodeAt(root, line[1]).xattrs = { ...nodeAt(root, line[1]).xattrs, ...line[2] };
  }
  return root;
}

async function* linesOf(file: string): AsyncGenerator<string, void, void> {
  const handle = await open(file);
  try {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    let rest = Buffer.alloc(0);
    for (;;) {
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, null);
      if (bytesRead === 0) break;
      rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
      const end = rest.lastIndexOf(NEWLINE) + 1;
      if (end > 0) yield* rest.toString("utf8", 0, end - 1).split("\n");
      rest = Buffer.from(rest.subarray(end));
    }
    if (rest.length > 0) yield rest.toString();
  } finally {
    await handle.close();
  }
}

const partsOf = (path: string) => (path === "" ? [] : path.split("/"));

/** The node of a path, made where there is none. */
function nodeAt(root: IndexNode, path: string): IndexNode {
  let node = root;
  for (const part of partsOf(path)) {
    const next: IndexNode = node.children.get(part) ?? { children: new Map() };
    node.children.set(part, next);
    node = next;
  }
  return node;
}

/** A hard link is what it was linked to: that may be replaced later, and the link stays what it is. */
function place(root: IndexNode, path: string, record: IndexRecord): void {
  const node = nodeAt(root, path);
  const target = record.kind === "hardlink" ? find(root, record.target) : undefined;
  node.record = target?.record ?? record;
  if (target?.xattrs !== undefined) node.xattrs = target.xattrs;
}

function find(root: IndexNode, path: string): IndexNode | undefined {
  let node: IndexNode | undefined = root;
  for (const part of partsOf(path)) node = node?.children.get(part);
  return node;
}

function takeAway(root: IndexNode, path: string): void {
  const parts = partsOf(path);
  const last = parts.pop();
  if (last !== undefined) find(root, parts.join("/"))?.children.delete(last);
}
