/** `crib check` on this machine, with what it looks at put in place or taken away. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import * as v from "valibot";
import { startCrib } from "../fixtures/crib.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");

const report = v.strictObject({
  ok: v.boolean(),
  findings: v.array(
    v.strictObject({
      check: v.string(),
      level: v.picklist(["ok", "warn", "fail"]),
      message: v.pipe(v.string(), v.nonEmpty()),
      remedy: v.optional(v.string()),
    }),
  ),
});

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-check-test-"));
  mkdirSync(join(directory, "net.d"));
  const network = {
    cniVersion: "1.0.0",
    name: "n",
    plugins: [{ type: "bridge", ipam: { type: "host-local" } }],
  };
  writeFileSync(join(directory, "net.d/10.conflist"), JSON.stringify(network));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** Not spawnSync: servers of this process must be able to answer. */
async function run(...args: string[]) {
  const settings = [
    ...["--root", join(directory, "root"), "--state", join(directory, "state")],
    ...["--socket", join(directory, "crib.sock")],
    ...["--set", `network.conf_dir=${join(directory, "net.d")}`],
    ...["--set", `cadvisor.socket=${join(directory, "crio.sock")}`],
  ];
  const child = Bun.spawn([CRIB, "check", ...settings, ...args], {
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { exitCode: await child.exited, stdout, stderr };
}

async function check(...args: string[]) {
  const { exitCode, stdout } = await run("--json", ...args);
  const { ok, findings } = v.parse(report, JSON.parse(stdout));
  expect(exitCode).toBe(ok ? 0 : 1);
  const find = (name: string) => findings.find((finding) => finding.check === name);
  return { exitCode, find, failed: findings.filter(({ level }) => level === "fail") };
}

test("this machine, which runs pods, lacks nothing; nothing is left of the check", async () => {
  const { exitCode, find, failed } = await check();
  expect(failed).toEqual([]);
  expect(exitCode).toBe(0);
  expect(find("OCI runtime runc")?.message).toContain("runc version");
  expect(find("CNI")?.message).toContain("bridge");
  expect(existsSync(join(directory, "root"))).toBe(false);
  expect(existsSync(join(directory, "state"))).toBe(false);
  // A handler of our own name: other daemons of this machine try out theirs.
  const runc = Bun.which("runc", { PATH: "/usr/bin:/usr/sbin:/sbin" });
  const own = await check("--set", `runtime.handlers.checked.path=${runc}`);
  expect(own.find("OCI runtime checked")?.level).toBe("ok");
  const left = Bun.spawnSync(["find", "/sys/fs/cgroup", "-name", "crib-probe-checked-*"]);
  expect(left.stdout.toString()).toBe("");
});

test("for people it is one line a check, and how many of which", async () => {
  const { stdout, exitCode } = await run();
  expect(stdout).toMatch(/^✓ configuration +valid$/m);
  expect(stdout).toMatch(/^✓ CNI +\S/m);
  expect(stdout).toMatch(/^\d+ ok, \d+ to know \(!\), 0 missing \(✗\)\n$/m);
  expect(exitCode).toBe(0);
});

test("what is missing fails with its remedy: runtime, network, plugin", async () => {
  const noRuntime = await check("--set", "runtime.handlers.kata.path=/nonexistent/kata");
  expect(noRuntime.exitCode).toBe(1);
  expect(noRuntime.find("OCI runtime kata")).toMatchObject({ level: "fail" });
  expect(noRuntime.find("OCI runtime kata")?.message).toContain("/nonexistent/kata");

  const noPlugin = await check("--set", `network.bin_dirs=["${directory}"]`);
  expect(noPlugin.failed.map((finding) => finding.check)).toEqual(["CNI"]);
  expect(noPlugin.find("CNI")?.message).toContain("bridge, host-local: no such executable");

  rmSync(join(directory, "net.d/10.conflist"));
  const noNetwork = await check();
  expect(noNetwork.failed.map((finding) => finding.check)).toEqual(["CNI"]);
  expect(noNetwork.find("CNI")?.remedy).toContain(".conflist");
});

test("a configuration that is not valid fails and names the line; the rest is still checked", async () => {
  const file = join(directory, "crib.toml");
  writeFileSync(file, '[log]\nlevle = "info"\n');
  const { exitCode, find } = await check("--config", file);
  expect(exitCode).toBe(1);
  expect(find("configuration")?.message).toContain("crib.toml:2: log.levle: unknown key");
  expect(find("overlayfs")).toBeDefined();
});

test("small, noexec and read-only file systems are noticed", async () => {
  const mounted = join(directory, "mounted");
  mkdirSync(mounted);
  const mount = (...options: string[]) =>
    expect(Bun.spawnSync(["mount", ...options]).exitCode).toBe(0);
  mount("-t", "tmpfs", "-o", "size=8m,noexec", "t", mounted);
  try {
    const small = await check("--state", join(mounted, "a/b"), "--root", join(mounted, "c"));
    const messages = small.failed.map(({ message }) => message).join("\n");
    expect(messages).toContain("noexec");
    expect(messages).toMatch(/[78] MiB free/);
    mount("-o", "remount,ro,exec", mounted);
    const readOnly = await check("--state", mounted);
    expect(readOnly.find("state")?.message).toContain("read-only");
  } finally {
    Bun.spawnSync(["umount", mounted]);
  }
});

test("sockets: a Crib's own is fine, another program's is not", async () => {
  const socket = join(directory, "crib.sock");
  const metrics = join(directory, "crio.sock");
  const answer = () => Response.json({ storage_root: "/var/lib/containers/storage" });
  const others = [socket, metrics].map((unix) => Bun.serve({ unix, fetch: answer }));
  const taken = await check();
  expect(taken.find("socket")).toMatchObject({ level: "fail" });
  expect(taken.find("metrics")).toMatchObject({ level: "warn" });
  expect(taken.find("metrics")?.message).toContain("another runtime's");
  await Promise.all(others.map((server) => server.stop(true)));

  const net = join(directory, "own-net.d");
  cpSync(join(directory, "net.d"), net, { recursive: true });
  const crib = await startCrib({ directory, set: { "cadvisor.socket": metrics } });
  try {
    const own = await check("--set", `network.conf_dir=${net}`);
    expect(own.find("socket")?.message).toMatch(/crib \S+ answers/);
    expect(own.find("metrics")?.message).toContain("crib answers the kubelet's cAdvisor");
    expect(own.exitCode).toBe(0);
  } finally {
    await crib.stop();
  }
});
