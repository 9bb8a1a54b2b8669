/** JSON whose meaning is certain: no member of an object is there twice (RFC 8259, section 4). */

const TOKEN = /\s*(?:([{}[\],:])|"((?:[^"\\]|\\.)*)"|[^\s{}[\],:"]+)/gy;

/**
 * Parses JSON and refuses objects with a member that is there twice, which parsers read in different
 * ways. Throws a SyntaxError.
 */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  // It is JSON, so that a look at the tokens is enough to find the names.
  const open: Array<{ names: Set<string> | undefined; expectsName: boolean }> = [];
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(text); match !== null; match = TOKEN.exec(text)) {
    const [, punctuation, string] = match;
    const current = open.at(-1);
    if (punctuation === "{") open.push({ names: new Set(), expectsName: true });
    else if (punctuation === "[") open.push({ names: undefined, expectsName: false });
    else if (punctuation === "}" || punctuation === "]") open.pop();
    else if (punctuation === "," && current?.names) current.expectsName = true;
    else if (string !== undefined && current?.names && current.expectsName) {
      const name = String(JSON.parse(`"${string}"`));
      if (current.names.has(name)) throw new SyntaxError(`${JSON.stringify(name)} is there twice`);
      current.names.add(name);
      current.expectsName = false;
    }
  }
  return value;
}
