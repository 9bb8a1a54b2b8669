import { JsonText } from "../container/info.ts";
import { type Codec, encode, type VerboseAnswer } from "./service.ts";
import { lengthDelimited } from "./wire.ts";

/** The kubelet takes answers of 16 MiB, and the status comes with it. */
const LIMIT_BYTES = 8 * 1024 * 1024;
const OPEN = Buffer.from("{");
const COMMA = Buffer.from(",");
const CLOSE = Buffer.from("}");
/** `map<string, string> info = 2` in the answers of all Status RPCs; a map's entry has its key and value. */
const [INFO, KEY, VALUE] = [2, 1, 2];

/** Its wire format: what may be megabytes is copied once, where the stubs would do it five times. */
export function encodeVerbose(codec: Codec, verbose: VerboseAnswer<unknown>): Buffer {
  const { answer, info, omitted } = verbose;
  const key = lengthDelimited(KEY, [Buffer.from("info")]);
  const value = lengthDelimited(VALUE, toJson(info, LIMIT_BYTES, omitted));
  return Buffer.concat([encode(codec, answer), ...lengthDelimited(INFO, [...key, ...value])]);
}

/**
 * The JSON of an object in pieces. Members that it has no room for are left out, the largest first, and
 * named in "omitted" behind those that were `before`. Exported for tests.
 */
export function toJson(
  info: object,
  limitBytes: number,
  before: readonly string[] = [],
): Uint8Array[] {
  const members = Object.entries(info).flatMap(([name, value]) => {
    const json: string | undefined = value instanceof JsonText ? "" : JSON.stringify(value);
    if (json === undefined) return [];
    const bytes = value instanceof JsonText ? value.bytes : Buffer.from(json);
    return [{ name, key: Buffer.from(`${JSON.stringify(name)}:`), value: bytes }];
  });
  const omitted = [...before];
  let bytes = members.reduce((sum, { key, value }) => sum + key.length + value.length + 1, 2);
  for (const { name, key, value } of members.toSorted((a, b) => b.value.length - a.value.length)) {
    if (bytes <= limitBytes) break;
    bytes -= key.length + value.length;
    omitted.push(name);
  }
  const kept = members.filter(({ name }) => !omitted.includes(name));
  if (omitted.length > 0) {
    kept.push({
      name: "",
      key: Buffer.from('"omitted":'),
      value: Buffer.from(JSON.stringify(omitted)),
    });
  }
  const parts = kept.flatMap(({ key, value }) => [COMMA, key, value]);
  return [OPEN, ...parts.slice(1), CLOSE];
}
