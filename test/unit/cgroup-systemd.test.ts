import { describe, expect, test } from "bun:test";
import { detectCgroups } from "../../src/linux/cgroup.ts";
import {
  expandSlice,
  placeCgroup,
  startScope,
  startScopeCommand,
  stopScope,
} from "../../src/linux/systemd.ts";

const ID = "ab".repeat(32);
const HOST = detectCgroups("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", () => "memory");
const SCOPE = {
  unit: `crio-${ID}.scope`,
  slice: "kubepods-podx.slice",
  pids: [12, 34],
  description: "pod default/web",
  deadlineMs: 50,
};

function answering(result: { exitCode: number; stderr?: string; timedOut?: boolean }) {
  return () => Promise.resolve({ stdout: "", stderr: "", timedOut: false, ...result });
}

describe("slices", () => {
  test("a dash is a level", () => {
    expect(expandSlice("kubepods-burstable-podX.slice")).toBe(
      "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice",
    );
    expect(expandSlice("system.slice")).toBe("/system.slice");
    expect(expandSlice("-.slice")).toBe("/");
  });

  test.each([
    "",
    "kubepods",
    "a--b.slice",
    "-a.slice",
    "a-.slice",
    ".slice",
    "a/b.slice",
    "a b.slice",
  ])("%j is refused", (name) => {
    expect(() => expandSlice(name)).toThrow(/cgroup parent/);
  });
});

describe("placeCgroup", () => {
  test("cgroupfs: below the parent, with cAdvisor's name", () => {
    expect(placeCgroup("cgroupfs", "/kubepods/burstable/podX/", ID)).toEqual({
      path: `/kubepods/burstable/podX/crio-${ID}`,
      cgroupsPath: `/kubepods/burstable/podX/crio-${ID}`,
    });
    expect(placeCgroup("cgroupfs", "", ID).path).toBe(`/crib/crio-${ID}`);
    expect(placeCgroup("cgroupfs", "/", ID).path).toBe(`/crio-${ID}`);
  });

  test("systemd: a scope in the slice, in the form that runc takes", () => {
    const expected = {
      path: `/kubepods.slice/kubepods-podX.slice/crio-${ID}.scope`,
      cgroupsPath: `kubepods-podX.slice:crio:${ID}`,
      unit: `crio-${ID}.scope`,
      slice: "kubepods-podX.slice",
    };
    expect(placeCgroup("systemd", "kubepods-podX.slice", ID)).toEqual(expected);
    expect(placeCgroup("systemd", "/kubepods.slice/kubepods-podX.slice", ID)).toEqual(expected);
    expect(placeCgroup("systemd", "", ID).path).toBe(`/crib.slice/crio-${ID}.scope`);
    expect(placeCgroup("systemd", "/", ID).path).toBe(`/crio-${ID}.scope`);
  });

  test("a parent that does not fit the driver is refused", () => {
    expect(() => placeCgroup("systemd", "/kubepods/podX", ID)).toThrow(
      /"\/kubepods\/podX": not a systemd slice .* kubelet's cgroupDriver to systemd/,
    );
    expect(() => placeCgroup("cgroupfs", "/kubepods.slice", ID)).toThrow(
      /driver is cgroupfs: set the kubelet's cgroupDriver to cgroupfs/,
    );
    expect(() => placeCgroup("cgroupfs", "kubepods", ID)).toThrow(/not absolute/);
    expect(() => placeCgroup("cgroupfs", "/../etc", ID)).toThrow(/not allowed/);
  });

  test("a path where systemd would not put the slice is refused", () => {
    expect(() => placeCgroup("systemd", "/other/kubepods-podX.slice", ID)).toThrow(
      /systemd puts kubepods-podX.slice at \/kubepods.slice\/kubepods-podX.slice/,
    );
  });
});

describe("scopes", () => {
  test("the D-Bus call carries as many properties and pids as it announces", () => {
    const argv = startScopeCommand(SCOPE);
    const start = argv.indexOf("ssa(sv)a(sa(sv))");
    expect(argv.slice(start + 1, start + 3)).toEqual([SCOPE.unit, "fail"]);
    const rest = argv.slice(start + 4);
    const names: string[] = [];
    while (rest.length > 1) {
      const [name, signature] = rest.splice(0, 2);
      names.push(name ?? "");
      const values = signature === "au" ? 1 + Number(rest[0]) : 1;
      rest.splice(0, values);
    }
    expect(rest).toEqual(["0"]);
    expect(names).toHaveLength(Number(argv[start + 3]));
    expect(names).toEqual(expect.arrayContaining(["Slice", "PIDs", "Delegate"]));
    expect(argv.join(" ")).toContain("PIDs au 2 12 34");
  });

  test("without busctl or a bus the error names the option and the remedy", async () => {
    const missing = () => Promise.reject(new Error("ENOENT: busctl"));
    await expect(startScope(HOST, SCOPE, missing)).rejects.toMatchObject({
      code: "FailedPrecondition",
      message: expect.stringMatching(/cgroup_driver systemd: .*busctl.*runtime\.cgroup_driver/),
    });
    const refused = answering({ exitCode: 1, stderr: "Failed to connect to bus: gone\n" });
    await expect(startScope(HOST, SCOPE, refused)).rejects.toMatchObject({
      code: "FailedPrecondition",
      message: expect.stringContaining("Failed to connect to bus: gone"),
    });
  });

  test("an unanswered call and pids that do not arrive in the scope are deadline errors", async () => {
    const silent = answering({ exitCode: 137, timedOut: true });
    await expect(startScope(HOST, SCOPE, silent)).rejects.toMatchObject({
      code: "DeadlineExceeded",
    });
    const options = { ...SCOPE, pids: [process.pid], deadlineMs: 5 };
    await expect(startScope(HOST, options, answering({ exitCode: 0 }))).rejects.toMatchObject({
      code: "DeadlineExceeded",
      message: expect.stringContaining(String(process.pid)),
    });
  });

  test("stopping a scope that is not there is fine, another failure is not", async () => {
    const gone = answering({ exitCode: 1, stderr: "Call failed: Unit x.scope not loaded." });
    await stopScope("x.scope", 10, gone);
    const denied = answering({ exitCode: 1, stderr: "Call failed: Access denied" });
    await expect(stopScope("x.scope", 10, denied)).rejects.toThrow(/Access denied/);
  });
});
