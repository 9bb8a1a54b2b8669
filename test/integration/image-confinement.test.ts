/** What the children that read layers can reach and do, should a layer take them over. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Confinement } from "../../src/image/confined-child.ts";
import { checkConfinement } from "../../src/image/layer-checker.ts";
import { unpackConfinement } from "../../src/image/unpacker.ts";
import { confined, EXECUTABLE } from "../fixtures/image-store.ts";
import { niceOf } from "../fixtures/process-status.ts";
import { until } from "../fixtures/until.ts";

let base: string;
const at = (name: string) => join(base, name);
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "crib-confined-"));
  for (const name of ["layer", "layers", "indexes"]) mkdirSync(at(name));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

const unpacking = () => unpackConfinement(at("layer"));
const checking = () => checkConfinement({ layers: at("layers"), indexes: at("indexes") });
const limits = ["--max-bytes", "1000", "--max-entries", "10"];

const HARMLESS = ["nodev", "noexec", "nosuid"];
/** CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD SYS_ADMIN SETFCAP, and SYS_ADMIN DAC_READ_SEARCH. */
const [UNPACKING_MASK, CHECKING_MASK] = ["000000008820001b", "0000000000200004"];

/** Of mountinfo (proc_pid_mountinfo(5)): where, and how. */
function mountsOf(pid: number | "self"): Array<{ at: string; how: string[] }> {
  const lines = readFileSync(`/proc/${pid}/mountinfo`, "utf8").trim().split("\n");
  return lines.map((line) => {
    const [, , , , path = "", options = ""] = line.split(" ");
    const ofInterest = [...HARMLESS, "ro", "rw"];
    return {
      at: path,
      how: options
        .split(",")
        .filter((one) => ofInterest.includes(one))
        .sort(),
    };
  });
}

test.each<[string, () => Confinement, () => string[], string, ReturnType<typeof mountsOf>]>([
  [
    "unpacks",
    unpacking,
    () => ["unpack", "--directory", at("layer"), ...limits],
    UNPACKING_MASK,
    [{ at: "/", how: [...HARMLESS, "rw"] }],
  ],
  [
    "checks",
    checking,
    () => ["check-layers", "--root", at("layers")],
    CHECKING_MASK,
    [
      { at: "/", how: [...HARMLESS, "ro"] },
      { at: "/layers", how: [...HARMLESS, "ro"] },
      { at: "/indexes", how: [...HARMLESS, "rw"] },
    ],
  ],
])(
  "the child that %s has its own mounts only, few capabilities and a filter, in all of its threads",
  async (_, confinement, args, mask, mounts) => {
    const ours = mountsOf("self");
    const child = Bun.spawn(confined()(confinement(), args()), { stdin: "pipe" });
    try {
      const status = (task: string) =>
        readFileSync(`/proc/${child.pid}/task/${task}/status`, "utf8");
      await until("it is confined", () => /^Seccomp:\t2$/m.test(status(String(child.pid))));
      const tasks = readdirSync(`/proc/${child.pid}/task`);
      expect(tasks.length).toBeGreaterThan(1);
      for (const task of tasks) {
        const text = status(task);
        for (const set of ["Prm", "Eff", "Bnd"]) expect(text).toContain(`Cap${set}:\t${mask}\n`);
        expect(niceOf(`${child.pid}/task/${task}`)).toBe(10);
        for (const set of ["Inh", "Amb"]) expect(text).toContain(`Cap${set}:\t0000000000000000\n`);
        for (const line of ["Seccomp:\t2", "NoNewPrivs:\t1"]) expect(text).toContain(`${line}\n`);
      }
      expect(mountsOf(child.pid)).toEqual(mounts);
      expect(mountsOf("self")).toEqual(ours);
    } finally {
      child.kill("SIGKILL");
      await child.exited;
    }
  },
);

const [EPERM, EACCES, ENOSYS] = [1, 13, 38];
/** By their numbers on x86-64; none of them would do harm with the arguments that they get. */
const FORBIDDEN = {
  ...{ ioctl: 16, shmget: 29, socket: 41, connect: 42, socketpair: 53, execve: 59, kill: 62 },
  ...{ msgget: 68, truncate: 76, rename: 82, creat: 85, ptrace: 101, syslog: 103, setuid: 105 },
  ...{ capset: 126, rt_sigqueueinfo: 129, personality: 135, setpriority: 141, pivot_root: 155 },
  ...{ chroot: 161, acct: 163, settimeofday: 164, mount: 165, umount2: 166, swapon: 167 },
  ...{ reboot: 169, iopl: 172, init_module: 175, delete_module: 176, quotactl: 179, tkill: 200 },
  ...{ kexec_load: 246, add_key: 248, keyctl: 250, unshare: 272, perf_event_open: 298 },
  ...{ fanotify_init: 300, name_to_handle_at: 303, open_by_handle_at: 304, setns: 308 },
  ...{ process_vm_readv: 310, process_vm_writev: 311, kcmp: 312, finit_module: 313 },
  ...{ memfd_create: 319, kexec_file_load: 320, bpf: 321, execveat: 322, userfaultfd: 323 },
  ...{ pidfd_send_signal: 424, io_uring_setup: 425, open_tree: 428, move_mount: 429, fsopen: 430 },
  ...{ fsmount: 432, pidfd_open: 434, clone3: 435, openat2: 437, mount_setattr: 442 },
};
const MAKING = { mkdir: 83, chmod: 90, lchown: 94, lsetxattr: 189, mknodat: 259, linkat: 265 };

