/** What a service manager hears from the daemon, and what SIGHUP does. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { until } from "../fixtures/until.ts";

/** Writes each datagram as a line. Bun has no datagram sockets of this kind, Perl has. */
const MANAGER = `
use Socket;
socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die $!;
bind($s, pack("S a*", AF_UNIX, $ARGV[0])) or die $!;
$| = 1;
print "bound\\n";
while (defined recv($s, my $m, 4096, 0)) { $m =~ s/\\n/|/g; print "$m\\n"; }
`;

let directory: string;
let manager: Bun.Subprocess<"ignore", "pipe", "inherit">;
let heard: string[];
let crib: RunningCrib | undefined;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "crib-notify-"));
  manager = Bun.spawn(["perl", "-e", MANAGER, join(directory, "notify.sock")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  heard = [];
  void (async () => {
    for await (const chunk of manager.stdout) {
      heard.push(...new TextDecoder().decode(chunk).split("\n").filter(Boolean));
    }
  })();
  await until("the manager", () => heard.shift() === "bound");
});
afterEach(async () => {
  await crib?.stop();
  crib = undefined;
  manager.kill();
  await manager.exited;
  rmSync(directory, { recursive: true });
});

async function start(env: Record<string, string> = {}) {
  crib = await startCrib({
    directory,
    set: { "cadvisor.socket": join(directory, "crio.sock") },
    env: { NOTIFY_SOCKET: join(directory, "notify.sock"), ...env },
  });
  return crib;
}

const config = (text: string) => writeFileSync(join(directory, "crib.toml"), text);

test("READY=1 comes when both sockets answer, STOPPING=1 when it ends", async () => {
  const { socket } = await start();
  await until("READY=1", () => heard.length > 0);
  expect(heard).toEqual([`READY=1|STATUS=serving ${socket}`]);
  const info = await fetch("http://crio/info", { unix: join(directory, "crio.sock") });
  expect(info.status).toBe(200);
  await crib?.stop();
  crib = undefined;
  await until("STOPPING=1", () => heard.includes("STOPPING=1"));
  expect(heard.at(-1)).toBe("STOPPING=1");
});

test("the watchdog is fed again and again, and a daemon that hangs goes silent", async () => {
  const { pid } = await start({ WATCHDOG_USEC: "400000" });
  const beats = () => heard.filter((line) => line === "WATCHDOG=1").length;
  await until("three beats", () => beats() >= 3);
  process.kill(pid, "SIGSTOP");
  await Bun.sleep(300);
  const before = beats();
  await Bun.sleep(1000);
  expect(beats()).toBe(before);
  process.kill(pid, "SIGCONT");
  await until("more beats", () => beats() > before);
});

/** Inodes of the connections that are open at the daemon's socket; proc_net(5) has no more of them. */
const connections = (socket: string) =>
  readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .filter((line) => line.endsWith(` ${socket}`) && line.split(/\s+/)[5] === "03")
    .map((line) => line.split(/\s+/)[6]);

test("the watchdog's questions go over one connection, and notice when the socket is gone", async () => {
  const { socket, log } = await start({ WATCHDOG_USEC: "200000" });
  const beats = () => heard.filter((line) => line === "WATCHDOG=1").length;
  await until("beats", () => beats() >= 2);
  const open = connections(socket);
  const before = beats();
  await until("more beats", () => beats() >= before + 5);
  expect(open.length).toBeGreaterThan(0);
  expect(connections(socket)).toEqual(open);
  rmSync(socket);
  await until("the complaint", () => log().includes("the daemon's own socket does not answer"));
});

test("children do not inherit the manager's socket", async () => {
  const seen = join(directory, "environment");
  const runtime = join(directory, "runtime");
  writeFileSync(runtime, `#!/bin/sh\nenv >>${seen}\nexit 1\n`, { mode: 0o755 });
  crib = await startCrib({
    directory,
    set: { "cadvisor.socket": '""', "runtime.handlers.spy.path": runtime },
    env: { NOTIFY_SOCKET: join(directory, "notify.sock"), WATCHDOG_USEC: "60000000" },
  });
  await crib.runtime.status({ verbose: true });
  const environment = readFileSync(seen, "utf8");
  expect(environment).toContain("PATH=");
  expect(environment).not.toMatch(/NOTIFY_SOCKET|WATCHDOG/);
});

test("SIGHUP applies the log level at once and says what needs a restart", async () => {
  config('[log]\nlevel = "info"\n');
  const { pid, log, runtime } = await start();
  await runtime.version({});
  expect(log()).not.toContain('"rpc":"Version"');
  config('[log]\nlevel = "debug"\n[container]\nkill_timeout_seconds = 5\n');
  process.kill(pid, "SIGHUP");
  await until("the reload", () => log().includes("configuration reloaded"));
  expect(log()).toContain(
    '"applied":["log.level"],"needRestart":["container.kill_timeout_seconds"]',
  );
  await runtime.version({});
  await until("debug lines", () => log().includes('"rpc":"Version"'));
  await until("READY=1 again", () => heard.length === 3);
  expect(heard[1]).toMatch(/^RELOADING=1\|MONOTONIC_USEC=\d+$/);
  expect(heard[2]).toBe("READY=1");
});

test("SIGHUP with a configuration that is not valid changes nothing and names the line", async () => {
  config('[log]\nlevel = "info"\n');
  const { pid, log, runtime } = await start();
  config('[log]\nlevel = "loud"\n');
  process.kill(pid, "SIGHUP");
  await until("the refusal", () => log().includes("reload: not valid, nothing was changed"));
  expect(log()).toContain("crib.toml:2: log.level");
  await until("READY=1 again", () => heard.length === 3);
  expect((await runtime.version({})).runtimeName).toBe("crib");
  config('[log]\nlevel = "warn"\n');
  process.kill(pid, "SIGHUP");
  await until("a good one", () => heard.length === 5);
});
