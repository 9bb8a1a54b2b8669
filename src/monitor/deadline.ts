import { CribError } from "../error.ts";

/** Rejects with DeadlineExceeded when `promise` takes longer. */
export async function withDeadline<T>(
  promise: Promise<T>,
  limitMs: number,
  what: string,
): Promise<T> {
  let timer: Timer | undefined;
  const expiry = new Promise<never>((_, reject) => {
    const text = `${what}: not done within ${limitMs} ms`;
    timer = setTimeout(() => reject(new CribError("DeadlineExceeded", text)), limitMs);
  });
  try {
    return await Promise.race([promise, expiry]);
  } finally {
    clearTimeout(timer);
  }
}
