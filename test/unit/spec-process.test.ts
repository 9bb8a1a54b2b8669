import { describe, expect, test } from "bun:test";
import type { ImageDefaults } from "../../src/container/spec/index.ts";
import {
  buildArgs,
  buildEnvironment,
  buildRlimits,
  buildWorkingDirectory,
} from "../../src/container/spec/process.ts";
import { KeyValue } from "../../src/gen/runtime/v1/common_pb.ts";

const image: ImageDefaults = { Entrypoint: ["/entry", "-e"], Cmd: ["cmd"] };

describe("the command line", () => {
  test.each<[string, string[], string[], ImageDefaults, string[]]>([
    ["nothing given: entrypoint and cmd", [], [], image, ["/entry", "-e", "cmd"]],
    ["args alone: entrypoint and args", [], ["a"], image, ["/entry", "-e", "a"]],
    ["command alone: nothing of the image", ["c"], [], image, ["c"]],
    ["command and args", ["c"], ["a"], image, ["c", "a"]],
    ["args and no entrypoint", [], ["a"], { Entrypoint: null, Cmd: ["x"] }, ["a"]],
    ["cmd and no entrypoint", [], [], { Cmd: ["x"] }, ["x"]],
    ["an empty argument stays", ["c"], [""], {}, ["c", ""]],
  ])("%s", (_, command, args, defaults, expected) => {
    expect(buildArgs({ command, args }, defaults)).toEqual(expected);
  });

  test("without a command at all is refused", () => {
    expect(() => buildArgs({ command: [], args: [] }, {})).toThrow("command: []");
  });

  test("with a NUL byte is refused without showing the arguments", () => {
    expect(() => buildArgs({ command: ["c"], args: ["pass\0word"] }, {})).toThrow(/^command: "c"/);
  });
});

function environment(
  envs: Array<[string, string | Uint8Array]>,
  Env: string[] = [],
  defaults: string[] = [],
) {
  return buildEnvironment({
    envs: envs.map(([key, value]) =>
      KeyValue.fromPartial({
        key,
        value: typeof value === "string" ? Buffer.from(value) : value,
      }),
    ),
    image: { Env },
    defaults,
    hostname: "web-0",
    home: "/home/app",
    terminal: false,
  });
}

describe("the environment", () => {
  test("has PATH, HOSTNAME and HOME when nobody names them", () => {
    expect(environment([]).env).toEqual([
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "HOME=/home/app",
      "HOSTNAME=web-0",
    ]);
  });

  test("takes the node's, then the image's, then the request's, each name once", () => {
    const { env } = environment(
      [["B", "request"]],
      ["B=image", "C=image", "PATH=/p"],
      ["C=node", "D=node"],
    );
    expect(env).toEqual([
      "PATH=/p",
      "HOME=/home/app",
      "HOSTNAME=web-0",
      "C=image",
      "D=node",
      "B=request",
    ]);
  });

  test("keeps values as they are: equal signs, line breaks, a BOM, nothing", () => {
    const value = "\ufeffa=b\n c 😀";
    expect(
      environment([
        ["A", value],
        ["E", ""],
      ]).env.slice(-2),
    ).toEqual([`A=${value}`, "E="]);
  });

  test("leaves out entries of the image that are no variables, with a warning", () => {
    const { env, warnings } = environment([], ["NAME", "=value", "OK=1"]);
    expect(env.slice(3)).toEqual(["OK=1"]);
    expect(warnings).toHaveLength(2);
  });

  test.each<[string, [string, string | Uint8Array]]>([
    ["an empty name", ["", "secret"]],
    ["a name with =", ["A=B", "secret"]],
    ["a NUL byte in the name", ["A\0", "secret"]],
    ["a NUL byte in the value", ["A", "sec\0ret"]],
    ["a value that is not UTF-8", ["A", new Uint8Array([0x73, 0x65, 0x63, 0xff])]],
  ])("refuses %s, never showing the value", (_, entry) => {
    const attempt = () => environment([["FIRST", "1"], entry]);
    expect(attempt).toThrow(/^envs\[1\]\./);
    expect(attempt).not.toThrow(/sec/);
  });
});

test.each<[string, string, ImageDefaults, string]>([
  ["nobody's: the root", "", {}, "/"],
  ["the image's", "", { WorkingDir: "/image" }, "/image"],
  ["the image's, below the root when relative", "", { WorkingDir: "a/b" }, "/a/b"],
  ["the request's, tidied", "/own//../x/", { WorkingDir: "/image" }, "/x"],
])("the working directory is %s", (_, requested, defaults, expected) => {
  expect(buildWorkingDirectory(requested, defaults)).toBe(expected);
});

test("a relative working_dir is refused", () => {
  expect(() => buildWorkingDirectory("x", {})).toThrow(
    'working_dir: "x": must be an absolute path',
  );
});

describe("ulimits", () => {
  test("open files are always limited: 1024 soft, the daemon's own hard", () => {
    const nofile = (soft: string, hard: string) =>
      JSON.stringify({ type: "RLIMIT_NOFILE", soft: Number(soft), hard: Number(hard) });
    expect(JSON.stringify(buildRlimits([], 20_000)[0])).toBe(nofile("1024", "20000"));
    expect(JSON.stringify(buildRlimits(["core=0"], 512)[1])).toBe(nofile("512", "512"));
  });

  test("are soft and hard, one number for both, -1 for unlimited, in exact digits", () => {
    const text = JSON.stringify(
      buildRlimits(["nofile=1024:4096", "nproc=7", "core=0:-1", "as=-1"], 20_000),
    );
    expect(text).toBe(
      '[{"type":"RLIMIT_NOFILE","soft":1024,"hard":4096},{"type":"RLIMIT_NPROC","soft":7,"hard":7},' +
        '{"type":"RLIMIT_CORE","soft":0,"hard":18446744073709551615},' +
        '{"type":"RLIMIT_AS","soft":18446744073709551615,"hard":18446744073709551615}]',
    );
  });

  test.each(["files=1", "nofile", "nofile=2:1", "nofile=-1:5", "nofile=x"])(
    "refuses %p",
    (text) => {
      expect(() => buildRlimits([text], 20_000)).toThrow(`runtime.default_ulimits: "${text}"`);
    },
  );
});
