import { connectCri } from "./cri-client.ts";

/**
 * Asks the daemon's Version through a new connection to its socket: what the kubelet would see.
 *
 * @throws CribError: no answer within `deadlineMs`.
 */
export async function askVersion(socket: string, deadlineMs: number): Promise<string> {
  const { runtime, close } = connectCri(socket, { timeoutMs: deadlineMs });
  try {
    const answer = await runtime.version({});
    return `${answer.runtimeName} ${answer.runtimeVersion}`;
  } finally {
    close();
  }
}
