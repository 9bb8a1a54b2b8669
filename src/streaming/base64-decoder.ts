/** Decodes base64 (RFC 4648, padded) that comes in pieces. */
export class Base64Decoder {
  /** Fewer than four characters: they do not tell all of their bytes yet. */
  #rest = "";
  #padded = false;

  /** @returns The bytes that can be told by now; undefined when this is no base64. */
  decode(piece: Buffer, last: boolean): Buffer | undefined {
    const text = this.#rest + piece.toString("latin1");
    const end = text.length - (text.length % 4);
    const whole = text.slice(0, end);
    this.#rest = text.slice(end);
    const valid = /^[A-Za-z0-9+/]*={0,2}$/.test(whole) && !(this.#padded && text !== "");
    if (!valid || (last && this.#rest !== "")) return undefined;
    this.#padded ||= whole.endsWith("=");
    return Buffer.from(whole, "base64");
  }
}
