import { CribError } from "../error.ts";

/** @throws CribError InvalidArgument when the field is empty. */
export function requireId(field: string, id: string): string {
  if (id === "") throw new CribError("InvalidArgument", `${field}: "" is empty`);
  return id;
}
