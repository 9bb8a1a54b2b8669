/** Debian's containerd as a peer: its own directories, runc, nothing of the machine's configuration. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type CriClients, connectCri } from "../../src/cli/cri-client.ts";

export interface RunningContainerd extends CriClients {
  pid: number;
  startMs: number;
  stop(): Promise<void>;
}

function configuration(directory: string, sandboxImage: string): string {
  return `version = 2
root = "${directory}/root"
state = "${directory}/state"
[grpc]
address = "${directory}/containerd.sock"
[ttrpc]
address = "${directory}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${sandboxImage}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "${directory}/cni"
[plugins."io.containerd.internal.v1.opt"]
path = "${directory}/opt"
`;
}

/** Starts containerd and waits for its CRI plugin. `sandboxImage` is the image of its pause containers. */
export async function startContainerd(
  directory: string,
  sandboxImage: string,
): Promise<RunningContainerd> {
  mkdirSync(directory, { recursive: true });
  const config = join(directory, "config.toml");
  await Bun.write(config, configuration(directory, sandboxImage));
  const startedMs = performance.now();
  const child = Bun.spawn(["containerd", "--config", config], {
    stdio: ["ignore", "ignore", Bun.file(join(directory, "log"))],
  });
  const socket = join(directory, "containerd.sock");
  for (;;) {
    if (child.exitCode !== null) {
      throw new Error(`containerd: ${await Bun.file(join(directory, "log")).text()}`);
    }
    if (existsSync(socket)) {
      const clients = connectCri(socket, { timeoutMs: 120_000 });
      try {
        await clients.runtime.version({}, { timeoutMs: 5_000 });
        return {
          ...clients,
          pid: child.pid,
          startMs: performance.now() - startedMs,
          stop: async () => {
            child.kill("SIGTERM");
            await child.exited;
          },
        };
      } catch {
        // Not all of its services are up.
      }
    }
    if (performance.now() - startedMs > 30_000) {
      child.kill("SIGKILL");
      throw new Error("containerd: no answer within 30 s");
    }
    await Bun.sleep(1);
  }
}
