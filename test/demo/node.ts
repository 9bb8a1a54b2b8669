/** What the demo's node has besides Crib: an image, a CNI network, a web page's reader. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Layout } from "../conformance/images/layout.ts";
import type { TarEntry } from "../conformance/images/tar.ts";

const APPLETS = ["sh", "sleep", "httpd", "hostname", "ip", "ps", "id"];

/** Writes Debian's busybox-static as an OCI image layout; returns skopeo's name of the image in it. */
export function writeImage(directory: string): string {
  const layer: TarEntry[] = [
    ...["bin", "etc", "www"].map((path): TarEntry => ({ type: "directory", path })),
    { type: "file", path: "bin/busybox", content: readFileSync("/bin/busybox"), mode: 0o755 },
    ...APPLETS.map((name): TarEntry => {
      return { type: "symlink", path: `bin/${name}`, target: "busybox" };
    }),
    { type: "file", path: "etc/passwd", content: "root:x:0:0:root:/:/bin/sh\n" },
    { type: "file", path: "www/index.html", content: "hello from a pod" },
  ];
  new Layout(directory).add("demo", [layer], { Cmd: ["sh"] });
  return `oci:${directory}:demo`;
}

/** Copies an image into the registry with skopeo; returns the name to pull. */
export async function copyToRegistry(source: string, registry: string): Promise<string> {
  const name = `${registry}/busybox:demo`;
  const skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
  const child = Bun.spawn([...skopeo, source, `docker://${name}`], { stderr: "pipe" });
  const problem = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`skopeo copy: ${problem}`);
  return name;
}

/** A bridge with addresses by host-local and host ports by portmap; leases stay in `directory`. */
export function writeNetwork(directory: string): void {
  mkdirSync(join(directory, "cni"), { recursive: true });
  const ipam = {
    type: "host-local",
    ranges: [[{ subnet: "10.85.0.0/16" }]],
    routes: [{ dst: "0.0.0.0/0" }],
    dataDir: join(directory, "ipam"),
  };
  const bridge = { type: "bridge", bridge: "crib0", isGateway: true, ipMasq: true, ipam };
  const portmap = { type: "portmap", capabilities: { portMappings: true } };
  writeFileSync(
    join(directory, "cni/10-demo.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name: "demo", plugins: [bridge, portmap] }),
  );
}

/** The body of a page, asked for again while nobody listens yet. */
export async function readPage(url: string, limitMs = 5_000): Promise<string> {
  const end = performance.now() + limitMs;
  for (;;) {
    try {
      return (await (await fetch(url)).text()).trim();
    } catch (error) {
      if (performance.now() > end) throw new Error(`GET ${url}: ${error}`);
      await Bun.sleep(20);
    }
  }
}
