/**
 * A message as text that is equal for equal messages: clients serialise maps in any order, so bytes
 * cannot be compared.
 */
export function fingerprint(message: object): string {
  return JSON.stringify(inOrder(message));
}

function inOrder(value: unknown): unknown {
  if (typeof value === "bigint") return `${value}`;
  if (value === null || typeof value !== "object") return value;
  // Else each byte would be a field.
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (Array.isArray(value)) return value.map(inOrder);
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(fields.map(([name, field]) => [name, inOrder(field)]));
}
