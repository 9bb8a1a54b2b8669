/** What the schema of crib.toml is made of: keys, tables, and kinds of values. */
import * as v from "valibot";

/** A key with its default and the text that `crib config --default` prints above it. */
export function key<Schema extends v.GenericSchema>(
  doc: string,
  schema: Schema,
  fallback: v.InferInput<Schema>,
) {
  return v.pipe(v.optional(schema, fallback), v.description(doc));
}

/** A table of keys; absent means: all defaults. */
export function section<Entries extends v.ObjectEntries>(doc: string, entries: Entries) {
  const table = v.strictObject(entries);
  return v.pipe(v.optional(table, {} as v.InferInput<typeof table>), v.description(doc));
}

export const text = v.string();
export const absolutePath = v.pipe(
  v.string(),
  v.check((path) => path.startsWith("/"), "must be an absolute path"),
  v.check((path) => !path.includes("\0"), "must not hold a NUL byte"),
);
export const socketPath = v.pipe(
  absolutePath,
  v.check(
    (path) => new TextEncoder().encode(path).length <= 107,
    "is longer than the 107 bytes that a unix socket address holds",
  ),
);
export const optionalPath = v.union(
  [v.literal(""), absolutePath],
  'must be an absolute path, or "" for the default',
);
export const optionalFile = v.union(
  [v.literal(""), absolutePath],
  'must be an absolute path, or ""',
);
export const seconds = (min: number, max: number) =>
  v.pipe(
    v.number(),
    v.minValue(min, `must be at least ${min} (seconds)`),
    v.maxValue(max, `must be at most ${max} (seconds)`),
  );
export const integer = (min: number, max: number) =>
  v.pipe(
    v.number(),
    v.integer("must be a whole number"),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  );
export const matching = (pattern: RegExp, wants: string) =>
  v.pipe(v.string(), v.regex(pattern, wants));

const HOST_AND_PORT = /^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/;
export const optionalHostAndPort = v.pipe(
  v.string(),
  v.check(
    (text) => text === "" || Number(HOST_AND_PORT.exec(text)?.[1] ?? Number.NaN) <= 65_535,
    'must be HOST:PORT, or ""',
  ),
);
