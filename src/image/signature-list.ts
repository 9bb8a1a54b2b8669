/** How many signatures an image may have, and how long they may be: all are kept with the image. */
import { CribError } from "../error.ts";
import type { Signature } from "./signature.ts";

/** As containers/image, which allows 4 MiB for each of them; the largest in use have some 20 KiB. */
const COUNT_LIMIT = 128;
export const SIGNATURE_LIMIT_BYTES = 128 * 1024;
const TOTAL_LIMIT_BYTES = 2 * 1024 * 1024;

export class SignatureList {
  readonly all: Signature[] = [];
  #bytes = 0;

  /**
   * Adds what was found at `where`.
   *
   * @throws CribError FailedPrecondition: too long, or one too many.
   */
  add(signature: Signature, where: string): void {
    const bytes = lengthOf(signature);
    this.#bytes += bytes;
    const refuse = (why: string) => {
      throw new CribError("FailedPrecondition", `signature ${where}: ${why}`);
    };
    if (bytes > SIGNATURE_LIMIT_BYTES) {
      refuse(`${bytes} bytes with its certificates, at most ${SIGNATURE_LIMIT_BYTES}`);
    }
    if (this.all.length === COUNT_LIMIT) refuse(`the image has more than ${COUNT_LIMIT}`);
    if (this.#bytes > TOTAL_LIMIT_BYTES) {
      refuse(`those of the image have more than ${TOTAL_LIMIT_BYTES} bytes`);
    }
    this.all.push(signature);
  }
}

/** In bytes, those in base64 decoded. */
function lengthOf(signature: Signature): number {
  if (signature.kind === "simple") return Buffer.byteLength(signature.message, "base64");
  const { payload, signature: made, certificate = "", chain = "", bundle = "" } = signature;
  const texts = [made, certificate, chain, bundle].map((text) => Buffer.byteLength(text));
  return texts.reduce((sum, bytes) => sum + bytes, Buffer.byteLength(payload, "base64"));
}
