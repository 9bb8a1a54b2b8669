/** `crib install` and `crib uninstall` on a node with systemd and pods. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { exec, kubeletParent, type Pod, run, runPod, statusOf } from "./cri.ts";
import { busybox, Crib, cleaned, sh, unitState } from "./node.ts";

/** Where the product comes from. */
const carried = "/mnt/crib/bin/crib";
const unit = "/etc/systemd/system/crib.service";
const data = ["/var/lib/crib", "/run/crib"];
const places = [unit, "/usr/local/bin/crib", "/etc/crib", "/etc/crictl.yaml", ...data];

let crib: Crib;
let pod: Pod;
let container: string;

/** What is there of an installation. */
const there = () => places.filter((path) => existsSync(path));

function refused(...argv: string[]): string {
  const { exitCode, stderr } = Bun.spawnSync(argv);
  if (exitCode === 0) throw new Error(`${argv.join(" ")} succeeded`);
  return stderr.toString();
}

const property = (name: string) => sh("systemctl", "show", "-p", name, "--value", "crib").trim();

/** Left by the files before this one. */
beforeAll(async () => {
  if (!existsSync(unit)) return;
  sh("systemctl", "start", "crib");
  const before = new Crib();
  await before.answers();
  await before.removeAll();
  sh(carried, "uninstall", "--purge");
});

afterAll(async () => {
  await crib.removeAll().catch(() => undefined);
});

test("uninstall --purge has left nothing", () => {
  expect(there()).toEqual([]);
});

test("install --now: enabled, running, and crictl finds it without being told", async () => {
  const output = sh(carried, "install", "--now");
  expect(output).toContain("systemctl enable crib.service");
  expect(["UnitFileState", "ActiveState", "Type"].map(property)).toEqual([
    "enabled",
    "active",
    "notify",
  ]);
  expect(sh("crictl", "version")).toContain("RuntimeName:  crib");
  crib = new Crib();
  await crib.image.pullImage({ image: { image: busybox } });
  pod = await runPod(crib, { cgroupParent: kubeletParent("systemd", "install") });
  container = await run(crib, pod);
});

test("again it changes nothing and restarts nothing", () => {
  const pid = crib.pid();
  expect(sh("crib", "install", "--now")).not.toMatch(/^(created|updated)/m);
  expect(crib.pid()).toBe(pid);
});

test("a unit edited by hand is refused with the remedy, and nothing is done; --force does it", async () => {
  appendFileSync(unit, "# mine\n");
  const pid = crib.pid();
  expect(refused(carried, "install", "--now")).toContain(
    `${unit} is edited by hand: --force overwrites it`,
  );
  expect(refused("crib", "uninstall")).toContain("edited by hand");
  expect(readFileSync(unit, "utf8")).toEndWith("# mine\n");
  expect(crib.pid()).toBe(pid);
  const { startedAt } = await statusOf(crib, container);
  sh(carried, "install", "--now", "--force");
  await crib.answers();
  expect(readFileSync(unit, "utf8")).not.toContain("# mine");
  expect(crib.pid()).not.toBe(pid);
  expect((await statusOf(crib, container)).startedAt).toBe(startedAt);
});

test("uninstall on a live node leaves pods and data; install finds them again", async () => {
  const { startedAt } = await statusOf(crib, container);
  expect(refused("crib", "uninstall", "--purge")).toContain("pods still use");
  expect(property("ActiveState")).toBe("active");
  sh("crib", "uninstall");
  expect(there()).toEqual(data);
  expect(unitState("crib")).toBe("inactive");
  expect(unitState(`crio-${container}.scope`)).toBe("active");
  sh(carried, "install", "--now");
  await crib.answers();
  expect((await statusOf(crib, container)).startedAt).toBe(startedAt);
  expect(await exec(crib, container, "echo here")).toBe("here");
});

test("nothing is left when the pods are removed", async () => {
  await crib.removeAll();
  expect(await cleaned()).toEqual([]);
});
