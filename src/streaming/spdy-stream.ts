import { ClientStream, type StreamLink } from "./client-stream.ts";

/** What Kubernetes' protocols say of a stream; "" when it is not there. Nothing else is kept. */
export interface StreamHeaders {
  streamtype: string;
  port: string;
  requestid: string;
}

/** Kubernetes' own are far shorter. */
const MAX_VALUE_CHARS = 64;

/** @returns Undefined when a value is too long: a stream keeps them as long as it lives. */
export function streamHeaders(headers: ReadonlyMap<string, string>): StreamHeaders | undefined {
  const [streamtype = "", port = "", requestid = ""] = ["streamtype", "port", "requestid"].map(
    (name) => headers.get(name),
  );
  const longest = Math.max(streamtype.length, port.length, requestid.length);
  return longest > MAX_VALUE_CHARS ? undefined : { streamtype, port, requestid };
}

/** One stream of a SPDY connection. */
export class SpdyStream extends ClientStream {
  constructor(
    link: StreamLink,
    id: number,
    readonly headers: StreamHeaders,
  ) {
    super(link, id);
  }
}
