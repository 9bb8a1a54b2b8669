import { describe, expect, test } from "bun:test";
import { crictlText, hasCopiedExecutable, unitText } from "../../src/cli/install/content.ts";
import {
  type InstallFacts,
  planInstall,
  planUninstall,
  type UninstallFacts,
} from "../../src/cli/install/plan.ts";
import { authorshipOf, sign } from "../../src/cli/install/signed.ts";

describe("a signed file", () => {
  test("is ours until a character of it changes", () => {
    const text = sign("[Service]\nExecStart=/x\n");
    expect(authorshipOf(text)).toBe("ours");
    expect(authorshipOf(text.replace("/x", "/y"))).toBe("edited");
    expect(authorshipOf(`${text}\n`)).toBe("edited");
    expect(authorshipOf("[Service]\n")).toBe("foreign");
    expect(authorshipOf("")).toBe("foreign");
    expect(authorshipOf(`\n${text}`)).toBe("foreign");
  });
});

const unit = { path: "/etc/systemd/system/crib.service", body: "unit 2\n", whenEdited: "refuse" };
const config = { path: "/etc/crib/crib.toml", body: "config 2\n", whenEdited: "keep" };

function facts(current: { unit?: string; config?: string }, more: Partial<InstallFacts> = {}) {
  return {
    directories: [{ path: "/etc/crib", mode: 0o755, exists: false }],
    files: [
      { ...config, current: current.config },
      { ...unit, current: current.unit },
    ] as InstallFacts["files"],
    force: false,
    ...more,
  };
}

const actions = (of: InstallFacts) =>
  planInstall(of).map(({ path, action }) => `${action} ${path}`);

describe("install", () => {
  test("creates all where there is nothing", () => {
    const executable = { path: "/usr/local/bin/crib", exists: false, same: false };
    expect(actions(facts({}, { executable }))).toEqual([
      "created /etc/crib",
      "created /usr/local/bin/crib",
      "created /etc/crib/crib.toml",
      "created /etc/systemd/system/crib.service",
    ]);
  });

  test("again changes nothing", () => {
    const again = facts(
      { unit: sign(unit.body), config: sign(config.body) },
      {
        directories: [{ path: "/etc/crib", mode: 0o755, exists: true }],
        executable: { path: "/usr/local/bin/crib", exists: true, same: true },
      },
    );
    expect(planInstall(again).map(({ action }) => action)).toEqual(Array(4).fill("unchanged"));
  });

  test("of a newer version updates what nobody touched", () => {
    const newer = facts(
      { unit: sign("unit 1\n"), config: sign("config 1\n") },
      { executable: { path: "/usr/local/bin/crib", exists: true, same: false } },
    );
    expect(actions(newer).slice(1)).toEqual([
      "updated /usr/local/bin/crib",
      "updated /etc/crib/crib.toml",
      "updated /etc/systemd/system/crib.service",
    ]);
  });

  test("keeps configuration that somebody changed or wrote", () => {
    for (const text of [`${sign("config 1\n")}more = 1\n`, "[log]\n", ""]) {
      const [, step] = planInstall(facts({ config: text }));
      expect(step?.action).toBe("kept");
    }
  });

  test.each([
    ["edited by hand", sign("unit 1\n").replace("unit 1", "unit 1a")],
    ["not written by crib install", "[Service]\n"],
  ])("refuses a unit that was %s, and --force overwrites it", (why, text) => {
    expect(() => planInstall(facts({ unit: text }))).toThrow(
      `/etc/systemd/system/crib.service is ${why}: --force overwrites it`,
    );
    const forced = planInstall(facts({ unit: text }, { force: true })).at(-1);
    expect(forced).toMatchObject({ action: "updated", text: sign(unit.body) });
  });
});

