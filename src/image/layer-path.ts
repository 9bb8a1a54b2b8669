/** Names inside a layer's archive: made safe, and told apart from whiteouts. */
import { TarError } from "./tar-error.ts";

/** A name below the layer's root: its components as latin1 strings, which keep every byte. */
export type LayerPath = readonly string[];

const WHITEOUT = ".wh.";
const META = ".wh..wh.";
const OPAQUE = ".wh..wh..opq";

/** What an entry's name asks for; `path` is the file, or the directory that is opaque. */
export type Placement =
  | { kind: "entry" | "whiteout" | "opaque"; path: LayerPath }
  | { kind: "ignored" };

/** Splits a raw name; leading, double and trailing slashes and "." are left out, ".." is refused. */
export function splitPath(name: Buffer): LayerPath {
  const parts: string[] = [];
  for (const part of name.toString("latin1").split("/")) {
    if (part === "..") throw new TarError(`name ${quote(name)} holds ".."`);
    if (part !== "" && part !== ".") parts.push(part);
  }
  return parts;
}

/** Reads an entry's name by the whiteout rules of the OCI image layer specification. */
export function placeEntry(name: Buffer): Placement {
  const path = splitPath(name);
  const base = path.at(-1);
  if (base === undefined || !name.includes(WHITEOUT)) return { kind: "entry", path };
  // The bookkeeping of AUFS, which old images still carry: no content.
  if (path.some((part) => part.startsWith(META) && part !== OPAQUE)) return { kind: "ignored" };
  const parents = path.slice(0, -1);
  if (parents.some((part) => part.startsWith(WHITEOUT))) {
    throw new TarError(`name ${quote(name)} lies below a whiteout`);
  }
  if (base === OPAQUE) return { kind: "opaque", path: parents };
  if (!base.startsWith(WHITEOUT)) return { kind: "entry", path };
  const target = base.slice(WHITEOUT.length);
  if (target === "" || target === "." || target === "..") {
    throw new TarError(`whiteout ${quote(name)} names no file`);
  }
  return { kind: "whiteout", path: [...parents, target] };
}

/** The absolute path, as bytes. */
export function toBytes(path: LayerPath): Buffer {
  return Buffer.from(`/${path.join("/")}`, "latin1");
}

/** A name for messages: bounded, printable. */
export function quote(name: Uint8Array): string {
  const text = Buffer.from(name).toString("utf8");
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}
