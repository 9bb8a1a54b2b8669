/** The frames of a zstd stream (RFC 8878, section 3.1), walked without decoding: how large is their window? */

/** That of the best level of Go's encoder. zstd's own limit, 128 MiB, is more than a whole pull may take. */
export const WINDOW_LIMIT_LOG = 25;

const MAGIC = 0xfd2fb528;
/** The last four bits are free. */
const SKIPPABLE_MAGIC = 0x184d2a50;
const HEADER_LIMIT_BYTES = 14;
const CHECKSUM_BYTES = 4;
/** By the flags of the frame's header. */
const DICTIONARY_BYTES = [0, 1, 2, 4];
const CONTENT_SIZE_BYTES = [0, 2, 4, 8];

type State = "magic" | "skippable" | "descriptor" | "header" | "block" | "foreign";

/** A push parser. What is no zstd, or no longer, it passes over: the decoder tells what is wrong. */
export class ZstdFrames {
  readonly #field = Buffer.alloc(HEADER_LIMIT_BYTES);
  #filled = 0;
  #wanted = 4;
  /** Bytes to pass over before the field that is wanted. */
  #skip = 0;
  #state: State = "magic";
  #descriptor = 0;

  /** Takes the next bytes; returns the largest window, in bytes, of the frames whose headers they end, else 0. */
  push(chunk: Uint8Array): number {
    let largest = 0;
    for (let offset = 0; offset < chunk.length && this.#state !== "foreign"; ) {
      const skipped = Math.min(this.#skip, chunk.length - offset);
      this.#skip -= skipped;
      offset += skipped;
      const end = Math.min(offset + this.#wanted - this.#filled, chunk.length);
      this.#field.set(chunk.subarray(offset, end), this.#filled);
      this.#filled += end - offset;
      offset = end;
      if (this.#filled === this.#wanted) largest = Math.max(largest, this.#take());
    }
    return largest;
  }

  #want(state: State, bytes: number, skip = 0): void {
    this.#state = state;
    this.#wanted = bytes;
    this.#skip = skip;
    this.#filled = 0;
  }

  /** Reads the field that is complete; returns the window when it is a frame's header. */
  #take(): number {
    const field = this.#field;
    switch (this.#state) {
      case "magic": {
        const magic = field.readUInt32LE(0);
        if (magic === MAGIC) this.#want("descriptor", 1);
        else if ((magic & ~0xf) >>> 0 === SKIPPABLE_MAGIC) this.#want("skippable", 4);
        else this.#want("foreign", 0);
        return 0;
      }
      case "skippable":
        this.#want("magic", 4, field.readUInt32LE(0));
        return 0;
      case "descriptor":
        this.#descriptor = field.readUInt8(0);
        this.#want("header", headerBytes(this.#descriptor));
        return 0;
      case "header": {
        const window = windowOf(this.#descriptor, field.subarray(0, this.#wanted));
        this.#want("block", 3);
        return window;
      }
      case "block":
        this.#block(field.readUIntLE(0, 3));
        return 0;
      case "foreign":
        return 0;
    }
  }

  #block(header: number): void {
    const type = (header >> 1) & 3;
    // One byte, repeated.
    const size = type === 1 ? 1 : header >> 3;
    if (type === 3) this.#want("foreign", 0);
    else if ((header & 1) === 0) this.#want("block", 3, size);
    else this.#want("magic", 4, size + (hasChecksum(this.#descriptor) ? CHECKSUM_BYTES : 0));
  }
}

const isSingleSegment = (descriptor: number) => (descriptor & 0x20) !== 0;
const hasChecksum = (descriptor: number) => (descriptor & 0x04) !== 0;

function contentSizeBytes(descriptor: number): number {
  if (isSingleSegment(descriptor) && descriptor >> 6 === 0) return 1;
  return CONTENT_SIZE_BYTES[descriptor >> 6] ?? 0;
}

function headerBytes(descriptor: number): number {
  const dictionary = DICTIONARY_BYTES[descriptor & 3] ?? 0;
  return (isSingleSegment(descriptor) ? 0 : 1) + dictionary + contentSizeBytes(descriptor);
}

/** `header` is what follows the descriptor. */
function windowOf(descriptor: number, header: Buffer): number {
  if (isSingleSegment(descriptor)) {
    const size = contentSizeBytes(descriptor);
    const offset = header.length - size;
    if (size === 8) return Number(header.readBigUInt64LE(offset));
    return header.readUIntLE(offset, size) + (size === 2 ? 256 : 0);
  }
  const byte = header.readUInt8(0);
  const base = 2 ** (10 + (byte >> 3));
  return base + (base / 8) * (byte & 7);
}
