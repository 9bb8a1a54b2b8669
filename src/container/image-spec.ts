import { CribError } from "../error.ts";
import type { ImageSpec } from "../gen/runtime/v1/common_pb.ts";
import type { Core } from "./core.ts";

/**
 * The image that a request names.
 *
 * @param field Where the spec is, for messages: "config.image".
 * @throws CribError InvalidArgument: no name, and as `checkImage`.
 */
export function requireImage(
  core: Pick<Core, "handlers">,
  spec: ImageSpec | undefined,
  field: string,
): string {
  checkImage(core, spec, field);
  const image = spec?.image ?? "";
  if (image === "") throw new CribError("InvalidArgument", `${field}.image: "" is empty`);
  return image;
}

/**
 * What a request says of an image beside its name. All handlers run the same images: a known one changes
 * nothing.
 *
 * @throws CribError InvalidArgument: an unknown runtime handler, or a field of answers.
 */
export function checkImage(
  { handlers }: Pick<Core, "handlers">,
  spec: ImageSpec | undefined,
  field: string,
): void {
  const { imageRef = "", runtimeHandler = "" } = spec ?? {};
  if (imageRef !== "") {
    const text = `${field}.image_ref: "${imageRef}": only answers have it; image names the image`;
    throw new CribError("InvalidArgument", text);
  }
  handlers.requireKnown(runtimeHandler, `${field}.runtime_handler`);
}
