import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicUsec, openNotifier, unixAddress } from "../../src/linux/notify.ts";

/** A datagram socket of another program: what Bun cannot open itself, Perl can (it is everywhere). */
const RECEIVER = `
use Socket;
socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die $!;
my $name = $ARGV[0];
$name =~ s/^@/\\0/;
bind($s, pack("S a*", AF_UNIX, $name)) or die $!;
$| = 1;
print "bound\\n";
for (1 .. $ARGV[1]) { recv($s, my $m, 4096, 0); $m =~ s/\\n/|/g; print "$m\\n"; }
`;

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-notify-"));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

async function receive(target: string, count: number, act: () => Promise<void>) {
  const child = Bun.spawn(["perl", "-e", RECEIVER, target, String(count)], { stdout: "pipe" });
  const lines: string[] = [];
  let acted = false;
  for await (const chunk of child.stdout) {
    lines.push(...new TextDecoder().decode(chunk).split("\n").filter(Boolean));
    if (acted) continue;
    acted = true;
    await act();
  }
  return lines.slice(1);
}

describe("a message arrives whole", () => {
  for (const kind of ["path", "abstract"] as const) {
    test(`at a socket with ${kind === "path" ? "a path" : "an abstract name"}`, async () => {
      const target = kind === "path" ? join(directory, "n.sock") : `@crib-test-${process.pid}`;
      const notifier = openNotifier({ NOTIFY_SOCKET: target });
      expect(notifier.present).toBe(true);
      const got = await receive(target, 2, async () => {
        await notifier.send("READY=1", "STATUS=grüß");
        await notifier.send("STOPPING=1");
      });
      expect(got).toEqual(["READY=1|STATUS=grüß", "STOPPING=1"]);
    });
  }
});

test("without a manager nothing is sent and nothing fails", async () => {
  const notifier = openNotifier({});
  expect(notifier.present).toBe(false);
  await notifier.send("READY=1");
});

test("a manager that is gone is an error that names the call", async () => {
  const notifier = openNotifier({ NOTIFY_SOCKET: join(directory, "gone.sock") });
  await expect(notifier.send("READY=1")).rejects.toThrow("sendto NOTIFY_SOCKET: ENOENT");
});

test("children do not inherit the way to speak for the daemon", () => {
  const env = { NOTIFY_SOCKET: "/x", WATCHDOG_USEC: "1", WATCHDOG_PID: "1", PATH: "/bin" };
  openNotifier(env);
  expect(Object.keys(env)).toEqual(["PATH"]);
});

describe("the watchdog", () => {
  const open = (env: Record<string, string>) => openNotifier({ NOTIFY_SOCKET: "/n", ...env });

  test("is on with the interval that was asked for", () => {
    expect(open({ WATCHDOG_USEC: "60000000" }).watchdogMs).toBe(60_000);
    const pid = String(process.pid);
    expect(open({ WATCHDOG_USEC: "60000000", WATCHDOG_PID: pid }).watchdogMs).toBe(60_000);
  });

  test("is off when it is another process that is watched, or none", () => {
    expect(open({ WATCHDOG_USEC: "60000000", WATCHDOG_PID: "1" }).watchdogMs).toBeUndefined();
    expect(open({}).watchdogMs).toBeUndefined();
    expect(open({ WATCHDOG_USEC: "many" }).watchdogMs).toBeUndefined();
    expect(openNotifier({ WATCHDOG_USEC: "60000000" }).watchdogMs).toBeUndefined();
  });
});

describe("the address", () => {
  test("of a path ends with NUL, an abstract name begins with it", () => {
    expect([...(unixAddress("/a") ?? [])]).toEqual([1, 0, 0x2f, 0x61, 0]);
    expect([...(unixAddress("@a") ?? [])]).toEqual([1, 0, 0, 0x61]);
  });

  test("is none for what is no unix socket or too long for one", () => {
    for (const target of ["", "vsock:2:1234", "relative", "/", "@"]) {
      expect(unixAddress(target)).toBeUndefined();
    }
    expect(unixAddress(`/${"a".repeat(106)}`)?.length).toBe(110);
    expect(unixAddress(`/${"a".repeat(107)}`)).toBeUndefined();
    expect(unixAddress(`@${"a".repeat(107)}`)?.length).toBe(110);
  });
});

test("monotonicUsec is CLOCK_MONOTONIC, as other programs read it", () => {
  const before = monotonicUsec();
  const script = "use Time::HiRes; printf '%.0f', 1e6 * Time::HiRes::clock_gettime(1)";
  const between = BigInt(Bun.spawnSync(["perl", "-e", script]).stdout.toString());
  expect(between).toBeGreaterThanOrEqual(before);
  expect(between).toBeLessThanOrEqual(monotonicUsec());
});