const source = (path: string) => JSON.stringify(join(import.meta.dir, "../../src", path));

/** Makes calls in a confined process, each [number, argument, ...]; "/" stands for its address. */
async function attempt(
  permission: "make" | "look",
  calls: Record<string, Array<number | "/">>,
): Promise<Record<string, number>> {
  writeFileSync(
    at("probe.ts"),
    `import { dlopen, ptr } from "bun:ffi";
     import { confine } from ${source("linux/confine.ts")};
     import { buffer, cstring, errno } from ${source("linux/libc.ts")};
     const args = Array(7).fill("i64");
     const { syscall } = dlopen("libc.so.6", { syscall: { args, returns: "i64" } }).symbols;
     confine(process.argv[2], ${JSON.stringify(permission)});
     const slash = cstring("/");
     const self = process.pid;
     const results = {};
     for (const [name, call] of Object.entries(${JSON.stringify(calls)})) {
       const words = Array.from({ length: 7 }, (_, at) => call[at] ?? 0);
       const result = syscall(...words.map((it) => BigInt(it === "/" ? ptr(slash) : it === -1 ? self : it)));
       results[name] = Number(result) < 0 ? errno() : 0;
     }
     // The engine's collector and compiler run as before, in all of their threads.
     for (let round = 0; round < 20; round++) {
       JSON.parse(JSON.stringify(Array.from({ length: 10_000 }, (_, index) => ({ index }))));
       Bun.gc(true);
     }
     console.log(JSON.stringify(results));`,
  );
  const confinement = permission === "make" ? unpacking() : checking();
  const command = confined([process.execPath, at("probe.ts")])(confinement, [confinement.root]);
  const child = Bun.spawn(command, { stdout: "pipe" });
  const output = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return JSON.parse(output) as Record<string, number>;
}

const refused = (calls: Record<string, number>) =>
  Object.fromEntries(Object.keys(calls).map((name) => [name, ENOSYS]));
const bare = (calls: Record<string, number>) =>
  Object.fromEntries(Object.entries(calls).map(([name, number]) => [name, [number]]));

test.each(["make", "look"] as const)(
  "a process that may only %s files finds no system call that leads out of it",
  async (permission) => {
    const calls = { ...FORBIDDEN, ...(permission === "look" ? MAKING : {}) };
    expect(await attempt(permission, bare(calls))).toEqual(refused(calls));
  },
);

test("what it may call it may not call for others, and opens only what it says to be no trap", async () => {
  const { O_DIRECTORY, O_NOFOLLOW } = await import("node:fs").then(({ constants }) => constants);
  const [AT_FDCWD, SIGCHLD, F_GETFL, F_SETOWN] = [-100, 17, 3, 8];
  expect(
    await attempt("make", {
      openat: [257, AT_FDCWD, "/", 0],
      "openat, directory": [257, AT_FDCWD, "/", O_DIRECTORY],
      "openat, no symlink": [257, AT_FDCWD, "/", O_NOFOLLOW],
      "openat, flags where the kernel does not look": [257, AT_FDCWD, "/", O_NOFOLLOW * 2 ** 32],
      open: [2, "/", 0],
      fork: [56, SIGCHLD],
      "tgkill, self": [234, -1, -1],
      "tgkill, init": [234, 1, 1],
      "prlimit64, self": [302],
      "prlimit64, init": [302, 1],
      "prctl, dumpable": [157, 4, 1],
      "fcntl, flags": [72, 1, F_GETFL],
      "fcntl, owner": [72, 1, F_SETOWN, 1],
    }),
  ).toEqual({
    openat: EACCES,
    "openat, directory": 0,
    "openat, no symlink": 0,
    "openat, flags where the kernel does not look": EACCES,
    open: EACCES,
    fork: EPERM,
    "tgkill, self": 0,
    "tgkill, init": EPERM,
    "prlimit64, self": 0,
    "prlimit64, init": EPERM,
    "prctl, dumpable": EPERM,
    "fcntl, flags": 0,
    "fcntl, owner": EPERM,
  });
});

test("run by hand, without its confinement, a child touches nothing", async () => {
  const command = [...EXECUTABLE, "unpack", "--directory", "/", ...limits];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe" });
  expect(await new Response(child.stdout).json()).toMatchObject({
    kind: "failed",
    message: "only crib serve runs this",
  });
});

test("a confinement that cannot be made is told by its step", async () => {
  const child = Bun.spawn(confined()(unpackConfinement(at("missing")), []), { stderr: "pipe" });
  expect(await new Response(child.stderr).text()).toContain(`bind ${at("missing")}: No such file`);
  expect(await child.exited).toBe(1);
});
