/** The archive is not a tar, is damaged, or holds something that an image layer may not hold. */
export class TarError extends Error {
  override readonly name: string = "TarError";
}

/** The archive holds more than may be unpacked: reading on would tell nothing. */
export class LimitError extends TarError {
  override readonly name = "LimitError";
}
