/** What the demo prints: one line for each step, with what came of it and how long it took. */

const terminal = process.stdout.isTTY === true;
const paint = (code: string) => (text: string) => (terminal ? `\x1b[${code}m${text}\x1b[0m` : text);
const green = paint("32");
const red = paint("31");
const dim = paint("2");

const NAME_COLUMNS = 32;
const RESULT_COLUMNS = 47;

export class Steps {
  /** Prints "✓ NAME  RESULT  SECONDS" when `body` is done; what it throws is printed, then thrown on. */
  async run(name: string, body: () => Promise<string>): Promise<void> {
    if (terminal) process.stdout.write(dim(`… ${name}`));
    const started = performance.now();
    const erase = terminal ? "\r\x1b[K" : "";
    try {
      const result = await body();
      const seconds = ((performance.now() - started) / 1000).toFixed(2);
      const line = `${name.padEnd(NAME_COLUMNS)} ${result.padEnd(RESULT_COLUMNS)}`;
      console.log(`${erase}${green("✓")} ${line} ${dim(`${seconds.padStart(6)} s`)}`);
    } catch (error) {
      process.stdout.write(erase);
      this.fail(name, error);
      throw error;
    }
  }

  fail(name: string, error: unknown): void {
    console.log(`${red("✗")} ${name}`);
    this.quote(error instanceof Error ? error.message : String(error));
  }

  /** What a program or a log said, below the step that it belongs to. */
  quote(text: string): void {
    for (const line of text.trimEnd().split("\n")) console.log(`    ${dim(line)}`);
  }

  say(text: string): void {
    console.log(text);
  }
}
