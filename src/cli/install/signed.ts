/**
 * Files that `crib install` writes carry a first line with the digest of the rest, so that a later
 * install or uninstall knows whether somebody has changed them since.
 */
import { createHash } from "node:crypto";

const HEADER = /^# Written by crib install; sha256:([0-9a-f]{64})\n/;

/** "ours": as Crib wrote it; "edited": by Crib, then changed; "foreign": by somebody else. */
export type Authorship = "ours" | "edited" | "foreign";

export function sign(body: string): string {
  return `# Written by crib install; sha256:${digest(body)}\n${body}`;
}

export function authorshipOf(text: string): Authorship {
  const header = HEADER.exec(text);
  if (header === null) return "foreign";
  return header[1] === digest(text.slice(header[0].length)) ? "ours" : "edited";
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
