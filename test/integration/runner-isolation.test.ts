import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { runFile } from "../runner/bun-file.ts";

let directory: string;
beforeAll(() => {
  // Below test/, where bun test looks for files, and ignored by git.
  mkdirSync(join(import.meta.dir, "../.cache"), { recursive: true });
  directory = mkdtempSync(join(import.meta.dir, "../.cache/isolation-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

async function run(body: string) {
  const path = join(directory, "made-up.test.ts");
  const code = `import { expect, test } from "bun:test";
import { $ } from "bun";
test("made up", async () => {
${body}
});`;
  writeFileSync(path, code);
  return runFile(relative(process.cwd(), path), true);
}

test("a test that cleans up leaves no problem", async () => {
  const result = await run(
    "const target = process.env.TMPDIR;" +
      `await $\`mount -t tmpfs x \${target}\`; await $\`umount \${target}\`;`,
  );
  expect(result).toMatchObject({ passed: 1, failed: 0, problems: [] });
});

test("a mount that stays is named, and does not reach the machine", async () => {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8");
  const result = await run(`const target = ${JSON.stringify(join(directory, "mnt"))};
    await $\`mkdir -p \${target} && mount -t tmpfs x \${target}\`;`);
  expect(result.failed).toBe(1);
  expect(result.problems).toEqual([`mount: / ${join(directory, "mnt")}`]);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(mounts);
});

test("a process that stays is named and ended with its namespace", async () => {
  const alive = join(directory, "alive");
  const loop = `while sleep 0.2; do touch ${alive}; done`;
  const result = await run(`Bun.spawn(["setsid", "sh", "-c", ${JSON.stringify(loop)}], {
    stdio: ["ignore", "ignore", "ignore"], env: { PATH: process.env.PATH } }).unref();
    await Bun.sleep(100);`);
  expect(result.failed).toBe(1);
  expect(result.problems.join("\n")).toMatch(/process: \d+ .*while sleep 0.2/);
  rmSync(alive, { force: true });
  await Bun.sleep(600);
  expect(existsSync(alive)).toBe(false);
});

test("there is a network of its own with lo, a default route and forwarding", async () => {
  const result = await run(`
    const route = await $\`ip route show default\`.text();
    expect(route).toContain("uplink0");
    expect(await $\`ip -br link show lo\`.text()).toContain("UP");
    expect((await Bun.file("/proc/sys/net/ipv4/ip_forward").text()).trim()).toBe("1");
    expect(process.pid).toBeLessThan(100);`);
  expect(result).toMatchObject({ passed: 1, failed: 0, problems: [] });
});
