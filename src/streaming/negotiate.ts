/** What came of a client's offer: a protocol, or the HTTP answer that refuses it. */
export type Negotiated =
  | { protocol: string }
  | { status: 400 | 403; message: string; headers: Record<string, string> };

/**
 * Chooses the first of the client's protocols that the server knows.
 *
 * @param offered The value of X-Stream-Protocol-Version; repeated headers joined by commas.
 */
export function negotiate(offered: string | undefined, known: readonly string[]): Negotiated {
  const names = (offered ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  if (names.length === 0) {
    const message = "unable to upgrade: the header X-Stream-Protocol-Version is missing";
    return { status: 400, message, headers: {} };
  }
  const protocol = names.find((name) => known.includes(name));
  if (protocol !== undefined) return { protocol };
  return {
    status: 403,
    message: `unable to negotiate: the client speaks ${names.join(", ")}; known are ${known.join(", ")}`,
    headers: { "X-Accepted-Stream-Protocol-Versions": known.join(", ") },
  };
}
