/** A registry on loopback with one image: busybox, built from the machine's static one. */
import { createHash } from "node:crypto";
import { copyFileSync, linkSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

export interface BenchRegistry {
  /** HOST:PORT/busybox:1, for PullImage. */
  image: string;
  /** HOST:PORT */
  address: string;
  /** The image's content, as a plain root file system. */
  rootfs: string;
  stop(): Promise<void>;
}

const digestOf = (bytes: Uint8Array) =>
  `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

function makeRootfs(directory: string): void {
  for (const name of ["bin", "proc", "sys", "dev", "etc", "tmp", "run"]) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  copyFileSync("/bin/busybox", join(directory, "bin/busybox"));
  for (const applet of ["sh", "sleep", "true", "cat"]) {
    linkSync(join(directory, "bin/busybox"), join(directory, "bin", applet));
  }
}

function serve(documents: Map<string, { type: string; bytes: Uint8Array }>) {
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/v2/") return new Response("{}");
      const document = documents.get(pathname.slice(pathname.lastIndexOf("/") + 1));
      if (document === undefined) return new Response("not found", { status: 404 });
      return new Response(request.method === "HEAD" ? null : Buffer.from(document.bytes), {
        headers: {
          "Content-Type": document.type,
          "Content-Length": String(document.bytes.length),
          "Docker-Content-Digest": digestOf(document.bytes),
        },
      });
    },
  });
}

/** Starts the registry; `directory` is empty and takes the image's files. */
export async function startRegistry(directory: string): Promise<BenchRegistry> {
  const rootfs = join(directory, "rootfs");
  makeRootfs(rootfs);
  const tar = Bun.spawnSync([
    "tar",
    "-C",
    rootfs,
    "--sort=name",
    "--numeric-owner",
    "-cf",
    "-",
    ".",
  ]);
  if (tar.exitCode !== 0) throw new Error(`tar: ${tar.stderr}`);
  const documents = new Map<string, { type: string; bytes: Uint8Array }>();
  const add = (type: string, bytes: Uint8Array) => {
    const digest = digestOf(bytes);
    documents.set(digest, { type, bytes });
    return { mediaType: type, digest, size: bytes.length };
  };
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const layer = add("application/vnd.oci.image.layer.v1.tar+gzip", gzipSync(tar.stdout));
  const config = add(
    "application/vnd.oci.image.config.v1+json",
    json({
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      config: { Env: ["PATH=/bin"], Cmd: ["sleep", "100000"] },
      rootfs: { type: "layers", diff_ids: [digestOf(tar.stdout)] },
    }),
  );
  const type = "application/vnd.oci.image.manifest.v1+json";
  const manifest = json({ schemaVersion: 2, mediaType: type, config, layers: [layer] });
  add(type, manifest);
  documents.set("1", { type, bytes: manifest });
  const server = serve(documents);
  const address = `127.0.0.1:${server.port}`;
  return {
    image: `${address}/busybox:1`,
    address,
    rootfs,
    stop: () => server.stop(true),
  };
}
