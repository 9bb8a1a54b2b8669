/**
 * A message as text that is equal for equal messages: clients serialise maps in any order, so bytes
 * cannot be compared.
 */
export function fingerprint(message: object): string {
  return JSON.stringify(message, (_key, value: unknown) => {
    if (typeof value === "bigint") return `${value}`;
    if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
