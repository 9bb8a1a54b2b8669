/** A registry on loopback with one image: the machine's static busybox. */
import { copyFileSync, linkSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { busyboxLayer, pushImage, startRegistry } from "../fixtures/registry.ts";

export interface BenchRegistry {
  /** HOST:PORT/busybox:1, for PullImage. */
  image: string;
  /** HOST:PORT */
  address: string;
  /** The image's content, as a plain root file system. */
  rootfs: string;
  stop(): Promise<void>;
}

const APPLETS = ["sh", "sleep", "true", "cat"];

function makeRootfs(directory: string): void {
  for (const name of ["bin", "proc", "sys", "dev", "etc", "tmp", "run"]) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  copyFileSync("/bin/busybox", join(directory, "bin/busybox"));
  for (const applet of APPLETS) {
    linkSync(join(directory, "bin/busybox"), join(directory, "bin", applet));
  }
}

/** Starts the registry; `directory` is empty and takes the image's files. */
export async function startBusybox(directory: string): Promise<BenchRegistry> {
  const rootfs = join(directory, "rootfs");
  makeRootfs(rootfs);
  const registry = await startRegistry();
  const { name } = await pushImage(registry, "busybox:1", {
    layers: [busyboxLayer(APPLETS)],
    config: { Env: ["PATH=/bin"], Cmd: ["sleep", "100000"] },
  });
  return { image: name, address: registry.host, rootfs, stop: registry.stop };
}
