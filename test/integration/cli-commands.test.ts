import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { startCrib } from "../fixtures/crib.ts";
import { startNode, type TestNode } from "../fixtures/pods.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
let node: TestNode;
let directory: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "crib-cli-"));
  node = await startNode();
});

afterAll(async () => {
  await node.stop();
  rmSync(directory, { recursive: true });
});

function crib(...args: string[]): { exitCode: number; stdout: string; stderr: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([CRIB, ...args], {
    env: { PATH: process.env.PATH ?? "" },
    timeout: 30_000,
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

test("help names every command, and each command's help its options", () => {
  const { exitCode, stdout } = crib("--help");
  expect(exitCode).toBe(0);
  for (const command of ["serve", "status", "config", "version"]) expect(stdout).toContain(command);
  expect(stdout).not.toContain("unpack");
  for (const option of ["--config", "--set", "--root", "--state", "--socket"]) {
    expect(crib("serve", "--help").stdout).toContain(option);
  }
});

test("an unknown command or option is an error that points to the help", () => {
  for (const args of [["nope"], ["status", "--nope"]]) {
    const { exitCode, stderr } = crib(...args);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("nope");
    expect(stderr).toContain("crib --help");
  }
});

test("version is text or JSON", () => {
  const { exitCode, stdout } = crib("version");
  expect(exitCode).toBe(0);
  const facts = JSON.parse(crib("version", "--json").stdout) as { version: string; cri: string };
  expect(stdout).toContain(facts.version);
  expect(facts.cri).toBe("v1");
  expect(crib("--version").stdout.trim()).toBe(facts.version);
});

test("status without a daemon says so, on standard error, with status 1", () => {
  const socket = join(directory, "none.sock");
  const { exitCode, stdout, stderr } = crib("status", "--socket", socket);
  expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: "" });
  expect(stderr).toContain(socket);
  expect(stderr).not.toContain("    at ");
});

test("status and images ask at the socket of the configuration, unless they are told another", () => {
  const config = join(directory, "crib.toml");
  writeFileSync(config, `[crib]\nsocket = "${node.crib.socket}"\n`);
  expect(crib("status", "--config", config).stdout).toContain(`pid ${node.crib.pid}`);
  expect(crib("images", "list", "--config", config).stdout).toContain(node.image);
  const other = join(directory, "none.sock");
  expect(crib("status", "--config", config, "--socket", other).stderr).toContain(other);
});

test("status counts what there is, as text and as JSON", async () => {
  const pod = await node.pod();
  await node.run(pod);
  await node.create(pod);
  const text = crib("status", "--socket", node.crib.socket);
  expect(text.exitCode).toBe(0);
  expect(text.stdout).toMatch(/RuntimeReady +yes/);
  expect(text.stdout).toMatch(/NetworkReady +yes/);
  expect(text.stdout).toMatch(/containers +1 running, 1 created, 0 exited/);
  expect(text.stdout).toContain(`pid ${node.crib.pid}`);
  const report = JSON.parse(crib("status", "--socket", node.crib.socket, "--json").stdout);
  expect(report).toMatchObject({
    pid: node.crib.pid,
    pods: { ready: 1, notReady: 0 },
    containers: { running: 1, created: 1, exited: 0 },
    images: { count: 1 },
    operations: [],
    damaged: [],
  });
});

test("status shows an operation that runs, with where it is", async () => {
  node.close("cni-add");
  const running = node.pod();
  await node.reached("cni-add");
  const { stdout } = crib("status", "--socket", node.crib.socket);
  node.open("cni-add");
  await running;
  expect(stdout).toMatch(/run pod\/.*network/);
});

test("status says what is not ready, with status 1", async () => {
  // An empty directory of CNI configuration.
  const bare = await startCrib();
  try {
    const { exitCode, stdout } = crib("status", "--socket", bare.socket);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/NetworkReady +no: .+/);
  } finally {
    await bare.stop();
  }
});

test("the printed default configuration is a configuration", () => {
  const { exitCode, stdout } = crib("config", "--default");
  expect(exitCode).toBe(0);
  expect(stdout).toContain("[runtime]");
  const file = join(directory, "default.toml");
  writeFileSync(file, stdout);
  const own = crib("config", "--config", file, "--json");
  expect(own).toMatchObject({ exitCode: 0, stderr: "" });
  expect(JSON.parse(own.stdout)).toEqual(JSON.parse(crib("config", "--default", "--json").stdout));
});

test("what holds is printed with files, --set and flags applied", () => {
  const file = join(directory, "own.toml");
  writeFileSync(file, '[log]\nlevel = "debug"\n');
  const args = ["--config", file, "--set", "network.timeout_seconds=7", "--root", "/elsewhere"];
  const config = JSON.parse(crib("config", "--json", ...args).stdout);
  expect(config).toMatchObject({
    log: { level: "debug" },
    network: { timeout_seconds: 7 },
    crib: { root: "/elsewhere" },
  });
});
