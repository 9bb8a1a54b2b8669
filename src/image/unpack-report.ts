/** What `crib unpack` says on standard output: one line of JSON each, the last one being the result. */
import * as v from "valibot";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

export const unpackReportSchema = v.variant("kind", [
  /** `bytes` and `inodes` as below, until now; `taken` of the compressed bytes it is done with. */
  v.object({ kind: v.literal("progress"), bytes: count, inodes: count, taken: count }),
  /** It is done with all of them, and writes back to disk; nothing is said while the kernel does that. */
  v.object({ kind: v.literal("taken") }),
  v.object({
    kind: v.literal("done"),
    diffId: v.pipe(v.string(), v.regex(/^sha256:[0-9a-f]{64}$/)),
    /** On disk, in whole blocks. */
    bytes: count,
    inodes: count,
    /** Directories with files in them that the archive does not mention, and whether it does its root. */
    implied: count,
    hasRoot: v.boolean(),
    /** What was left out of the layer, a few lines. */
    warnings: v.array(v.string()),
  }),
  v.object({
    kind: v.literal("failed"),
    reason: v.picklist(["archive", "limit", "decode", "disk-full", "system"]),
    message: v.string(),
  }),
]);

export type UnpackReport = v.InferOutput<typeof unpackReportSchema>;
