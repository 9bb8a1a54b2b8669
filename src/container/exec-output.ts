/**
 * Memory for what commands say whose callers want it all in one answer (ExecSync). One pool is shared by
 * all of them: the first bytes of each find room at once, a probe's in any case; more only one command may
 * have at a time, until its answer is sent. The monitors hold up the others' output meanwhile.
 */
import { messageOf } from "../error.ts";
import type { SetFlow } from "../monitor/types.ts";
import { log } from "../observe/log.ts";

/** What each command may have beside all others. The kubelet takes 10 KiB of a probe's output. */
const SMALL_BYTES = 256 * 1024;
/** What all of these parts may take together. */
const SMALL_TOTAL_BYTES = 16 * 1024 * 1024;
/** How long a command's output is held up for others'; then what is kept of it is all that is told. */
const WAIT_MS = 10_000;
/** It must not be for others that a command misses its own deadline: a part of that is waited for at most. */
const WAIT_PART = 4;

/** The room for all commands. */
export class OutputPool {
  #smallBytes = SMALL_TOTAL_BYTES;
  #hasTurn = false;
  readonly #waiting = new Set<() => void>();

  /** Room of the part that all share; false: there is not so much. */
  take(bytes: number): boolean {
    if (bytes > this.#smallBytes) return false;
    this.#smallBytes -= bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#smallBytes += bytes;
  }

  /** The turn of having much output, if nobody has it. */
  tryTurn(): boolean {
    if (this.#hasTurn) return false;
    this.#hasTurn = true;
    return true;
  }

  /** The same, as soon as it comes; returns what takes back the question. */
  turn(granted: () => void): () => void {
    this.#waiting.add(granted);
    return () => this.#waiting.delete(granted);
  }

  endTurn(): void {
    const [next] = this.#waiting;
    if (next === undefined) this.#hasTurn = false;
    else {
      this.#waiting.delete(next);
      next();
    }
  }
}

export interface OutputOptions {
  /** Of stdout and stderr together: their sum must fit into one answer. */
  limitBytes: number;
  /** The command's own deadline; 0: none. */
  timeoutMs: number;
  /** Names the command in the log. */
  command: string;
}

/**
 * What one command has said: up to the limit; what comes after it is dropped, the process is not held up.
 * In this order: few bytes are kept; others have the turn, so its output is held up; it has the turn; it
 * was held up for too long, and nothing more is kept.
 */
export class KeptOutput {
  readonly stdout: Uint8Array[] = [];
  readonly stderr: Uint8Array[] = [];
  #state: "small" | "waiting" | "large" | "cut" | "closed" = "small";
  #bytes = 0;
  /** Of the pool's shared part. */
  #smallBytes = 0;
  #stopWaiting = () => {};
  #warned = false;

  constructor(
    readonly pool: OutputPool,
    readonly options: OutputOptions,
  ) {}

  /** Keeps a copy. */
  add(chunks: Uint8Array[], chunk: Uint8Array, setFlow: SetFlow): void {
    if (this.#state === "cut" || this.#state === "closed") return;
    // Not `slice`: of a Buffer that is a view, which keeps all that was read with it.
    const kept = new Uint8Array(chunk.subarray(0, this.options.limitBytes - this.#bytes));
    if (kept.length < chunk.length) this.#cut("container.exec_output_limit_bytes", setFlow);
    if (kept.length === 0) return;
    chunks.push(kept);
    this.#bytes += kept.length;
    if (this.#state === "small" && !this.#isSmall(kept.length)) this.#grow(setFlow);
  }

  /** Forgets what was kept: it is in the answer now. */
  clear(): void {
    this.stdout.length = this.stderr.length = 0;
  }

  /** The answer is sent, or nobody wants it. Idempotent. */
  close(): void {
    this.clear();
    if (this.#state === "large") this.pool.endTurn();
    this.pool.giveBack(this.#smallBytes);
    this.#smallBytes = 0;
    this.#state = "closed";
    this.#stopWaiting();
  }

  #isSmall(bytes: number): boolean {
    if (this.#bytes > SMALL_BYTES || !this.pool.take(bytes)) return false;
    this.#smallBytes += bytes;
    return true;
  }

  #grow(setFlow: SetFlow): void {
    if (this.pool.tryTurn()) {
      this.#state = "large";
      return;
    }
    this.#state = "waiting";
    const { timeoutMs } = this.options;
    const waitMs = timeoutMs === 0 ? WAIT_MS : Math.min(WAIT_MS, timeoutMs / WAIT_PART);
    const late = setTimeout(() => this.#leave("cut", setFlow), waitMs);
    const takeBack = this.pool.turn(() => this.#leave("large", setFlow));
    this.#stopWaiting = () => {
      clearTimeout(late);
      takeBack();
    };
    // The monitor of a pod that an older Crib has made cannot.
    setFlow("held").catch((error: unknown) => this.#leave("cut", setFlow, messageOf(error)));
  }

  #leave(state: "large" | "cut", setFlow: SetFlow, why = "others' output took its room"): void {
    if (this.#state !== "waiting") return;
    this.#state = state;
    this.#stopWaiting();
    if (state === "cut") this.#cut(why, setFlow);
    else setFlow("on").catch(() => undefined);
  }

  /** Nothing more is kept, so that the monitor need not send it. */
  #cut(why: string, setFlow: SetFlow): void {
    if (this.#warned) return;
    this.#warned = true;
    const { command } = this.options;
    log().warn({ command, bytes: this.#bytes, why }, "output of a command is cut");
    setFlow("dropped")
      // The monitor of a pod that an older Crib has made sends all of it.
      .catch(() => setFlow("on"))
      .catch(() => undefined);
  }
}
