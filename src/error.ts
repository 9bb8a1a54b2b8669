/**
 * The gRPC status names that Crib answers with (https://grpc.io/docs/guides/status-codes/).
 * Only `src/cri` turns them into wire codes.
 */
export type ErrorCode =
  | "Aborted"
  | "AlreadyExists"
  | "Canceled"
  | "DataLoss"
  | "DeadlineExceeded"
  | "FailedPrecondition"
  | "Internal"
  | "InvalidArgument"
  | "NotFound"
  | "PermissionDenied"
  | "ResourceExhausted"
  | "Unauthenticated"
  | "Unavailable"
  | "Unimplemented";

/**
 * The one error of the core. The message names what failed, the field and the value, and the cause;
 * it is shown to users as it stands, so it holds no secret.
 *
 * @example throw new CribError("InvalidArgument", `metadata.name: "" is empty`);
 */
export class CribError extends Error {
  override readonly name = "CribError";

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
