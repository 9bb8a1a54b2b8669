/** One member of a layer. Paths are relative without a leading slash. */
export type TarEntry = { path: string; mode?: number; uid?: number; gid?: number } & (
  | { type: "directory" }
  | { type: "file"; content: Uint8Array | string }
  | { type: "hardlink" | "symlink"; target: string }
);

const blockSize = 512;
const typeFlags = { file: "0", hardlink: "1", symlink: "2", directory: "5" } as const;

/**
 * A POSIX ustar archive of `entries` in their order, all with the time 0: equal content makes equal
 * bytes, so equal digests. Throws for a path longer than ustar's name field (100 bytes).
 */
export function writeTar(entries: TarEntry[]): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const entry of entries) {
    const content = entry.type === "file" ? bytes(entry.content) : new Uint8Array(0);
    blocks.push(header(entry, content.length), content);
    blocks.push(new Uint8Array(-content.length & (blockSize - 1)));
  }
  blocks.push(new Uint8Array(2 * blockSize));
  return new Uint8Array(Buffer.concat(blocks));
}

function header(entry: TarEntry, size: number): Uint8Array {
  const block = Buffer.alloc(blockSize);
  const name = entry.type === "directory" ? `${entry.path}/` : entry.path;
  const target = "target" in entry ? entry.target : "";
  if (Buffer.byteLength(name) > 100 || Buffer.byteLength(target) > 100) {
    throw new Error(`${name}: too long for a ustar header`);
  }
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, "0")}\0`;
  block.write(name, 0);
  block.write(octal(entry.mode ?? (entry.type === "directory" ? 0o755 : 0o644), 7), 100);
  block.write(octal(entry.uid ?? 0, 7), 108);
  block.write(octal(entry.gid ?? 0, 7), 116);
  block.write(octal(size, 11), 124);
  block.write(octal(0, 11), 136);
  block.write("        ", 148); // the checksum is taken with spaces in its place
  block.write(typeFlags[entry.type], 156);
  block.write(target, 157);
  block.write("ustar\x0000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

function bytes(content: Uint8Array | string): Uint8Array {
  return typeof content === "string" ? new TextEncoder().encode(content) : content;
}
