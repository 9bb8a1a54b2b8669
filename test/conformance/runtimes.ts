/** The runtimes that critest can be run against: Crib, and peers to hold the harness itself to. */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { basename, join } from "node:path";
import { detectCgroups } from "../../src/linux/cgroup.ts";
import { startCrib } from "../fixtures/crib.ts";
import { cniBinDirs, writeCniConfig } from "./node.ts";
import { registriesConf, writeHostsDirectory } from "./registry.ts";

export interface Runtime {
  /** unix:///path */
  endpoint: string;
  /** The daemon's log, for a file next to the report. */
  log(): string;
  stop(): Promise<void>;
}

/** `dist/crib serve` with everything of its own below `directory`. */
export async function startOurs(directory: string): Promise<Runtime> {
  writeCniConfig(join(directory, "cni"));
  writeFileSync(join(directory, "registries.conf"), registriesConf());
  const cgroupParent = `/crib-test-${basename(directory)}`;
  const crib = await startCrib({
    directory,
    set: {
      "log.level": "debug",
      "network.bin_dirs": JSON.stringify(cniBinDirs),
      // systemd lives in another PID namespace and could not place our processes.
      "runtime.cgroup_driver": "cgroupfs",
      "runtime.cgroup_parent": cgroupParent,
    },
  });
  return {
    endpoint: `unix://${crib.socket}`,
    log: crib.log,
    stop: async () => {
      await crib.stop();
      // Not recursive: a cgroup that a pod left in it keeps it there, for the runner to find.
      for (const { mountPoint } of detectCgroups().hierarchies) {
        try {
          rmdirSync(`${mountPoint}${cgroupParent}`);
        } catch {
          // Never made, or not empty.
        }
      }
    },
  };
}

/** A peer: "containerd" starts the one that is installed; anything else is a socket to connect to. */
export async function startPeer(peer: string, directory: string): Promise<Runtime> {
  if (peer === "containerd") return startContainerd(directory);
  const path = peer.replace(/^unix:\/\//, "");
  if (!existsSync(path)) throw new Error(`--peer ${peer}: neither containerd nor a socket`);
  return { endpoint: `unix://${path}`, log: () => "", stop: async () => {} };
}

async function startContainerd(directory: string): Promise<Runtime> {
  const socket = join(directory, "containerd.sock");
  writeCniConfig(join(directory, "cni"));
  writeHostsDirectory(join(directory, "certs.d"));
  const binDirectory = cniBinDirs.find((it) => existsSync(join(it, "bridge"))) ?? "";
  const config = join(directory, "containerd.toml");
  // Debian 12's containerd (1.6) and 13's (1.7) both read version 2.
  writeFileSync(
    config,
    `version = 2
root = "${directory}/root"
state = "${directory}/state"
[grpc]
address = "${socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.10"
# Without CAP_SYS_RESOURCE a negative score kills the container.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "${binDirectory}"
conf_dir = "${directory}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "${directory}/certs.d"
`,
  );
  mkdirSync(join(directory, "state"), { recursive: true });
  const child = Bun.spawn(["containerd", "--config", config], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  void (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) log += decoder.decode(chunk, { stream: true });
  })();
  for (const deadline = performance.now() + 20_000; !(await answers(socket)); await Bun.sleep(50)) {
    if (child.exitCode !== null || performance.now() > deadline) {
      child.kill();
      throw new Error(`containerd does not answer:\n${log}`);
    }
  }
  return {
    endpoint: `unix://${socket}`,
    log: () => log,
    stop: async () => {
      child.kill();
      await child.exited;
    },
  };
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => {
      connection.destroy();
      resolve(true);
    });
    connection.on("error", () => resolve(false));
  });
}
