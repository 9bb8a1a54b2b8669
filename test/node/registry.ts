/**
 * Prints the directory of a registry with critest's stand-ins and an image of the node tests; run.ts
 * runs it under test/isolate.sh.
 */
import { createHash } from "node:crypto";
import type { StandIn } from "../conformance/images/stand-ins.ts";
import type { TarEntry } from "../conformance/images/tar.ts";
import { filledRegistry } from "../conformance/registry.ts";
import { layered } from "./node.ts";

/** Bytes that no compression and no file system makes smaller, the same ones each time. */
function noise(seed: string, bytes: number): Uint8Array {
  const blocks = Array.from({ length: bytes / 32 }, (_, index) =>
    createHash("sha256").update(`${seed} ${index}`).digest(),
  );
  return Buffer.concat(blocks);
}

/** Layers that no other image has: all of it is written when it is pulled. */
const image: StandIn = {
  names: [layered.replace("registry.k8s.io/", "")],
  layers: ["a", "b", "c"].map((layer) =>
    Array.from(
      { length: 12 },
      (_, index): TarEntry => ({
        type: "file",
        path: `${layer}${index}`,
        content: noise(`${layer}${index}`, 65_536),
      }),
    ),
  ),
  config: { Cmd: ["/none"] },
};

console.log(await filledRegistry({ images: [image], source: import.meta.path }));
