/**
 * Stand-ins for the images that critest names, made of Debian's static busybox: the registries they
 * live in are out of reach, and what counts is how an image is configured. What each must hold
 * follows from cri-tools' images/ and pkg/validate.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { StandInConfig } from "./layout.ts";
import type { TarEntry } from "./tar.ts";

export interface StandIn {
  /** Repositories with tag below the registry, as in `e2e-test-images/busybox:1.29-2`. */
  names: string[];
  layers: TarEntry[][];
  config: StandInConfig;
}

/** The stand-ins, built around two static programs: busybox and images/nonewprivs.c. */
export function standIns(busyboxPath: string, nonewprivs: Uint8Array): StandIn[] {
  const base = busyboxLayer(readFileSync(busyboxPath), appletsOf(busyboxPath));
  const staging = (name: string) => `k8s-staging-cri-tools/${name}`;
  /** critest tells these apart by their image id only, so a file with the name is enough. */
  const named = (name: string, ...tags: string[]): StandIn => ({
    names: tags.map((tag) => staging(`${name}:${tag}`)),
    layers: [base, [file(`${name}-${tags[0]}`, "")]],
    config: { Cmd: ["sh"] },
  });
  const withUser = (name: string, user: string): StandIn => ({
    names: [staging(`${name}:latest`)],
    layers: [base],
    config: { Cmd: ["sh"], User: user },
  });
  const pause = (tag: string): StandIn => ({
    names: [`pause:${tag}`],
    layers: [base, [script("pause", pauseScript)]],
    config: { Entrypoint: ["/pause"], Labels: { version: tag } },
  });
  return [
    { names: ["e2e-test-images/busybox:1.29-2"], layers: [base], config: { Cmd: ["sh"] } },
    { names: ["e2e-test-images/nginx:1.14-2"], ...webServer(base, "nginx", 80) },
    { names: ["e2e-test-images/httpd:2.4.39-4"], ...webServer(base, "httpd-foreground", 80) },
    { names: [staging("hostnet-nginx-amd64:latest")], ...webServer(base, "nginx", 12003) },
    { names: [staging("hostnet-nginx-arm64:latest")], ...webServer(base, "nginx", 12003) },
    {
      names: ["e2e-test-images/nonewprivs:1.3"],
      layers: [base, [{ type: "file", path: "nnp", mode: 0o4755, content: nonewprivs }]],
      config: { Cmd: ["/nnp"] },
    },
    pause("3.9"), // of two registries: one image with two names
    pause("3.10"), // the sandbox image of peers; must not be the one that the tests remove
    named("test-image-1", "latest"),
    named("test-image-2", "latest"),
    named("test-image-3", "latest"),
    named("test-image-latest", "latest"),
    named("test-image-tag", "test"),
    named("test-image-tag", "all"),
    named("test-image-tags", "1", "2", "3"),
    withUser("test-image-user-uid", "1002"),
    withUser("test-image-user-username", "www-data"),
    withUser("test-image-user-uid-group", "1003:1004"),
    withUser("test-image-user-username-group", "www-data:1004"),
    {
      names: [staging("test-image-predefined-group:latest")],
      layers: [base, predefinedGroup],
      config: { Cmd: ["sh"], User: "1000" },
    },
  ];
}

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`;
const group = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

const predefinedGroup: TarEntry[] = [
  file("etc/passwd", `${passwd}default-user:x:1000:1000::/home:/bin/sh\n`),
  file("etc/group", `${group}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n`),
];

/** Ends at SIGTERM at once, as the real pause does; PID 1 ignores signals it has no handler for. */
const pauseScript = `trap 'exit 0' TERM INT
while :; do sleep 100000 & wait $!; done
`;

/**
 * A web server that looks like nginx to the tests: it answers on `port`, its process is called
 * after the program, its command line holds "master process", and its PID is in /var/run/nginx.pid.
 */
function webServer(
  base: TarEntry[],
  program: string,
  port: number,
): { layers: TarEntry[][]; config: StandInConfig } {
  const start = `trap 'kill $!; exit 0' TERM INT QUIT
echo $$ >/var/run/nginx.pid
echo "httpd: serving port ${port}"
httpd -f -p ${port} -h /srv/www &
wait $!
`;
  const directories: TarEntry[] = [
    { type: "directory", path: "srv" },
    { type: "directory", path: "srv/www" },
  ];
  return {
    layers: [
      base,
      [...directories, file("srv/www/index.html", "hello\n"), script(`usr/sbin/${program}`, start)],
    ],
    config: {
      Cmd: [`/usr/sbin/${program}`, "master process"],
      ExposedPorts: { [`${port}/tcp`]: {} },
      StopSignal: "SIGTERM",
    },
  };
}

/**
 * A root file system from busybox. The applets are hard links, because a test masks /bin/ls alone.
 * Debian's busybox knows no ipcs and pgrep, which tests call: small scripts do their part.
 */
function busyboxLayer(busybox: Uint8Array, applets: string[]): TarEntry[] {
  const directories = ["bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "usr"].concat([
    "usr/bin",
    "usr/sbin",
    "var",
    "var/run",
    "var/www",
  ]);
  const links = applets.filter((path) => !["bin/busybox", "bin/sh", "linuxrc"].includes(path));
  return [
    ...directories.map((path): TarEntry => ({ type: "directory", path })),
    { type: "directory", path: "tmp", mode: 0o1777 },
    file("etc/passwd", passwd),
    file("etc/group", group),
    { type: "file", path: "bin/busybox", mode: 0o755, content: busybox },
    { type: "file", path: "bin/sh", mode: 0o755, content: withoutInternalLs(busybox) },
    ...links.map(
      (path): TarEntry => ({ type: "hardlink", path, target: "bin/busybox", mode: 0o755 }),
    ),
    script("usr/bin/ipcs", "cat /proc/sysvipc/shm\n"),
    script("usr/bin/pgrep", 'pidof "$1" | tr " " "\\n" | grep .\n'),
  ];
}

/**
 * Debian's busybox shell runs applets itself instead of looking in PATH, so that it would list a
 * directory although /bin/ls is masked. This copy's table of applets knows no "ls": one letter is
 * changed such that the table stays sorted.
 */
function withoutInternalLs(busybox: Uint8Array): Uint8Array {
  const copy = Buffer.from(busybox);
  const names = "\0ls\0lsmod\0";
  const at = copy.indexOf(names);
  if (at < 0 || copy.indexOf(names, at + 1) >= 0) {
    throw new Error("this busybox's table of applets is not as expected: see withoutInternalLs");
  }
  copy.write("lr", at + 1);
  return copy;
}

function appletsOf(busyboxPath: string): string[] {
  const list = spawnSync(busyboxPath, ["--list-full"], { encoding: "utf8" });
  if (list.status !== 0) throw new Error(`${busyboxPath} --list-full failed: ${list.stderr}`);
  return list.stdout.split("\n").filter(Boolean);
}

function file(path: string, content: string): TarEntry {
  return { type: "file", path, content };
}

function script(path: string, body: string): TarEntry {
  return { type: "file", path, mode: 0o755, content: `#!/bin/sh\n${body}` };
}
