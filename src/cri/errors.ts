import { status } from "@grpc/grpc-js";
import { CribError, type ErrorCode } from "../error.ts";

const CODES: Record<ErrorCode, status> = {
  Aborted: status.ABORTED,
  AlreadyExists: status.ALREADY_EXISTS,
  Canceled: status.CANCELLED,
  DataLoss: status.DATA_LOSS,
  DeadlineExceeded: status.DEADLINE_EXCEEDED,
  FailedPrecondition: status.FAILED_PRECONDITION,
  Internal: status.INTERNAL,
  InvalidArgument: status.INVALID_ARGUMENT,
  NotFound: status.NOT_FOUND,
  PermissionDenied: status.PERMISSION_DENIED,
  ResourceExhausted: status.RESOURCE_EXHAUSTED,
  Unauthenticated: status.UNAUTHENTICATED,
  Unavailable: status.UNAVAILABLE,
  Unimplemented: status.UNIMPLEMENTED,
};

/** The wire's code of anything that was thrown. This file is the only place that knows both. */
export function statusCode(error: unknown): status {
  return error instanceof CribError ? CODES[error.code] : status.INTERNAL;
}

/** A server's answer to a client as the core's error; a code that the core has no name for is Internal. */
export function fromStatus(code: number, message: string): CribError {
  const known = Object.entries(CODES).find(([, value]) => value === code);
  return new CribError((known?.[0] ?? "Internal") as ErrorCode, message);
}
