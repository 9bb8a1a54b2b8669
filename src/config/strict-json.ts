/** JSON whose meaning is certain and whose cost is known: no parser may be surprised by it. */

/**
 * Values of one document: parsed they take some milliseconds and a megabyte. The largest documents of
 * images in use have some thousand.
 */
const VALUE_LIMIT = 10_000;
const DEPTH_LIMIT = 100;

const SPACE = 0x20;
const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/**
 * Parses JSON. Refuses objects with a member that is there twice (RFC 8259, section 4): some parsers take
 * the first, some the last, and Go's puts two objects together. Refuses more than 10,000 values, or 100
 * levels, before they become objects. Throws a SyntaxError.
 */
export function parseStrictJson(text: string): unknown {
  const names = countNames(text);
  const value: unknown = JSON.parse(text);
  // Each has become a member, or the place of one that was there.
  if (countMembers(value) !== names) throw new SyntaxError("an object has a name in it twice");
  return value;
}

/** Looks at the tokens only: whether they are JSON is seen later. */
function countNames(text: string): number {
  let [names, values, depth] = [0, 0, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(text, at);
      values += 1;
    } else if (code === COLON) {
      names += 1;
    } else if (code === OPEN_BRACE || code === OPEN_BRACKET) {
      values += 1;
      depth += 1;
      if (depth > DEPTH_LIMIT) throw new SyntaxError(`more than ${DEPTH_LIMIT} levels`);
    } else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) {
      depth -= 1;
    } else if (code > SPACE && code !== COMMA) {
      // A number, true, false, null.
      values += 1;
      while (at + 1 < text.length && isInLiteral(text.charCodeAt(at + 1))) at += 1;
    }
    // Of the strings so many were names.
    if (values - names > VALUE_LIMIT) throw new SyntaxError(`more than ${VALUE_LIMIT} values`);
  }
  return names;
}

/** The index of its closing quote. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) return at;
    if (code === BACKSLASH) at += 1;
  }
  return text.length;
}

function isInLiteral(code: number): boolean {
  if (code <= SPACE || code === COMMA || code === COLON || code === QUOTE) return false;
  return code !== CLOSE_BRACE && code !== CLOSE_BRACKET;
}

function countMembers(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const members: unknown[] = Array.isArray(value) ? value : Object.values(value);
  const own = Array.isArray(value) ? 0 : members.length;
  return members.reduce((sum: number, member) => sum + countMembers(member), own);
}
