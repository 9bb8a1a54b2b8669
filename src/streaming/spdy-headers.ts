/** SPDY/3.1 header blocks: zlib with a dictionary that both sides know. Bytes in, names and values out. */
import { inflateRawSync, constants as zlib } from "node:zlib";
import { messageOf } from "../error.ts";
import { malformed } from "./spdy-frames.ts";

/** What a block may inflate to; Kubernetes' have a hundred bytes. */
const MAX_BLOCK_BYTES = 4 * 1024;
/** How far back deflate may refer. */
const WINDOW_BYTES = 32 * 1024;
/** zlib's header of two bytes and the dictionary's checksum. */
const ZLIB_HEADER_BYTES = 6;
/** How zlib ends what was flushed: an empty stored block. */
const SYNC_MARKER = Buffer.from([0, 0, 0xff, 0xff]);

/**
 * Reads the header blocks of one direction of a connection. Each refers to those before it, so all of
 * them have to pass through here, in order, also those of streams that are refused.
 */
export class HeaderReader {
  /** The last 32 KiB of what was read. */
  #history: Buffer = spdyDictionary();
  #started = false;

  /**
   * The block's headers. Names are in lower case; several values of a name are joined by NUL.
   *
   * @throws CribError InvalidArgument. The connection cannot go on, since the history is lost.
   */
  read(block: Buffer): Map<string, string> {
    const inflated = this.#inflate(this.#started ? block : withoutZlibHeader(block));
    this.#started = true;
    this.#history = Buffer.concat([this.#history, inflated]).subarray(-WINDOW_BYTES);
    return parseHeaders(inflated);
  }

  /** As each block ends on a byte, none needs the inflater of the one before. */
  #inflate(block: Buffer): Buffer {
    if (!block.subarray(-SYNC_MARKER.length).equals(SYNC_MARKER)) {
      throw malformed("header block that does not end in a sync flush");
    }
    try {
      return inflateRawSync(block, {
        dictionary: this.#history,
        finishFlush: zlib.Z_SYNC_FLUSH,
        maxOutputLength: MAX_BLOCK_BYTES,
      });
    } catch (error) {
      throw malformed(`header block: ${messageOf(error)}`);
    }
  }
}

function withoutZlibHeader(block: Buffer): Buffer {
  const valid =
    block.length >= ZLIB_HEADER_BYTES &&
    (block.readUInt8(0) & 0x0f) === 8 &&
    (block.readUInt8(1) & 0x20) !== 0 &&
    block.readUInt32BE(2) === DICTIONARY_ADLER32;
  if (!valid) throw malformed("header block that does not begin with SPDY's dictionary");
  return block.subarray(ZLIB_HEADER_BYTES);
}

function parseHeaders(bytes: Buffer): Map<string, string> {
  let offset = 0;
  const u32 = () => {
    if (offset + 4 > bytes.length) throw malformed("header block: cut short");
    offset += 4;
    return bytes.readUInt32BE(offset - 4);
  };
  const text = () => {
    const length = u32();
    if (offset + length > bytes.length) throw malformed("header block: cut short");
    offset += length;
    return bytes.toString("utf8", offset - length, offset);
  };
  const headers = new Map<string, string>();
  for (let left = u32(); left > 0; left -= 1) {
    const name = text();
    if (name === "" || name !== name.toLowerCase()) {
      throw malformed(`header name ${JSON.stringify(name)} is not in lower case`);
    }
    if (headers.has(name)) throw malformed(`header ${JSON.stringify(name)} twice`);
    headers.set(name, text());
  }
  if (offset !== bytes.length) throw malformed("header block: more than its headers");
  return headers;
}

export const DICTIONARY_ADLER32 = 0xe3c6a7c2;

const DICTIONARY_WORDS = `options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges
  age allow authorization cache-control connection content-base content-encoding content-language
  content-length content-location content-md5 content-range content-type date etag expect expires from host
  if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards
  pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer
  transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200~OK version
  HTTP/1.1 url public set-cookie keep-alive origin`;

const DICTIONARY_TAIL =
  "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505" +
  "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized" +
  "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable" +
  "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT" +
  "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain," +
  "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/** The protocol's dictionary, section 2.6.10.1: words with their lengths, then text. */
export function spdyDictionary(): Buffer {
  const words = DICTIONARY_WORDS.split(/\s+/).map((word) => {
    const bytes = Buffer.from(`\0\0\0\0${word.replace("~", " ")}`, "latin1");
    bytes.writeUInt32BE(bytes.length - 4, 0);
    return bytes;
  });
  return Buffer.concat([...words, Buffer.from(DICTIONARY_TAIL, "latin1")]);
}
