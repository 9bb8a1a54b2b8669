import { CribError } from "../../error.ts";

/** A value that no runtime could honour. `value` is shown: never pass a secret. */
export function invalid(field: string, value: unknown, reason: string): CribError {
  return new CribError("InvalidArgument", `${field}: ${show(value)}: ${reason}`);
}

/** A value that is right and that Crib cannot honour yet. */
export function unsupported(field: string, value: unknown, reason: string): CribError {
  return new CribError("Unimplemented", `${field}: ${show(value)}: ${reason}`);
}

/** A value that is right and that this host or OCI runtime cannot honour as it is set up. */
export function impossible(field: string, value: unknown, reason: string): CribError {
  return new CribError("FailedPrecondition", `${field}: ${show(value)}: ${reason}`);
}

function show(value: unknown): string {
  if (typeof value === "bigint") return value.toString();
  return JSON.stringify(value) ?? String(value);
}
