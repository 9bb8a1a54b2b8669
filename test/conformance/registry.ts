/** A registry on loopback that serves the stand-ins under the paths that critest names. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Registry, startRegistry } from "../fixtures/registry.ts";
import { Layout } from "./images/layout.ts";
import { type StandIn, standIns } from "./images/stand-ins.ts";
import { cache, hashOf, output } from "./programs.ts";

const address = "127.0.0.1:5000";
/** The registries that critest's images come from; all are mirrored to ours. */
export const mirrored = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];
const busybox = "/bin/busybox";

/** Starts Debian's docker-registry with the stand-ins; in a private network namespace: the port is fixed. */
export async function startStandIns(): Promise<Registry> {
  return startRegistry({ host: address, data: await filledRegistry() });
}

/**
 * The directory of a docker-registry with the stand-ins in it, and `more` images; filled once for each
 * content of the files that make them and kept in the cache. Call in a private network namespace: the
 * port is fixed.
 *
 * @param more.source the file that makes them.
 */
export async function filledRegistry(
  more: { images: StandIn[]; source: string } = { images: [], source: import.meta.path },
): Promise<string> {
  const images = join(import.meta.dir, "images");
  const sources = ["../../fixtures/tar.ts", "tar.ts", "layout.ts", "stand-ins.ts", "nonewprivs.c"];
  const hash = hashOf([busybox, more.source, ...sources.map((name) => join(images, name))]);
  const directory = join(cache, `registry-${hash}`);
  if (existsSync(directory)) return directory;
  const staging = `${directory}.${process.pid}`;
  mkdirSync(staging, { recursive: true });
  const filling = await startRegistry({ host: address, data: staging });
  try {
    fill(join(staging, "layout"), more.images);
  } finally {
    await filling.stop();
  }
  rmSync(join(staging, "layout"), { recursive: true });
  renameSync(staging, directory);
  return directory;
}

function fill(layoutDirectory: string, more: StandIn[]): void {
  mkdirSync(layoutDirectory, { recursive: true });
  const program = join(layoutDirectory, "nonewprivs");
  const source = join(import.meta.dir, "images/nonewprivs.c");
  output(["musl-gcc", "-static", "-Os", "-s", "-o", program, source]);
  const layout = new Layout(layoutDirectory);
  for (const image of [...standIns(busybox, readFileSync(program)), ...more]) {
    for (const name of image.names) {
      layout.add(name, image.layers, image.config);
      const target = `docker://${address}/${name}`;
      output([
        "skopeo",
        "copy",
        "--dest-tls-verify=false",
        `oci:${layoutDirectory}:${name}`,
        target,
      ]);
    }
  }
}

/** registries.conf (containers-registries.conf(5)) that sends critest's pulls to our registry. */
export function registriesConf(): string {
  return mirrored
    .map(
      (host) => `[[registry]]
prefix = "${host}"
location = "${host}"
[[registry.mirror]]
location = "${address}"
insecure = true
`,
    )
    .join("\n");
}

/** The same for containerd: a directory of hosts.toml files. */
export function writeHostsDirectory(directory: string): void {
  for (const host of mirrored) {
    mkdirSync(join(directory, host), { recursive: true });
    writeFileSync(
      join(directory, host, "hosts.toml"),
      `server = "https://${host}"\n[host."http://${address}"]\ncapabilities = ["pull", "resolve"]\n`,
    );
  }
}
