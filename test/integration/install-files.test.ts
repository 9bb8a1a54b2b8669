/** `crib install` and `crib uninstall` below a directory that stands for "/". */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { loadConfig } from "../../src/config/config.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
const UNIT = "etc/systemd/system/crib.service";
let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "crib-install-"));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

function crib(program: string, ...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([program, ...args, "--root-dir", root]);
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

function run(...args: string[]) {
  const result = crib(CRIB, ...args);
  if (result.exitCode !== 0) throw new Error(result.stderr);
  return result.stdout;
}

const read = (path: string) => readFileSync(join(root, path), "utf8");
const files = () =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();

/** The action that was reported for a path. */
function action(output: string, path: string): string | undefined {
  const line = output.split("\n").find((it) => it.includes(` ${join(root, path)}`));
  return line?.split(`${join(root, path)}`)[0]?.trim();
}

const ALL = ["etc/crib/crib.toml", "etc/crictl.yaml", UNIT, "usr/local/bin/crib"].sort();

describe("install", () => {
  test("makes a node of an empty directory", async () => {
    const output = run("install");
    expect(files()).toEqual(ALL);
    for (const path of ALL) expect(action(output, path)).toBe("created");
    expect(statSync(join(root, "usr/local/bin/crib")).mode & 0o777).toBe(0o755);
    expect(statSync(join(root, "var/lib/crib")).mode & 0o777).toBe(0o711);
    expect(Bun.spawnSync([join(root, "usr/local/bin/crib"), "version"]).exitCode).toBe(0);
    expect(read(UNIT)).toContain("ExecStart=/usr/local/bin/crib serve\n");
    expect(read("etc/crictl.yaml")).toContain("unix:///run/crib/crib.sock");
    await loadConfig({ file: join(root, "etc/crib/crib.toml") });
  });

  test("again, also by the installed executable, changes nothing", () => {
    run("install");
    const before = files().map((path) => statSync(join(root, path)).mtimeMs);
    for (const program of [CRIB, join(root, "usr/local/bin/crib")]) {
      const { stdout } = crib(program, "install");
      for (const path of [...ALL.slice(0, 3), "var/lib/crib"]) {
        expect(action(stdout, path)).toBe("unchanged");
      }
    }
    expect(files().map((path) => statSync(join(root, path)).mtimeMs)).toEqual(before);
  });

  test("--dry-run says what it would do and does nothing", () => {
    const output = run("install", "--dry-run");
    for (const path of ALL) expect(action(output, path)).toBe("would be created");
    expect(readdirSync(root)).toEqual([]);
  });

  test("replaces an executable of another version", () => {
    run("install");
    writeFileSync(join(root, "usr/local/bin/crib"), "old");
    expect(action(run("install"), "usr/local/bin/crib")).toBe("updated");
    expect(Bun.spawnSync([join(root, "usr/local/bin/crib"), "version"]).exitCode).toBe(0);
  });

  test("of a unit edited by hand is refused before anything is done; --force does it", () => {
    run("install");
    appendFileSync(join(root, UNIT), "Nice=5\n");
    rmSync(join(root, "etc/crictl.yaml"));
    const refused = crib(CRIB, "install");
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toContain(`${UNIT} is edited by hand: --force overwrites it`);
    expect(existsSync(join(root, "etc/crictl.yaml"))).toBe(false);
    expect(read(UNIT)).toContain("Nice=5");
    run("install", "--force");
    expect(read(UNIT)).not.toContain("Nice=5");
    expect(existsSync(join(root, "etc/crictl.yaml"))).toBe(true);
  });

  test("keeps a configuration that is there, and follows it", () => {
    mkdirSync(join(root, "etc/crib"), { recursive: true });
    writeFileSync(join(root, "etc/crib/crib.toml"), '[crib]\nsocket = "/run/other.sock"\n');
    writeFileSync(join(root, "etc/crictl.yaml"), "debug: true\n");
    const output = run("install");
    expect(action(output, "etc/crib/crib.toml")).toBe("kept");
    expect(action(output, "etc/crictl.yaml")).toBe("kept");
    expect(read("etc/crictl.yaml")).toBe("debug: true\n");
    rmSync(join(root, "etc/crictl.yaml"));
    run("install");
    expect(read("etc/crictl.yaml")).toContain("unix:///run/other.sock");
  });

  test("with a configuration that is not valid does nothing and names the line", () => {
    mkdirSync(join(root, "etc/crib"), { recursive: true });
    writeFileSync(join(root, "etc/crib/crib.toml"), '[log]\nlevle = "info"\n');
    const { exitCode, stderr } = crib(CRIB, "install");
    expect(exitCode).toBe(1);
    expect(stderr).toContain("crib.toml:2: log.levle: unknown key");
    expect(files()).toEqual(["etc/crib/crib.toml"]);
  });

  test("on a full disk leaves nothing half done", () => {
    expect(Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=1m", "full", root]).exitCode).toBe(0);
    try {
      const { exitCode, stderr } = crib(CRIB, "install");
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(/cannot write .*crib: ENOSPC/);
      expect(readdirSync(root)).toEqual([]);
    } finally {
      Bun.spawnSync(["umount", root]);
    }
  });

  test("--config-dir goes into the unit; odd names are refused", () => {
    run("install", "--config-dir", "/srv/crib");
    expect(read(UNIT)).toContain("serve --config /srv/crib/crib.toml\n");
    expect(existsSync(join(root, "srv/crib/crib.toml"))).toBe(true);
    for (const name of ["relative", "/a b", "/%n"]) {
      const { exitCode, stderr } = crib(CRIB, "install", "--config-dir", name);
      expect(exitCode).toBe(1);
      expect(stderr).toContain("--config-dir");
    }
  });

  test("--now does not go with --root-dir", () => {
    const { exitCode, stderr } = crib(CRIB, "install", "--now");
    expect(exitCode).toBe(1);
    expect(stderr).toContain("--now");
    expect(readdirSync(root)).toEqual([]);
  });
});

test.skipIf(existsSync("/run/systemd/system"))("install --now without systemd is refused", () => {
  const { exitCode, stderr } = Bun.spawnSync([CRIB, "install", "--now", "--dry-run"]);
  expect(exitCode).toBe(1);
  expect(stderr.toString()).toContain("--now: systemd does not run here");
});

describe("uninstall", () => {
  beforeEach(() => {
    run("install");
  });

  test("takes back all that install made, also when run from the copy", () => {
    const { exitCode } = crib(join(root, "usr/local/bin/crib"), "uninstall");
    expect(exitCode).toBe(0);
    expect(files()).toEqual([]);
    expect(existsSync(join(root, "etc/crib"))).toBe(false);
    expect(run("uninstall")).toContain("nothing is installed");
  });

  test("--dry-run only says so", () => {
    expect(action(run("uninstall", "--dry-run"), UNIT)).toBe("would be removed");
    expect(files()).toEqual(ALL);
  });

  test("leaves data and changed configuration; --purge takes them, and nothing that is not Crib's", () => {
    const data = join(root, "var/lib/crib");
    mkdirSync(join(data, "layers/x"), { recursive: true });
    for (const name of ["crib.db", "lock", "family-photo.jpg"]) writeFileSync(join(data, name), "");
    appendFileSync(join(root, "etc/crib/crib.toml"), "# mine\n");
    writeFileSync(join(root, "etc/crib/crib.d/10.toml"), "");
    const output = run("uninstall");
    expect(action(output, "var/lib/crib")).toBe("kept");
    expect(action(output, "etc/crib/crib.toml")).toBe("kept");
    expect(existsSync(join(data, "layers/x"))).toBe(true);
    run("uninstall", "--purge");
    expect(files()).toEqual(["var/lib/crib/family-photo.jpg"]);
    expect(readdirSync(data)).toEqual(["family-photo.jpg"]);
  });

  test("--purge is refused while pods have mounts there", () => {
    const pod = join(root, "var/lib/crib/containers/c/merged");
    mkdirSync(pod, { recursive: true });
    Bun.spawnSync(["mount", "-t", "tmpfs", "pod", pod]);
    writeFileSync(join(pod, "precious"), "");
    try {
      const { exitCode, stderr } = crib(CRIB, "uninstall", "--purge");
      expect(exitCode).toBe(1);
      expect(stderr).toContain("pods still use");
      expect(existsSync(join(pod, "precious"))).toBe(true);
      expect(existsSync(join(root, UNIT))).toBe(true);
    } finally {
      Bun.spawnSync(["umount", pod]);
    }
  });

  test("of a unit edited by hand is refused; --force does it", () => {
    appendFileSync(join(root, UNIT), "Nice=5\n");
    expect(crib(CRIB, "uninstall").exitCode).toBe(1);
    expect(files()).toEqual(ALL);
    run("uninstall", "--force");
    expect(existsSync(join(root, UNIT))).toBe(false);
  });
});
