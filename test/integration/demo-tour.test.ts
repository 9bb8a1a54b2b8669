import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { detectCgroups, removeCgroup } from "../../src/linux/cgroup.ts";

const DEMO = join(import.meta.dir, "../demo/demo.ts");

let directory: string;
let temporary: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "demo-test-"));
  temporary = join(directory, "tmp");
  mkdirSync(temporary);
});

afterEach(() => rmSync(directory, { recursive: true }));

function startDemo(path = process.env.PATH ?? "") {
  const child = Bun.spawn([process.execPath, DEMO, "--no-build"], {
    env: { ...process.env, TMPDIR: temporary, PATH: path },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const output = { text: "" };
  const read = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) output.text += decoder.decode(chunk, { stream: true });
  })();
  return {
    child,
    async ended() {
      const [exitCode] = await Promise.all([child.exited, read]);
      return { exitCode, output: output.text };
    },
    /** Waits until the step is done; then the name of this demo's directory and cgroup. */
    async after(step: string): Promise<string> {
      while (!output.text.includes(`✓ ${step}`)) {
        if (child.exitCode !== null) throw new Error(`the demo ended:\n${output.text}`);
        await Bun.sleep(10);
      }
      return readdirSync(temporary)[0] ?? "";
    },
  };
}

/** What is there of a demo: files, cgroups, processes. */
function leftOf(name: string): string[] {
  const trees = [
    "/sys/fs/cgroup",
    ...readdirSync("/sys/fs/cgroup").map((tree) => `/sys/fs/cgroup/${tree}`),
  ];
  return [
    ...readdirSync(temporary),
    ...trees.flatMap((tree) => entries(tree).filter((entry) => entry === name)),
    ...entries("/proc").filter((pid) => commandLine(pid).includes(name)),
  ];
}

function entries(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return []; // a file
  }
}

function commandLine(pid: string): string {
  try {
    return /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, "utf8") : "";
  } catch {
    return ""; // it ended while we looked
  }
}

test("the demo shows a pod's whole life and leaves nothing", async () => {
  const demo = startDemo();
  const name = await demo.after("Create and start a container");
  expect(leftOf(name)).not.toEqual([]);
  const { exitCode, output } = await demo.ended();
  expect(output).not.toContain("✗");
  expect(exitCode).toBe(0);
  for (const line of [
    /✓ Pull the image +sha256:[0-9a-f]{12}/,
    /✓ Run a pod sandbox +10\.85\.0\.\d+ by bridge and host-local/,
    /✓ GET the pod's page by host port +"hello from a pod" through portmap/,
    /stdout F hello from web\n/,
    /✓ Exec in it .*\n +uid=0\(root\)/,
    /✓ Read its stats +[1-9]\d* KiB memory, [1-9]\d* ms CPU/,
    /✓ Kill the daemon \(SIGKILL\) +without it: [1-9]\d* lines of log, the page answers/,
    /✓ Start the daemon again +still process \d+/,
    /containers +1 running, 0 created, 0 exited/,
    /✓ Stop and remove everything +exit code 7, its last words: "bye at tick \d+"/,
    /✓ Look for what is left +no mount, process, cgroup, address, file or row/,
    /\nDone in [\d.]+ s: a pod ran, outlived its daemon, and left nothing behind\.\n$/,
  ]) {
    expect(output).toMatch(line);
  }
  expect(output).not.toContain("\x1b");
  expect(leftOf(name)).toEqual([]);
});

test("a failed step is named with its cause and the daemon's log, and nothing stays", async () => {
  const bin = join(directory, "bin");
  mkdirSync(bin);
  const runc = Bun.which("runc", { PATH: `${process.env.PATH}:/usr/sbin` });
  // Works until a container is to be started.
  await Bun.write(
    join(bin, "runc"),
    `#!/bin/sh\ncase " $* " in *" start "*) exit 1;; esac\nexec ${runc} "$@"\n`,
  );
  await Bun.write(join(bin, "crun"), "#!/bin/sh\nexit 1\n");
  for (const program of ["runc", "crun"]) chmodSync(join(bin, program), 0o755);
  const demo = startDemo(`${bin}:${process.env.PATH}`);
  const name = await demo.after("Run a pod sandbox");
  const { exitCode, output } = await demo.ended();
  expect(exitCode).toBe(1);
  expect(output).toMatch(/✗ Create and start a container\n +.*runc start/);
  const log = /The daemon's log: (.*)\n/.exec(output)?.[1] ?? "";
  expect(readFileSync(log, "utf8")).toContain('"rpc":"StartContainer"');
  expect(leftOf(name)).toEqual([]);
});

test.each(["SIGINT", "SIGKILL"] as const)("%s ends everything that it runs", async (signal) => {
  const demo = startDemo();
  const name = await demo.after("Create and start a container");
  demo.child.kill(signal);
  const { exitCode } = await demo.ended();
  if (signal === "SIGINT") {
    expect(exitCode).toBe(130);
    expect(leftOf(name)).toEqual([]);
    return;
  }
  // Nobody is left to remove files and cgroups, but no process goes on.
  const processes = () => entries("/proc").filter((pid) => commandLine(pid).includes(name));
  while (processes().length > 0) await Bun.sleep(20);
  await removeCgroup(detectCgroups(), `/${name}`);
});
