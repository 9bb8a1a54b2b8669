/** The archive is not a tar, is damaged, or holds something that an image layer may not hold. */
export class TarError extends Error {
  override readonly name = "TarError";
}
