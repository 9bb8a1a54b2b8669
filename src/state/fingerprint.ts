import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";

/**
 * A message as text that is equal for equal messages: clients serialise maps in any order, so bytes
 * cannot be compared.
 */
export function fingerprint<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): string {
  return JSON.stringify(toJson(schema, message), (_key, value: unknown) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}
