/** Starting `crib serve`: sockets, locks and configurations that it must refuse, or clean up. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { connectCri } from "../../src/cli/cri-client.ts";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { findLeftovers } from "../fixtures/leftovers.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
let directory: string;
let running: RunningCrib[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-serve-"));
  for (const name of ["a", "b"]) mkdirSync(join(directory, name));
  running = [];
});

afterEach(async () => {
  for (const crib of running) await crib.stop();
  rmSync(directory, { recursive: true });
});

const at = (name: string) => join(directory, name);

async function start(name: string): Promise<RunningCrib> {
  const crib = await startCrib({ directory: at(name) });
  running.push(crib);
  return crib;
}

/** Runs `crib serve` that must end by itself. */
async function refused(...args: string[]): Promise<{ exitCode: number; stderr: string }> {
  const child = Bun.spawn([CRIB, "serve", ...args], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: process.env.PATH ?? "" },
  });
  const limit = setTimeout(() => child.kill("SIGKILL"), 20_000);
  const stderr = await new Response(child.stderr).text();
  const exitCode = await child.exited;
  clearTimeout(limit);
  return { exitCode, stderr };
}

/** Options for a daemon in directory `name`, with the changes of a test. */
function options(name: string, changes: Record<string, string> = {}): string[] {
  writeFileSync(at(`${name}/crib.toml`), "");
  const all = {
    config: at(`${name}/crib.toml`),
    root: at(`${name}/root`),
    state: at(`${name}/state`),
    socket: at(`${name}/crib.sock`),
    ...changes,
  };
  return Object.entries(all).flatMap(([key, value]) => [`--${key}`, value]);
}

test("a socket on which a daemon answers is left to it", async () => {
  const crib = await start("a");
  const { exitCode, stderr } = await refused(...options("b", { socket: crib.socket }));
  expect(exitCode).toBe(1);
  expect(stderr).toContain(`${crib.socket} is in use`);
  expect((await crib.runtime.version({})).runtimeName).not.toBe("");
});

test("a root or a state directory in use by a daemon is refused", async () => {
  const crib = await start("a");
  for (const key of ["root", "state"] as const) {
    const { exitCode, stderr } = await refused(...options("b", { [key]: crib[key] }));
    expect(exitCode).toBe(1);
    expect(stderr).toContain(`crib.${key}: ${crib[key]} is in use by another crib serve`);
  }
  expect((await crib.runtime.version({})).runtimeName).not.toBe("");
});

test("a file where the socket should be is refused, and kept", async () => {
  writeFileSync(at("a/crib.sock"), "precious");
  const { exitCode, stderr } = await refused(...options("a"));
  expect(exitCode).toBe(1);
  expect(stderr).toContain(`${at("a/crib.sock")} is there and is no socket`);
  expect(await Bun.file(at("a/crib.sock")).text()).toBe("precious");
});

test("the socket of a dead daemon is replaced, also one that is no Crib's", async () => {
  const first = await start("a");
  await first.kill();
  running = [];
  expect(statSync(first.socket).isSocket()).toBe(true);
  const child = Bun.spawn([CRIB, "serve", ...options("a")], {
    stdio: ["ignore", "ignore", "ignore"],
    env: { PATH: process.env.PATH ?? "" },
  });
  const { runtime } = connectCri(first.socket, { timeoutMs: 2_000 });
  let answer = "";
  for (const end = performance.now() + 20_000; answer === "" && performance.now() < end; ) {
    answer = await runtime.version({}).then(
      ({ runtimeName }) => runtimeName,
      () => "",
    );
    await Bun.sleep(20);
  }
  child.kill();
  expect(await child.exited).toBe(0);
  expect(answer).not.toBe("");
  expect(existsSync(first.socket)).toBe(false);
});

test("a socket that another program listens on is left to it", async () => {
  const server = createServer(() => undefined);
  await new Promise<void>((done) => server.listen(at("a/crib.sock"), done));
  const { exitCode, stderr } = await refused(...options("a"));
  expect({ exitCode, stderr }).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("is in use"),
  });
  await new Promise((done) => server.close(done));
});

test("the socket is for root and its group only", async () => {
  const crib = await start("a");
  expect((statSync(crib.socket).mode & 0o777).toString(8)).toBe("660");
});

test("an unknown key is refused with file, line and key", async () => {
  const args = options("a");
  writeFileSync(at("a/crib.toml"), '[log]\nlevel = "info"\nlevle = "debug"\n');
  const { exitCode, stderr } = await refused(...args);
  expect(exitCode).toBe(1);
  expect(stderr).toContain(`${at("a/crib.toml")}:3: log.levle: unknown key`);
  expect(existsSync(at("a/root"))).toBe(false);
});

test("bad values, bad --set and a missing file are refused with their names", async () => {
  for (const [args, ...words] of [
    [["--set", "log.level=loud"], "log.level", "loud"],
    [["--set", "nope.nope=1"], "nope"],
    [["--config", at("missing.toml")], at("missing.toml")],
    [["--set", `crib.socket=/${"x".repeat(120)}`], "crib.socket", "107"],
    [["--set", "runtime.default_handler=kata", "--set", "runtime.handlers.x.path=/x"], "kata"],
    [["--nonsense"], "nonsense"],
  ] as Array<[string[], ...string[]]>) {
    const { exitCode, stderr } = await refused(...options("a"), ...args);
    expect(exitCode).toBe(1);
    for (const word of words) expect(stderr).toContain(word);
    // An error of the user's is one line, not a trace of ours.
    expect(stderr).not.toContain("    at ");
  }
  const own = process.pid;
  expect(findLeftovers({ directory: at("a"), cgroupParent: "/crib-test-none", own })).toEqual([]);
});

test("a root that is a file, and a state below it, are refused in words", async () => {
  writeFileSync(at("a/file"), "");
  for (const key of ["root", "state"]) {
    const { exitCode, stderr } = await refused(...options("a", { [key]: at("a/file") }));
    expect(exitCode).toBe(1);
    expect(stderr).toContain(at("a/file"));
  }
});

test("a database that is none is refused with its path", async () => {
  mkdirSync(at("a/root"));
  writeFileSync(at("a/root/crib.db"), "this is no database ".repeat(100));
  const { exitCode, stderr } = await refused(...options("a"));
  expect(exitCode).toBe(1);
  expect(stderr).toContain(at("a/root/crib.db"));
});

test("SIGTERM ends it with status 0 and takes the socket away", async () => {
  const crib = await start("a");
  running = [];
  expect(await crib.stop()).toBe(0);
  expect(existsSync(crib.socket)).toBe(false);
});
