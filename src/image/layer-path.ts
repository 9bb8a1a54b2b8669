/** Names inside a layer's archive: made safe, and told apart from whiteouts. */
import { TarError } from "./tar-error.ts";

/** A name below the layer's root: its components as latin1 strings, which keep every byte. */
export type LayerPath = readonly string[];

const WHITEOUT = ".wh.";
const META = ".wh..wh.";
const OPAQUE = ".wh..wh..opq";

/** What an entry's name asks for; `path` is the file, or the directory that is opaque. */
export type Placement =
  | { kind: "entry" | "whiteout" | "opaque" | "link target"; path: LayerPath }
  | { kind: "ignored" };

/** Where AUFS kept files that have several names, for hard links to them. No part of the layer itself. */
export const LINK_TARGETS = ".wh..wh.plnk";

/**
 * Splits a raw name; leading, double and trailing slashes and "." are left out, ".." takes away the part
 * before it, whatever that is in the layer (as Go's `filepath.Clean`).
 *
 * @throws TarError when that leads out of the layer: CRI-O refuses it too, containerd stays at the root.
 */
export function splitPath(name: Buffer): LayerPath {
  const parts: string[] = [];
  for (const part of name.toString("latin1").split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined) {
      throw new TarError(`name ${quote(name)} leads out of the layer by ".."`);
    }
  }
  return parts;
}

/** Reads an entry's name by the whiteout rules of the OCI image layer specification. */
export function placeEntry(name: Buffer): Placement {
  const path = splitPath(name);
  const base = path.at(-1);
  if (base === undefined || !name.includes(WHITEOUT)) return { kind: "entry", path };
  if (path.length === 2 && path[0] === LINK_TARGETS) return { kind: "link target", path };
  // The other bookkeeping of AUFS, which old images still carry: no content.
  if (path.some((part) => part.startsWith(META) && part !== OPAQUE)) return { kind: "ignored" };
  const parents = path.slice(0, -1);
  if (parents.some((part) => part.startsWith(WHITEOUT))) {
    // containerd and CRI-O make a directory of that name, which the image specification reserves.
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
