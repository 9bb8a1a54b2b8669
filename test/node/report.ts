/** Begins the note of a case that found out while it ran that it cannot be: `bun test` cannot skip it then. */
export const SKIPPED = "note: skipped";

/** Reads what `bun test` prints in the virtual machine and prints one line for each case as it ends. */
export class Report {
  readonly #print: (line: string) => void;
  /** Prints what is held back: of a file that did not come to its end, say. */
  readonly flush: () => void;
  /** Of the current file, when they are printed together at its end. */
  #lines: string[] = [];
  /** What the current case printed, so far. */
  #said: string[] = [];
  #over = false;
  #ended = new Map<string, number>();
  #skipped = 0;

  /** @param live print lines as they come; false: each file's at its end, as other machines print too. */
  constructor(print: (line: string) => void, live = true) {
    this.#print = live ? print : (line) => this.#lines.push(line);
    this.flush = () => {
      for (const line of this.#lines.splice(0)) print(line);
    };
  }

  /** Files that ended, with the exit status of `bun test`. */
  get ended(): ReadonlyMap<string, number> {
    return this.#ended;
  }

  /** Cases that passed because they were skipped inside, with a reason that is permitted. */
  get skipped(): number {
    return this.#skipped;
  }

  /** One line from the guest: of `bun test`, or "::file NAME" and "::end NAME STATUS" of run-cases.sh. */
  line(raw: string): void {
    const line = raw.trimEnd();
    const [, mark, rest = ""] = /^::(file|end|boot|cut) ?(.*)$/.exec(line) ?? [];
    if (mark === "file") this.#startFile(rest);
    else if (mark === "end") this.#endFile(rest);
    else if (mark !== undefined) this.#print(mark === "cut" ? "\n(power cut)" : "\n(reboot)");
    else this.#testLine(line);
  }

  #testLine(line: string): void {
    // From here on it repeats itself.
    if (/^\d+ tests? failed:$/.test(line)) this.#over = true;
    if (this.#over) return;
    const [, verdict, name = "", ms] =
      /^\((pass|fail|skip|todo)\) (.*?)(?: \[([\d.]+)ms\])?$/.exec(line) ?? [];
    if (verdict === undefined) {
      if (!/^$|^bun test v|^\S+\.test\.js:$/.test(line)) this.#said.push(line);
      return;
    }
    const isSkipped = verdict === "pass" && this.#said.some((it) => it.startsWith(SKIPPED));
    if (isSkipped) this.#skipped += 1;
    const sign = isSkipped ? "-" : ({ pass: "✓", fail: "✗" }[verdict] ?? "-");
    const seconds = ms === undefined ? "" : `  ${(Number(ms) / 1000).toFixed(1)} s`;
    this.#print(`  ${sign} ${name}${seconds}`);
    for (const it of this.#said) {
      if (verdict === "fail" || it.startsWith("note: ")) this.#print(`      ${it}`);
    }
    this.#said = [];
  }

  #startFile(name: string): void {
    this.#over = false;
    this.#said = [];
    this.#print(`\n${name}`);
  }

  #endFile(rest: string): void {
    const [name = "", status = ""] = rest.split(" ");
    this.#ended.set(name, Number(status));
    // An error outside of a case comes after the last one.
    if (status !== "0") for (const it of this.#said) this.#print(`      ${it}`);
    this.#said = [];
    this.flush();
  }
}
