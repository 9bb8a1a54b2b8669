/** Network counters of a pod, from any process in its network namespace. */
import { readKernelFile } from "../linux/kernel-file.ts";
import { type InterfaceCounters, parseNetDev } from "./parse.ts";

/** Counters of all interfaces but the loopback; undefined when the process is gone. */
export function readNetwork(pid: number): InterfaceCounters[] | undefined {
  const text = readKernelFile(`/proc/${pid}/net/dev`);
  return text === undefined ? undefined : parseNetDev(text);
}
