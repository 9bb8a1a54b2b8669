/**
 * What is in a layer: written while it is unpacked, compared when it is checked.
 *
 * One line of JSON for each file, in the order of unpacking; a later line of the same path replaces an
 * earlier one, and `["-", path]` takes one away with all below it. Paths are latin1, which keeps every
 * byte. The checksum is there to find what a disk or a power cut has damaged, not what an attacker has.
 */
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import * as v from "valibot";

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
]);

export type IndexRecord = v.InferOutput<typeof recordSchema>;

/** A directory of the index by names; a node without a record is only on the way to others. */
export interface IndexNode {
  record?: IndexRecord;
  children: Map<string, IndexNode>;
}

/** One line of the index; `record` undefined takes the path away. `path` without a leading slash. */
export function indexLine(path: readonly string[], record: IndexRecord | undefined): string {
  const name = path.join("/");
  return `${JSON.stringify(record === undefined ? ["-", name] : ["+", name, record])}\n`;
}

/** Reads an index. Throws (anything) when it is not there or not one. */
export async function readIndex(file: string): Promise<IndexNode> {
  const root: IndexNode = { children: new Map() };
  const input = createReadStream(file);
  // An error before the first line would otherwise be nobody's.
  const failed = new Promise<never>((_, reject) => input.once("error", reject));
  failed.catch(() => {});
  const lines = createInterface({ input })[Symbol.asyncIterator]();
  for (;;) {
    const next = await Promise.race([lines.next(), failed]);
    if (next.done === true) return root;
    const [sign, path, record] = v.parse(lineSchema, JSON.parse(next.value));
    if (sign === "+") place(root, path, record);
    else takeAway(root, path);
  }
}

const partsOf = (path: string) => (path === "" ? [] : path.split("/"));

function place(root: IndexNode, path: string, record: IndexRecord): void {
  let node = root;
  for (const part of partsOf(path)) {
    const next: IndexNode = node.children.get(part) ?? { children: new Map() };
    node.children.set(part, next);
    node = next;
  }
  node.record = record;
}

function takeAway(root: IndexNode, path: string): void {
  const parts = partsOf(path);
  const last = parts.pop();
  let node: IndexNode | undefined = root;
  for (const part of parts) node = node?.children.get(part);
  if (last !== undefined) node?.children.delete(last);
}
