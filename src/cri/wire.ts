/** Protobuf's wire format where the stubs' encoder would copy too often. */
import { BinaryWriter } from "@bufbuild/protobuf/wire";

const LENGTH_DELIMITED = 2;

/** A field of bytes, text or a message, from the pieces of its value. */
export function lengthDelimited(number: number, value: readonly Uint8Array[]): Uint8Array[] {
  const length = value.reduce((sum, piece) => sum + piece.length, 0);
  const head = new BinaryWriter().uint32((number << 3) | LENGTH_DELIMITED).uint32(length);
  return [head.finish(), ...value];
}
