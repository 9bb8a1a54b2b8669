import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeCommandFile, writeProcessFile } from "../../src/container/process-file.ts";
import { ociNumber } from "../../src/container/spec/oci.ts";

let bundle: string;
beforeEach(() => {
  bundle = mkdtempSync(join(tmpdir(), "crib-process-"));
});
afterEach(() => rmSync(bundle, { recursive: true }));

const paths = () => ({ spec: join(bundle, "config.json"), process: join(bundle, "process.json") });
const spec = {
  process: {
    terminal: true,
    user: { uid: 1, gid: 2 },
    args: ["of the container"],
    env: ["PATH=/bin", 'QUOTES="]}"'],
    cwd: "/",
    noNewPrivileges: true,
  },
  mounts: [{ destination: "/proc" }],
};

async function command(args: string[], env: string[] = [], terminal = false) {
  const file = join(bundle, "exec.json");
  await writeCommandFile(paths(), file, { args, env, terminal });
  return { text: readFileSync(file, "utf8"), mode: statSync(file).mode & 0o777 };
}

test("a command has all of the container's process but its command line and terminal", async () => {
  writeProcessFile(paths(), spec);
  const { text, mode } = await command(["sh", "-c", 'echo "x"']);
  const args = ["sh", "-c", 'echo "x"'];
  expect(JSON.parse(text)).toEqual({ ...spec.process, args, terminal: false });
  // Its environment may be secret.
  expect(mode).toBe(0o600);
  const { text: other } = await command(["top"], ["TERM=xterm", "A=b"], true);
  const env = [...spec.process.env, "TERM=xterm", "A=b"];
  expect(JSON.parse(other)).toEqual({ ...spec.process, args: ["top"], env, terminal: true });
  expect(other.match(/"(args|env|terminal)":/g)).toHaveLength(3);
});

test("limits beyond 2^53 stay as they are", async () => {
  const rlimits = [{ type: "RLIMIT_CORE", soft: 0, hard: ociNumber("18446744073709551615") }];
  writeProcessFile(paths(), { process: { ...spec.process, rlimits } });
  expect((await command(["true"])).text).toContain('"hard":18446744073709551615');
});

test("config.json is read only where an older Crib has made the container, and once", async () => {
  writeFileSync(paths().spec, JSON.stringify(spec));
  expect(JSON.parse((await command(["true"])).text)).toMatchObject({ args: ["true"], cwd: "/" });
  expect(existsSync(paths().process)).toBe(true);
  writeFileSync(paths().spec, "no JSON");
  expect(JSON.parse((await command(["false"])).text)).toMatchObject({ args: ["false"], cwd: "/" });
  expect(readdirSync(bundle).sort()).toEqual(["config.json", "exec.json", "process.json"]);
});
