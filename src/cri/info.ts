import { JsonText } from "../container/info.ts";

/** The kubelet takes answers of 16 MiB, and the status comes with it. */
const LIMIT_BYTES = 8 * 1024 * 1024;

/**
 * The `info` map of a verbose answer: one JSON document under "info", as the peers have it. Members that
 * it has no room for are left out, the largest first, and named in "omitted".
 */
export async function infoOf(
  verbose: boolean,
  info: () => object | Promise<object>,
): Promise<Record<string, string>> {
  return verbose ? { info: toJson(await info(), LIMIT_BYTES) } : {};
}

/** Exported for tests. */
export function toJson(info: object, limitBytes: number): string {
  const members = Object.entries(info).flatMap(([name, value]) => {
    const json: string | undefined = value instanceof JsonText ? value.text : JSON.stringify(value);
    return json === undefined ? [] : [{ name, text: `${JSON.stringify(name)}:${json}` }];
  });
  const omitted: string[] = [];
  let bytes = members.reduce((sum, { text }) => sum + Buffer.byteLength(text) + 1, 2);
  for (const { name, text } of members.toSorted((a, b) => b.text.length - a.text.length)) {
    if (bytes <= limitBytes) break;
    bytes -= Buffer.byteLength(text);
    omitted.push(name);
  }
  const kept = members.filter(({ name }) => !omitted.includes(name)).map(({ text }) => text);
  if (omitted.length > 0) kept.push(`"omitted":${JSON.stringify(omitted)}`);
  return `{${kept.join(",")}}`;
}
