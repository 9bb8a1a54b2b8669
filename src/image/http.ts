/** HTTP for registries: bounded, cancellable, never silent for longer than the no-progress time. */
import { CribError, messageOf } from "../error.ts";

const LOOPBACK = "localhost,127.0.0.0/8,::1";
const RETRY_AFTER_LIMIT_MS = 30_000;
/** Fewer bytes in all of the no-progress time are none. */
const PROGRESS_BYTES = 1024;

/** TLS as fetch takes it: PEM texts. */
export interface TlsOptions {
  ca?: string[];
  cert?: string;
  key?: string;
}

export interface RequestOptions {
  headers?: Record<string, string>;
  method?: "GET" | "POST";
  body?: string;
  /** Whether the certificates of a host ("name:port") are not checked; absent: all are. */
  insecure?: (host: string) => boolean;
  /** Which certificates count with a host ("name:port"); absent: the built-in CAs. */
  tls?: (host: string) => TlsOptions;
  /** The longest time without headers, or for another 1024 bytes of the body. */
  noProgressMs: number;
  signal: AbortSignal;
}

/** A registry that could not be reached, or asked to come back later. */
export class UnavailableError extends CribError {
  constructor(
    message: string,
    readonly retryAfterMs = 0,
    options?: { cause?: unknown },
  ) {
    super("Unavailable", message, options);
  }
}

export interface HttpResponse {
  status: number;
  headers: Headers;
  url: string;
  /**
   * The body as it comes; a broken connection throws `UnavailableError`. Call once. Each piece is lent until
   * the next one is asked for; then its memory is gone.
   */
  chunks(): AsyncGenerator<Uint8Array, void, void>;
  /** Ends the connection; for a body that is not wanted. */
  discard(): void;
}

/**
 * Makes one request. Redirects are not followed.
 *
 * @throws CribError Unavailable (`UnavailableError`): worth another try; DeadlineExceeded: no progress;
 *   Canceled, or the signal's own reason. The body's iterator throws the same.
 */
export async function request(url: string, options: RequestOptions): Promise<HttpResponse> {
  const { signal, noProgressMs } = options;
  throwIfAborted(signal);
  const controller = new AbortController();
  const abort = () => controller.abort();
  signal.addEventListener("abort", abort, { once: true });
  let timedOut = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watch = (limitMs = noProgressMs) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      timedOut = true;
      controller.abort();
    }, limitMs);
  };
  const finish = () => {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  };
  const fail = (error: unknown): CribError => {
    finish();
    controller.abort();
    if (signal.aborted) return canceled(signal);
    const { origin } = new URL(url);
    if (timedOut) {
      const why = `no progress for ${noProgressMs / 1000} seconds`;
      return new CribError("DeadlineExceeded", `${origin}: ${why}`, { cause: error });
    }
    return new UnavailableError(`${origin}: ${describe(error)}`, 0, { cause: error });
  };
  watch();
  let response: Response;
  try {
    response = await fetch(url, {
      method: options.method ?? "GET",
      headers: { "User-Agent": "crib", "Accept-Encoding": "identity", ...options.headers },
      body: options.body,
      redirect: "manual",
      decompress: false,
      signal: controller.signal,
      tls: tlsFor(url, options),
    });
  } catch (error) {
    throw fail(error);
  }
  clearTimeout(timer);
  return {
    status: response.status,
    headers: response.headers,
    url,
    async *chunks() {
      const reader = response.body?.getReader();
      // A server that sends a byte now and then makes no progress either.
      let [bytes, waitedMs] = [0, 0];
      try {
        while (reader !== undefined) {
          const since = performance.now();
          watch(Math.max(1, noProgressMs - waitedMs));
          const { done, value } = await reader.read();
          clearTimeout(timer);
          if (done) break;
          waitedMs += performance.now() - since;
          bytes += value?.length ?? 0;
          if (bytes >= PROGRESS_BYTES) [bytes, waitedMs] = [0, 0];
          if (value === undefined) continue;
          yield value;
          // Freed at once: a collection comes only when there are some 30 MB of them.
          if (value.byteLength === value.buffer.byteLength) value.buffer.transfer(0);
        }
      } catch (error) {
        throw fail(error);
      } finally {
        finish();
        controller.abort();
      }
    },
    discard() {
      finish();
      controller.abort();
    },
  };
}

