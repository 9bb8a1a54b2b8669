/**
 * Objects as Go's encoding/json reads them, which everybody else who reads images uses: names of fields in
 * any case, fields that are not known left out, null as good as absent (`v.nullish`).
 */
import * as v from "valibot";

/**
 * A Go struct. Where Go takes the last of "layers" and "Layers", this refuses: what a document means must
 * not depend on who reads it.
 */
export function goStruct<const Entries extends v.ObjectEntries>(entries: Entries) {
  const fields = new Map(Object.keys(entries).map((name) => [folded(name), name]));
  const known = v.rawTransform<Record<string, unknown>, Record<string, unknown>>(
    ({ dataset, addIssue, NEVER }) => {
      const found: Record<string, unknown> = {};
      for (const [name, value] of Object.entries(dataset.value)) {
        const field = fields.get(folded(name));
        if (field === undefined) continue;
        if (Object.hasOwn(found, field)) {
          addIssue({ message: `${field} is there twice, as ${name}` });
          return NEVER;
        }
        found[field] = value;
      }
      return found;
    },
  );
  return v.pipe(
    v.custom<Record<string, unknown>>(isObject, "is no object"),
    known,
    v.object(entries),
  );
}

/** A map, whose names are what they are. Null is the zero value, as for any field. */
export const stringMap = v.pipe(
  v.nullish(v.custom<Record<string, unknown>>(isObject, "is no object"), {}),
  v.rawTransform<Record<string, unknown>, Record<string, string>>(
    ({ dataset, addIssue, NEVER }) => {
      const entries: Array<[string, string]> = [];
      for (const [name, value] of Object.entries(dataset.value)) {
        const text = value ?? "";
        if (typeof text !== "string") {
          addIssue({ message: `${name.slice(0, 100)} is no string` });
          return NEVER;
        }
        entries.push([name, text]);
      }
      return Object.fromEntries(entries);
    },
  ),
);
/** The names of a map whose values mean nothing. */
export const namesOfMap = v.pipe(
  v.nullish(v.custom<Record<string, unknown>>(isObject, "is no object"), {}),
  v.transform((record) => Object.keys(record)),
);
export const strings = v.nullish(v.array(v.nullish(v.string(), "")), []);
export const text = v.nullish(v.string(), "");

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** As Go folds: the long s and the Kelvin sign are letters too. */
export function folded(name: string): string {
  return name.toLowerCase().replaceAll("\u017f", "s");
}
