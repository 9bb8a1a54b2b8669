import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "smol-toml";
import { configText } from "../../src/cli/config.ts";
import { defaultConfig, type LoadOptions, loadConfig } from "../../src/config/config.ts";
import { CribError } from "../../src/error.ts";

let directory: string;
let file: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-config-"));
  file = join(directory, "crib.toml");
  mkdirSync(join(directory, "crib.d"));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

async function refusal(options: LoadOptions): Promise<CribError> {
  try {
    await loadConfig(options);
  } catch (error) {
    if (error instanceof CribError) return error;
    throw error;
  }
  throw new Error("the configuration was accepted");
}

describe("sources", () => {
  test("no file at the default place gives the defaults", async () => {
    expect(await loadConfig({ file, fileRequired: false })).toEqual(defaultConfig());
  });

  test("a file that was asked for and is absent is an error that names it", async () => {
    const error = await refusal({ file });
    expect(error.code).toBe("NotFound");
    expect(error.message).toContain(file);
  });

  test("drop-ins beside the file are read in lexical order and merge table by table", async () => {
    writeFileSync(
      file,
      '[log]\nlevel = "debug"\nformat = "json"\n[network]\nbin_dirs = ["/a", "/b"]',
    );
    writeFileSync(join(directory, "crib.d/20-b.toml"), '[log]\nlevel = "error"');
    writeFileSync(
      join(directory, "crib.d/10-a.toml"),
      '[log]\nlevel = "warn"\n[network]\nbin_dirs = ["/c"]',
    );
    writeFileSync(join(directory, "crib.d/30-c.toml.bak"), "not toml");
    const config = await loadConfig({ file });
    expect(config.log).toEqual({ level: "error", format: "json" });
    expect(config.network.bin_dirs).toEqual(["/c"]);
  });

  test("each file has its own drop-in directory, so daemons do not share settings", async () => {
    writeFileSync(file, "");
    writeFileSync(join(directory, "other.toml"), "");
    writeFileSync(join(directory, "crib.d/a.toml"), '[log]\nlevel = "error"');
    const other = await loadConfig({ file: join(directory, "other.toml") });
    expect(other.log.level).toBe("info");
  });

  test("--set wins over files and flags win over --set", async () => {
    writeFileSync(file, '[crib]\nroot = "/file"\nstate = "/file-state"');
    const config = await loadConfig({
      file,
      set: ["crib.root=/set", "crib.state=/set-state"],
      flags: { root: "/flag" },
    });
    expect(config.crib.root).toBe("/flag");
    expect(config.crib.state).toBe("/set-state");
  });

  test("a handler may be described in two sources together", async () => {
    writeFileSync(file, '[runtime.handlers.kata]\nroot = "/run/kata"');
    const set = ["runtime.handlers.kata.path=/usr/bin/kata"];
    const { handlers } = (await loadConfig({ file, set })).runtime;
    expect(handlers).toEqual({ kata: { path: "/usr/bin/kata", root: "/run/kata" } });
  });
});

describe("--set", () => {
  const cases: Array<
    [string, (config: Awaited<ReturnType<typeof loadConfig>>) => unknown, unknown]
  > = [
    ["log.level=debug", (c) => c.log.level, "debug"],
    ["log.level='debug'", (c) => c.log.level, "debug"],
    ["network.timeout_seconds=2.5", (c) => c.network.timeout_seconds, 2.5],
    ['network.bin_dirs=["/x", "/y"]', (c) => c.network.bin_dirs, ["/x", "/y"]],
    [
      "runtime.handlers.runc={ path = '/x', allowed_annotations = ['run.oci.*'] }",
      (c) => c.runtime.handlers,
      { runc: { path: "/x", allowed_annotations: ["run.oci.*"] } },
    ],
    ["runtime.handlers.runc.path=/x", (c) => c.runtime.handlers, { runc: { path: "/x" } }],
    ["runtime.cgroup_parent=123", (c) => c.runtime.cgroup_parent, "123"],
    ["runtime.cgroup_parent=/a=b", (c) => c.runtime.cgroup_parent, "/a=b"],
    [
      'runtime.default_sysctls."net.ipv4.ip_forward"=1',
      (c) => c.runtime.default_sysctls,
      { "net.ipv4.ip_forward": "1" },
    ],
  ];
  for (const [assignment, read, expected] of cases) {
    test(assignment, async () => {
      const config = await loadConfig({ file, fileRequired: false, set: [assignment] });
      expect(read(config)).toEqual(expected);
    });
  }
});

