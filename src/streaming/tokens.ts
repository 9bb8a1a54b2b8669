import { randomBytes } from "node:crypto";
import { CribError } from "../error.ts";

/** kubelet connects at once; kubectl's slowest proxies take seconds. */
const LIFETIME_MS = 60_000;
const LIMIT = 1_000;
const TOKEN_BYTES = 16;

/**
 * What may be asked for by who knows a token: each is good once, for a minute, and cannot be guessed.
 *
 * @example const token = tokens.issue(request); tokens.take(token); // the request; then undefined
 */
export class Tokens<Value> {
  /** Oldest first: all live equally long. */
  readonly #entries = new Map<string, { value: Value; expiresMs: number }>();
  #timer: Timer | undefined;

  constructor(private readonly nowMs: () => number = () => performance.now()) {}

  /** @throws CribError ResourceExhausted: 1,000 tokens wait for their use. */
  issue(value: Value): string {
    this.#dropExpired();
    if (this.#entries.size >= LIMIT) {
      throw new CribError(
        "ResourceExhausted",
        `${LIMIT} streaming requests wait for their clients`,
      );
    }
    const token = randomBytes(TOKEN_BYTES).toString("base64url");
    this.#entries.set(token, { value, expiresMs: this.nowMs() + LIFETIME_MS });
    this.#timer ??= setTimeout(() => this.#expire(), LIFETIME_MS).unref();
    return token;
  }

  /** Those that wait for their use. */
  get size(): number {
    return this.#entries.size;
  }

  /** Whether `take` would find it. */
  has(token: string): boolean {
    this.#dropExpired();
    return this.#entries.has(token);
  }

  /** What the token stands for, once; undefined when it is unknown, used or too old. */
  take(token: string): Value | undefined {
    this.#dropExpired();
    const entry = this.#entries.get(token);
    this.#entries.delete(token);
    return entry?.value;
  }

  /** What nobody came for can have megabytes. */
  #expire(): void {
    this.#dropExpired();
    this.#timer = this.size > 0 ? setTimeout(() => this.#expire(), LIFETIME_MS).unref() : undefined;
  }

  #dropExpired(): void {
    const now = this.nowMs();
    for (const [token, { expiresMs }] of this.#entries) {
      if (expiresMs > now) return;
      this.#entries.delete(token);
    }
  }
}
