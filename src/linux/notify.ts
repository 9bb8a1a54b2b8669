/**
 * The service manager's notification socket: sd_notify(3). A datagram socket, which Bun does not have,
 * so through libc.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { monotonicNs } from "./clock.ts";
import { codeOf } from "./errno.ts";
import { buffer, check, cstring, libc } from "./libc.ts";

const c = libc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
  close: { args: ["i32"], returns: "i32" },
});

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** sun_path of sockaddr_un(7), with its NUL. */
const SUN_PATH_BYTES = 108;
/** The manager reads its queue when it gets to it: after a boot that may take a moment. */
const TRIES = 20;
const PAUSE_MS = 50;

/** Tells the service manager something; lines "KEY=value". */
export interface Notifier {
  /** Whether anybody listens: false when not started by a service manager. */
  readonly present: boolean;
  /** How often the manager wants a sign of life; undefined: it does not watch. */
  readonly watchdogMs: number | undefined;
  /** @throws SyscallError: the manager's socket is gone, or its queue stays full. */
  send(...lines: string[]): Promise<void>;
}

/**
 * Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and takes them out of `env`: a child that
 * inherited them could speak for the daemon.
 */
export function openNotifier(env: Record<string, string | undefined> = process.env): Notifier {
  const { NOTIFY_SOCKET: target = "", WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = env;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete env[name];
  const address = unixAddress(target);
  const watched = pid === undefined || pid === String(process.pid);
  const watchdogMs = watched && Number(usec) > 0 ? Number(usec) / 1000 : undefined;
  return {
    present: address !== undefined,
    watchdogMs: address === undefined ? undefined : watchdogMs,
    send: async (...lines) => {
      if (address !== undefined) await send(address, lines.join("\n"));
    },
  };
}

/** MONOTONIC_USEC of a RELOADING=1 message. */
export function monotonicUsec(): bigint {
  return monotonicNs() / 1000n;
}

/**
 * A sockaddr_un for "/path" or "@abstract"; undefined for anything else (unset, vsock).
 * An abstract name is as long as the address says, so there is no NUL at its end.
 */
export function unixAddress(target: string): Uint8Array | undefined {
  if (!/^[/@]./.test(target)) return undefined;
  const name = new TextEncoder().encode(target);
  const abstract = target.startsWith("@");
  if (name.length + (abstract ? 0 : 1) > SUN_PATH_BYTES) return undefined;
  const address = buffer(2 + name.length + (abstract ? 0 : 1));
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  if (abstract) address[2] = 0;
  return address;
}

async function send(address: Uint8Array, text: string): Promise<void> {
  const message = cstring(text);
  for (let attempt = 1; ; attempt++) {
    try {
      sendOnce(address, message);
      return;
    } catch (error) {
      if (codeOf(error) !== "EAGAIN" || attempt === TRIES) throw error;
    }
    await sleep(PAUSE_MS);
  }
}

/** Never waits in the kernel: a manager that hangs must not stop the daemon. */
function sendOnce(address: Uint8Array, message: Uint8Array): void {
  const fd = check(c.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  try {
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const sent = c.sendto(fd, message, message.length - 1, flags, address, address.length);
    check(sent, "sendto", "NOTIFY_SOCKET");
  } finally {
    c.close(fd);
  }
}
