/** The `info` map of a verbose answer: one JSON document under "info", as the peers have it. */
export function infoOf(verbose: boolean, info: () => unknown): Record<string, string> {
  return verbose ? { info: JSON.stringify(info()) } : {};
}
