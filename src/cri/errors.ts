import { Code, ConnectError } from "@connectrpc/connect";
import { CribError, messageOf } from "../error.ts";

/** The core's error as the wire's: the only place that knows both. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof CribError) return new ConnectError(error.message, Code[error.code]);
  return new ConnectError(messageOf(error), Code.Internal);
}
