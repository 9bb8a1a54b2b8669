import { type TarSpec, tarball } from "../../fixtures/tar.ts";

/** One member of a layer. Paths are relative without a leading slash. */
export type TarEntry = { path: string; mode?: number; uid?: number; gid?: number } & (
  | { type: "directory" }
  | { type: "file"; content: Uint8Array | string }
  | { type: "hardlink" | "symlink"; target: string }
);

const TYPE_FLAGS = { file: "0", hardlink: "1", symlink: "2", directory: "5" } as const;
const NAME_LIMIT_BYTES = 100;

/**
 * A POSIX ustar archive of `entries` in their order, all with the time 0: equal content makes equal
 * bytes, so equal digests. Throws for a path longer than ustar's name field (100 bytes).
 */
export function writeTar(entries: readonly TarEntry[]): Uint8Array {
  return new Uint8Array(tarball(entries.map(toSpec)));
}

function toSpec(entry: TarEntry): TarSpec {
  const { mode, uid, gid } = entry;
  const name = entry.type === "directory" ? `${entry.path}/` : entry.path;
  const linkName = "target" in entry ? entry.target : "";
  if (Math.max(Buffer.byteLength(name), Buffer.byteLength(linkName)) > NAME_LIMIT_BYTES) {
    throw new Error(`${name}: too long for a ustar header`);
  }
  const data = entry.type === "file" ? Buffer.from(entry.content) : undefined;
  return { name, type: TYPE_FLAGS[entry.type], data, linkName, mode, uid, gid, mtime: 0 };
}
