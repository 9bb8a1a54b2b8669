import { ClientStream, type StreamLink } from "./client-stream.ts";

/** One stream of a SPDY connection. */
export class SpdyStream extends ClientStream {
  constructor(
    link: StreamLink,
    id: number,
    readonly headers: ReadonlyMap<string, string>,
  ) {
    super(link, id);
  }
}