describe("a bad file is refused with its place, key, value and the nearest key", () => {
  const cases: Array<[text: string, message: string]> = [
    ['[log]\n\nlevle = "info"', "FILE:3: log.levle: unknown key (did you mean log.level?)"],
    ["[netwrok]", "FILE:1: netwrok: unknown key (did you mean network?)"],
    [
      '[crib]\nconf_dir = "/x"',
      "FILE:2: crib.conf_dir: unknown key (did you mean network.conf_dir?)",
    ],
    ["[log]\nzzzzzzzzzzzz = 1", "FILE:2: log.zzzzzzzzzzzz: unknown key"],
    [
      '[log]\nlevel = "loud"',
      'FILE:2: log.level: "loud" is not one of trace, debug, info, warn, error',
    ],
    ["log.level = 3", "FILE:1: log.level: 3 is not one of trace, debug, info, warn, error"],
    ["[crib]\nroot = 3", "FILE:2: crib.root: 3 is not a string"],
    ['[crib]\nroot = "lib"', 'FILE:2: crib.root: "lib" must be an absolute path'],
    ["crib = 1", "FILE:1: crib: 1 is not a table"],
    ['[network]\nbin_dirs = "/x"', 'FILE:2: network.bin_dirs: "/x" is not an array'],
    ["[network]\nbin_dirs = []", "FILE:2: network.bin_dirs: [] must name at least one directory"],
    [
      '[network]\nbin_dirs = [\n "/x",\n "y"]',
      'FILE:2: network.bin_dirs.1: "y" must be an absolute path',
    ],
    ["[network]\ntimeout_seconds = 0", "FILE:2: network.timeout_seconds: 0 must be at least 0.1"],
    [
      "[image]\nmax_parallel_layers = 1.5",
      "FILE:2: image.max_parallel_layers: 1.5 must be a whole",
    ],
    [
      "[image]\ndownload_limit_bytes_per_second = 1000",
      "FILE:2: image.download_limit_bytes_per_second: 1000 must be 0, or at least 1024",
    ],
    ["[metrics]\naddress = ':9090'", 'FILE:2: metrics.address: ":9090" must be HOST:PORT'],
    ["[metrics]\naddress = 'a:99999'", 'FILE:2: metrics.address: "a:99999" must be HOST:PORT'],
    ...[0, 31, 64.5, -2, '"max"', 2 ** 22 + 1].map((value): [string, string] => [
      `[container]\npids_limit = ${value}`,
      `FILE:2: container.pids_limit: ${value} must be "auto", -1 (no limit) or 32 to 4194304`,
    ]),
    ["[image]\nmax_layer_bytes = 0", "FILE:2: image.max_layer_bytes: 0 must be at least 1"],
    [
      "[runtime.handlers.a]\npath = '/x'\nroots = '/y'",
      "FILE:3: runtime.handlers.a.roots: unknown key (did you mean runtime.handlers.a.root?)",
    ],
    ["[runtime.handlers.a]\nroot = '/y'", "FILE: runtime.handlers.a.path: is missing"],
    [
      "[runtime.handlers.A_b]\npath = '/y'",
      'FILE:1: runtime.handlers.A_b: "A_b" must be a handler',
    ],
    [
      "[runtime]\ndefault_capabilities = ['CAP_CHOWN']",
      'FILE:2: runtime.default_capabilities.0: "CAP_CHOWN" must be a capability in capitals',
    ],
    ["[runtime]\ndefault_ulimits = ['nofile']", 'FILE:2: runtime.default_ulimits.0: "nofile" must'],
    [
      "[runtime]\nseccomp_profile = 'x'",
      'FILE:2: runtime.seccomp_profile: "x" must be an absolute',
    ],
    [
      "[runtime]\nallowed_annotations = ['a*b']",
      'FILE:2: runtime.allowed_annotations.0: "a*b" must be a name, with "*" only at its end',
    ],
    ["[runtime]\ndefault_env = ['A']", 'FILE:2: runtime.default_env.0: "A" must look like'],
    ["[log\nlevel=", "FILE:1:5: Invalid TOML"],
    ["[log]\nlevel = 'info'\nlevel = 'warn'", "FILE:3:"],
    ["[crib]\nroot = '/a'\nstate = '/a'", "crib.root and crib.state are both /a"],
    [
      "[runtime]\ndefault_handler = 'kata'\n[runtime.handlers.runc]\npath = '/x'",
      'runtime.default_handler: "kata" is none of runtime.handlers (runc)',
    ],
    ["[streaming]\naddress = 'localhost'", 'FILE:2: streaming.address: "localhost" must be an IP'],
    ["[streaming]\nport = 70000", "FILE:2: streaming.port: 70000 must be at most 65535"],
    [
      "[streaming]\ntls_cert_file = '/x'",
      "streaming.tls_cert_file and streaming.tls_key_file: need",
    ],
    [
      "[streaming]\ntls_key_file = '/x'",
      "streaming.tls_cert_file and streaming.tls_key_file: need",
    ],
    ["[streaming]\ntls_client_ca_file = '/x'", "need both for streaming.tls_client_ca_file"],
    [`[crib]\nsocket = '/${"x".repeat(107)}'`, "is longer than the 107 bytes"],
  ];
  for (const [text, message] of cases) {
    test(JSON.stringify(text).slice(0, 60), async () => {
      writeFileSync(file, text);
      const error = await refusal({ file });
      expect(error.code).toBe("InvalidArgument");
      expect(error.message.replaceAll(file, "FILE")).toContain(message);
    });
  }

  test("every problem of a file is told at once, in the order of the file", async () => {
    writeFileSync(file, '[log]\nlevle = 1\nlevel = "loud"\n[image]\npinned = 3');
    const lines = (await refusal({ file })).message.split("\n");
    expect(lines.map((line) => line.replace(file, "").slice(0, 3))).toEqual([":2:", ":3:", ":5:"]);
  });

  test("a problem in a drop-in names the drop-in", async () => {
    writeFileSync(file, "");
    const dropIn = join(directory, "crib.d/a.toml");
    writeFileSync(dropIn, "[log]\nx = 1");
    expect((await refusal({ file })).message).toStartWith(`${dropIn}:2: log.x`);
  });

  test("a bad --set or flag is named", async () => {
    const set = await refusal({ file, fileRequired: false, set: ["log.level=loud"] });
    expect(set.message).toStartWith("--set log.level=loud: log.level:");
    const shape = await refusal({ file, fileRequired: false, set: ["loglevel"] });
    expect(shape.message).toContain("must look like section.key=value");
    const flag = await refusal({ file, fileRequired: false, flags: { root: "x" } });
    expect(flag.message).toStartWith("--root: crib.root:");
  });
});

describe("crib config", () => {
  test("the default file changes nothing as it is, and states every default when uncommented", async () => {
    const text = await configText({ default: true });
    writeFileSync(file, text);
    expect(await loadConfig({ file })).toEqual(defaultConfig());
    expect(parse(text.replaceAll(/^#(?=[a-z_]+ = )/gm, ""))).toEqual(
      parse(await configText({ config: file })),
    );
  });

  test("the effective configuration can be used as a file again", async () => {
    writeFileSync(file, '[runtime.default_sysctls]\n"net.core.somaxconn" = "5"');
    const set = ["runtime.handlers.runc.path=/x"];
    const effective = await configText({ config: file, set });
    writeFileSync(file, effective);
    const config = await loadConfig({ file });
    expect(config.runtime.handlers).toEqual({ runc: { path: "/x" } });
    expect(config.runtime.default_sysctls).toEqual({ "net.core.somaxconn": "5" });
    expect(JSON.parse(await configText({ config: file, json: true }))).toEqual(config);
  });
});