function tlsFor(url: string, { tls, insecure }: RequestOptions) {
  if (!url.startsWith("https:")) return {};
  const { host } = new URL(url);
  return { rejectUnauthorized: insecure?.(host) !== true, ...tls?.(host) };
}

/**
 * When a Retry-After header (RFC 9110, section 10.2.3: seconds or a date) wants to be asked again, in
 * milliseconds from now; at most half a minute, for a kubelet comes again by itself.
 */
export function retryAfterMs(header: string | null, nowMs = Date.now()): number {
  const text = header?.trim() ?? "";
  const wanted = /^\d{1,9}$/.test(text)
    ? Number(text) * 1000
    : Date.parse(/^[A-Za-z]{3}/.test(text) ? text : "") - nowMs;
  return Number.isNaN(wanted) ? 0 : Math.min(Math.max(0, wanted), RETRY_AFTER_LIMIT_MS);
}

export const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];
export const REDIRECT_LIMIT = 5;

/**
 * Where an answer sends its caller: to https anywhere; to plain http only on hosts ("name:port") where
 * that is `plainAllowed`, or when it is already used. Never to a file or the like.
 *
 * @throws CribError FailedPrecondition; `what` names who was asked.
 */
export function redirectTarget(
  response: HttpResponse,
  plainAllowed: (host: string) => boolean,
  what: string,
): string {
  const location = response.headers.get("location") ?? "";
  const { url } = response;
  const target = URL.canParse(location, url) ? new URL(location, url) : undefined;
  if (target?.protocol === "https:") return target.href;
  const plain = target?.protocol === "http:" ? target : undefined;
  if (plain && (url.startsWith("http:") || plainAllowed(plain.host))) return plain.href;
  const shown = JSON.stringify(location.slice(0, 100));
  throw new CribError(
    "FailedPrecondition",
    `${what}: redirects to ${shown}, which is not followed`,
  );
}

/** The whole body. Throws a `CribError` DataLoss when it is longer than `limitBytes`. */
export async function readBody(
  response: HttpResponse,
  limitBytes: number,
  what: string,
): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of response.chunks()) {
    length += piece.length;
    if (length > limitBytes) {
      throw new CribError("DataLoss", `${what}: longer than ${limitBytes} bytes`);
    }
    pieces.push(Buffer.from(piece));
  }
  return Buffer.concat(pieces);
}

/**
 * Bun's fetch takes proxies from HTTP_PROXY, HTTPS_PROXY and NO_PROXY (names, suffixes, CIDRs, ports).
 * As all tools written in Go do, Crib never asks a proxy for what is on this machine.
 */
export function exemptLoopback(env: Record<string, string | undefined> = process.env): void {
  const name = env.no_proxy === undefined ? "NO_PROXY" : "no_proxy";
  const before = env[name] ?? "";
  if (before.includes(LOOPBACK)) return;
  env[name] = before === "" ? LOOPBACK : `${before},${LOOPBACK}`;
}

/** The error of a signal that was aborted: its own reason when that is a `CribError`. */
export function canceled(signal: AbortSignal): CribError {
  return signal.reason instanceof CribError
    ? signal.reason
    : new CribError("Canceled", "the pull was cancelled");
}

export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw canceled(signal);
}

/** Waits; returns at once (by throwing `canceled`) when the signal is aborted. */
export async function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  throwIfAborted(signal);
  let abort = () => {};
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, durationMs);
    abort = () => {
      clearTimeout(timer);
      resolve();
    };
    signal.addEventListener("abort", abort, { once: true });
  });
  signal.removeEventListener("abort", abort);
  throwIfAborted(signal);
}

function describe(error: unknown): string {
  const code = (error as { code?: unknown }).code;
  const message = messageOf(error);
  return typeof code === "string" && !message.includes(code) ? `${code}: ${message}` : message;
}
