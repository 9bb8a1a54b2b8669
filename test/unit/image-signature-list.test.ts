import { expect, test } from "bun:test";
import type { Signature } from "../../src/image/signature.ts";
import { SIGNATURE_LIMIT_BYTES, SignatureList } from "../../src/image/signature-list.ts";

const simple = (bytes: number): Signature => ({
  kind: "simple",
  message: Buffer.alloc(bytes, 7).toString("base64"),
});

function addAll(signatures: readonly Signature[]): Signature[] {
  const list = new SignatureList();
  for (const [index, signature] of signatures.entries()) list.add(signature, `here-${index}`);
  return list.all;
}

test("128 signatures of usual size are kept, one more is an error that says where it is", () => {
  const many = Array.from({ length: 128 }, () => simple(16 * 1024));
  expect(addAll(many)).toEqual(many);
  const tooMany = Array.from({ length: 129 }, () => simple(1));
  expect(() => addAll(tooMany)).toThrow("signature here-128: the image has more than 128");
});

test("a signature may have 128 KiB with all that belongs to it", () => {
  expect(addAll([simple(SIGNATURE_LIMIT_BYTES)])).toHaveLength(1);
  const longer = () => addAll([simple(SIGNATURE_LIMIT_BYTES + 1)]);
  expect(longer).toThrow("signature here-0: 131073 bytes with its certificates, at most 131072");
  const whole: Signature = { kind: "sigstore", payload: "", signature: "" };
  const text = "x".repeat(SIGNATURE_LIMIT_BYTES / 2);
  expect(addAll([{ ...whole, chain: text, bundle: text }])).toHaveLength(1);
  for (const part of ["signature", "certificate"]) {
    const parts = () => addAll([{ ...whole, chain: text, bundle: text, [part]: "y" }]);
    expect(parts).toThrow("131073 bytes");
  }
  expect(() => addAll([{ ...whole, payload: "eA==", chain: text, bundle: text }])).toThrow(
    "131073 bytes",
  );
});

test("those of an image may have 2 MiB together", () => {
  const large = Array.from({ length: 16 }, () => simple(SIGNATURE_LIMIT_BYTES));
  expect(addAll(large)).toHaveLength(16);
  expect(() => addAll([...large, simple(1)])).toThrow("more than 2097152 bytes");
});
