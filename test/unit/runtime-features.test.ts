import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CribError } from "../../src/error.ts";
import { noFeatures, parseFeatures } from "../../src/runtime/features.ts";
import { Handlers } from "../../src/runtime/handlers.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-handlers-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** An OCI runtime that notes its arguments and does what `create` says. */
function runtime(name: string, create: string): { path: string } {
  const path = join(directory, name);
  const script = `#!/bin/sh
echo "$@" >> ${directory}/${name}.calls
case "$*" in *" create "*) ${create};; esac
`;
  writeFileSync(path, script);
  chmodSync(path, 0o755);
  return { path };
}

const FAIL = `while [ "$1" != --log ]; do shift; done
echo '{"level":"error","msg":"no cgroups here"}' > "$2"; exit 1`;

function handlers(table: Record<string, { path: string }>, defaultHandler = ""): Handlers {
  return new Handlers({
    table,
    defaultHandler,
    stateDir: join(directory, "state"),
    systemdCgroup: false,
  });
}

async function refused(promise: Promise<unknown>): Promise<CribError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof CribError) return error;
  throw new Error(`no CribError: ${error}`);
}

test("the default handler is the first that works; the others say why they do not", async () => {
  const all = handlers({ bad: runtime("bad", FAIL), good: runtime("good", ":") });
  expect((await all.get("")).handler).toBe("good");
  expect(await all.defaultName()).toBe("good");
  const list = await all.list();
  expect(list.map(({ name, problem }) => [name, problem === ""])).toEqual([
    ["bad", false],
    ["good", true],
  ]);
  expect(list[0]?.problem).toContain("no cgroups here");
  const error = await refused(all.get("bad"));
  expect(error.code).toBe("FailedPrecondition");
  expect(error.message).toContain("no cgroups here");
  expect(all.existing("bad")?.handler).toBe("bad");
});

test("a configured default is taken, working or not", async () => {
  const all = handlers({ bad: runtime("bad", FAIL), good: runtime("good", ":") }, "bad");
  expect((await refused(all.get(""))).code).toBe("FailedPrecondition");
});

test("an unknown handler is refused with the names there are", async () => {
  const all = handlers({ good: runtime("good", ":") });
  const error = await refused(all.get("kata"));
  expect([error.code, error.message]).toEqual([
    "InvalidArgument",
    'runtime_handler: "kata" is not one of good',
  ]);
});

const calls = (name: string) =>
  readFileSync(join(directory, `${name}.calls`), "utf8").match(/ create /g)?.length ?? 0;

test("what worked is not tried again as long as its program is the same", async () => {
  const all = handlers({ good: runtime("good", ":") });
  for (let round = 0; round < 3; round += 1) {
    await all.list();
    await all.get("");
  }
  expect(calls("good")).toBe(1);
});

test("a program that goes, comes back or is replaced is tried again, without a restart", async () => {
  const { path } = runtime("good", ":");
  const all = handlers({ good: { path } });
  const problem = async () => (await all.list())[0]?.problem;
  expect(await problem()).toBe("");
  renameSync(path, `${path}.away`);
  expect((await refused(all.get(""))).code).toBe("FailedPrecondition");
  expect(await problem()).toContain("cannot be run");
  renameSync(`${path}.away`, path);
  expect(await problem()).toBe("");
  runtime("good", FAIL);
  expect(await problem()).toContain("no cgroups here");
});

test("features are those of the program that is there now", async () => {
  const { path } = runtime("good", ":");
  const all = handlers({ good: { path } });
  const rro = async () => (await (await all.get("")).features()).recursiveReadOnlyMounts;
  expect(await rro()).toBe(false);
  writeFileSync(
    path,
    `#!/bin/sh\ncase "$*" in *" features") echo '{"mountOptions": ["rro"]}';; esac\n`,
  );
  expect(await rro()).toBe(true);
});

test("a runtime that failed without a word is tried again, once for all who ask meanwhile", async () => {
  const broken = join(directory, "broken");
  const all = handlers({ good: runtime("good", `[ ! -e ${broken} ] || exit 127`) });
  await all.get("");
  await all.recheck("good");
  expect(calls("good")).toBe(2);
  writeFileSync(broken, "");
  await all.get("");
  const errors = await Promise.all([1, 2, 3].map(() => refused(all.recheck("good"))));
  expect(errors.map(({ code }) => code)).toEqual(Array(3).fill("FailedPrecondition"));
  expect(calls("good")).toBe(3);
});

test("a missing program is a problem that names it", async () => {
  const all = handlers({ gone: { path: "/nonexistent/runc" } });
  const error = await refused(all.get(""));
  expect(error.code).toBe("FailedPrecondition");
  expect(error.message).toContain("/nonexistent/runc");
});

test("a probe removes its container and files, and one that a killed daemon left", async () => {
  const table = { good: runtime("good", ":") };
  await handlers(table).list();
  const lines = () => readFileSync(join(directory, "good.calls"), "utf8").trim().split("\n");
  expect(lines().map((line) => /create|delete/.exec(line)?.[0])).toEqual(["create", "delete"]);
  const probe = join(directory, "state/probe-good");
  expect(existsSync(probe)).toBe(false);
  const [id] = lines()[0]?.split(" ").slice(-1) ?? [];
  await Bun.write(join(probe, "pid"), "");
  await handlers(table).list();
  expect(lines().map((line) => /create|delete/.exec(line)?.[0])).toEqual([
    ...["create", "delete"],
    ...["delete", "create", "delete"],
  ]);
  expect(lines().every((line) => line.endsWith(` ${id}`))).toBe(true);
});

test("features are read leniently: what is not said is not there, nor what the kernel cannot", () => {
  expect(parseFeatures("not json")).toEqual(noFeatures);
  expect(parseFeatures('{"mountOptions": 7}')).toEqual(noFeatures);
  const none = {
    recursiveReadOnlyMounts: false,
    idmapMounts: false,
    seccomp: false,
    apparmor: false,
    selinux: false,
  };
  expect(parseFeatures("{}")).toEqual(none);
  const said = JSON.stringify({
    mountOptions: ["ro", "rro"],
    linux: {
      seccomp: { enabled: true },
      apparmor: null,
      mountExtensions: { idmap: { enabled: true } },
    },
  });
  const all = { ...none, recursiveReadOnlyMounts: true, idmapMounts: true, seccomp: true };
  for (const kernel of ["5.12.0", "5.15.0-105-generic", "6.1.0"]) {
    expect(parseFeatures(said, kernel)).toEqual(all);
  }
  for (const kernel of ["5.6.0", "5.10.0-28-amd64", "5.9", "4.18.0"]) {
    expect(parseFeatures(said, kernel)).toEqual({ ...none, seccomp: true });
  }
});
