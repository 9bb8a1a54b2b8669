/** At the most, of one failure: its message stands at the beginning. */
const MAX_LINES = 40;

/**
 * Picks the failures out of what a test run prints: each line marked ✗ with what is indented below it. A run
 * that failed without such a line failed by what it said last.
 */
export function failuresIn(printed: string): string[] {
  const lines = printed.split("\n");
  const found: string[] = [];
  let left = 0;
  for (const line of lines) {
    if (/^\s*✗ /.test(line)) left = MAX_LINES;
    else if (line !== "" && !line.startsWith("      ")) left = 0;
    if (left-- > 0) found.push(line);
  }
  return found.length > 0 ? found : lines.filter((line) => line.trim() !== "").slice(-20);
}
