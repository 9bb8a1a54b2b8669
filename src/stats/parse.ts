/**
 * Parsers of the kernel's statistics files, over text (cgroups(7); Documentation/admin-guide/cgroup-v2.rst,
 * cgroup-v1/memory.rst, accounting/psi.rst of the kernel). Counters are bigint: they are 64 bits wide.
 */

/** One line of a pressure file. */
export interface PsiData {
  /** Percent of the last 10, 60 and 300 seconds. */
  avg10: number;
  avg60: number;
  avg300: number;
  totalNanoSeconds: bigint;
}

/** `full` is absent where the kernel has none (cpu, before Linux 5.13). */
export interface Psi {
  some?: PsiData;
  full?: PsiData;
}

/** Bytes and errors of one network interface since it was made. */
export interface InterfaceCounters {
  name: string;
  rxBytes: bigint;
  rxErrors: bigint;
  txBytes: bigint;
  txErrors: bigint;
}

/** v1 has no "max": an unset limit is the largest page-aligned number, a little below 2^63. */
const UNLIMITED = 1n << 62n;

/** A file of one number; undefined when it is not one (missing, empty, odd). */
export function parseCount(text: string | undefined): bigint | undefined {
  const trimmed = text?.trim() ?? "";
  return /^\d+$/.test(trimmed) ? BigInt(trimmed) : undefined;
}

/** A limit; undefined when there is none ("max", v1's huge number) or the file says nothing. */
export function parseLimit(text: string | undefined): bigint | undefined {
  const limit = parseCount(text);
  return limit !== undefined && limit < UNLIMITED ? limit : undefined;
}

/** A "name number" file (memory.stat, cpu.stat); lines of another form are skipped. */
export function parseKeyed(text: string | undefined): Map<string, bigint> {
  const values = new Map<string, bigint>();
  for (const line of text?.split("\n") ?? []) {
    const space = line.indexOf(" ");
    const value = space > 0 ? parseCount(line.slice(space + 1)) : undefined;
    if (value !== undefined) values.set(line.slice(0, space), value);
  }
  return values;
}

const PSI_LINE = /^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)$/;

/** A pressure file; undefined when it is missing or the kernel keeps no pressure figures. */
export function parsePsi(text: string | undefined): Psi | undefined {
  const psi: Psi = {};
  for (const line of text?.split("\n") ?? []) {
    const [, kind, avg10, avg60, avg300, total] = PSI_LINE.exec(line) ?? [];
    if (kind === undefined || total === undefined) continue;
    psi[kind === "some" ? "some" : "full"] = {
      avg10: Number(avg10),
      avg60: Number(avg60),
      avg300: Number(avg300),
      // The kernel counts microseconds.
      totalNanoSeconds: BigInt(total) * 1000n,
    };
  }
  return psi.some === undefined && psi.full === undefined ? undefined : psi;
}

/** /proc/PID/net/dev: all interfaces of the process's network namespace but the loopback. */
export function parseNetDev(text: string): InterfaceCounters[] {
  const interfaces: InterfaceCounters[] = [];
  for (const line of text.split("\n")) {
    // A name may hold a colon (an alias), the counters may follow it without a space.
    const [, name, counters] = /^\s*(\S+):\s*(\d[\d\s]*)$/.exec(line) ?? [];
    if (name === undefined || counters === undefined || name === "lo") continue;
    const fields = counters.trim().split(/\s+/).map(BigInt);
    const [rxBytes, , rxErrors, , , , , , txBytes, , txErrors] = fields;
    if (rxBytes === undefined || rxErrors === undefined) continue;
    if (txBytes === undefined || txErrors === undefined) continue;
    interfaces.push({ name, rxBytes, rxErrors, txBytes, txErrors });
  }
  return interfaces;
}