describe("uninstall", () => {
  const installed: UninstallFacts = {
    unit: { path: "/unit", current: sign("unit\n") },
    executable: "/usr/local/bin/crib",
    configuration: [
      { path: "/etc/crib/crib.toml", current: sign("config\n"), drops: true },
      { path: "/etc/crictl.yaml", current: sign("crictl\n"), drops: false },
    ],
    data: ["/var/lib/crib/crib.db"],
    directories: ["/etc/crib"],
    purge: false,
    force: false,
  };
  const plan = (changes: Partial<UninstallFacts> = {}) =>
    planUninstall({ ...installed, ...changes }).map(({ path, action }) => `${action} ${path}`);

  test("takes back what install did and leaves data", () => {
    expect(plan()).toEqual([
      "removed /unit",
      "removed /usr/local/bin/crib",
      "removed /etc/crib/crib.toml",
      "removed /etc/crictl.yaml",
      "kept /var/lib/crib/crib.db",
      "removed /etc/crib",
    ]);
  });

  test("--purge takes data and changed configuration, but no crictl.yaml that others wrote", () => {
    const configuration = [
      { path: "/etc/crib/crib.toml", current: "[log]\n", drops: true },
      { path: "/etc/crictl.yaml", current: "debug: true\n", drops: false },
    ];
    expect(plan({ configuration })).toContain("kept /etc/crib/crib.toml");
    const purged = plan({ configuration, purge: true });
    expect(purged).toContain("removed /etc/crib/crib.toml");
    expect(purged).toContain("kept /etc/crictl.yaml");
    expect(purged).toContain("removed /var/lib/crib/crib.db");
  });

  test("refuses a unit that was edited, and --force removes it", () => {
    const edited = { path: "/unit", current: `${sign("unit\n")}x` };
    expect(() => plan({ unit: edited })).toThrow("/unit is edited by hand: --force removes it");
    expect(plan({ unit: edited, force: true })[0]).toBe("removed /unit");
  });

  test("where nothing is installed does nothing", () => {
    const none = { path: "/unit", current: undefined };
    const absent = { unit: none, executable: undefined, configuration: [], data: [] };
    expect(plan({ ...absent, directories: [] })).toEqual([]);
  });
});

describe("the unit", () => {
  const text = unitText({
    executable: "/usr/local/bin/crib",
    configFile: "/etc/crib/crib.toml",
    copied: true,
  });
  const key = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(text)?.[1];

  test("leaves pods alone when the daemon ends, and starts it again", () => {
    expect(key("KillMode")).toBe("process");
    expect(key("Delegate")).toBe("yes");
    expect(key("Restart")).toBe("always");
    expect(key("OOMPolicy")).toBe("continue");
  });

  test("ends a daemon that leaks before the node is out of memory, and slows down none", () => {
    expect(key("MemoryMax")).toBe("2G");
    expect(key("MemoryHigh")).toBe(undefined);
    expect(key("TasksMax")).toBe("infinity");
  });

  test("tells systemd how the daemon speaks to it", () => {
    expect(key("Type")).toBe("notify");
    expect(key("NotifyAccess")).toBe("main");
    expect(Number(key("WatchdogSec"))).toBeGreaterThan(0);
    expect(key("ExecReload")).toBe("/bin/kill -HUP $MAINPID");
    expect(key("Before")).toContain("kubelet.service");
  });

  test("waits longer for a stop than the daemon does for its operations", () => {
    expect(Number(key("TimeoutStopSec"))).toBeGreaterThan(20);
  });

  test("names the configuration only where it is not the default one", () => {
    expect(key("ExecStart")).toBe("/usr/local/bin/crib serve");
    const other = { executable: "/usr/bin/crib", configFile: "/srv/crib.toml", copied: false };
    expect(unitText(other)).toContain("ExecStart=/usr/bin/crib serve --config /srv/crib.toml\n");
  });

  test("remembers whether the executable is a copy", () => {
    expect(hasCopiedExecutable(text)).toBe(true);
    const own = { executable: "/usr/bin/crib", configFile: "/etc/crib/crib.toml", copied: false };
    expect(hasCopiedExecutable(unitText(own))).toBe(false);
  });
});

test("crictl.yaml names the configured socket for both services", () => {
  const text = crictlText("/run/x.sock");
  expect(text).toContain("runtime-endpoint: unix:///run/x.sock\n");
  expect(text).toContain("image-endpoint: unix:///run/x.sock\n");
});
