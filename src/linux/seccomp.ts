/**
 * A seccomp filter (seccomp(2)) for a process of Crib's that reads what strangers have made: it lists what
 * such a process does, and the kernel answers ENOSYS to all else, as if it had no such call; libraries know
 * what to do then. It holds for all threads, those of the engine too, and cannot be taken back.
 *
 * No call here starts a program, mounts, changes a namespace, makes a socket, loads anything into the kernel,
 * or reaches another process.
 */
import { ptr } from "bun:ffi";
import { constants } from "node:fs";
import { constants as osConstants } from "node:os";
import { buffer, check, libc } from "./libc.ts";

const c = libc({ syscall: { args: ["i64", "u32", "u32", "ptr"], returns: "i64" } });

/** A call's numbers on x86-64 and arm64; -1 where there is none. */
type Numbers = readonly [x64: number, arm64: number];
type Calls = Readonly<Record<string, Numbers>>;

/** What the engine and libc do in any process: memory, threads, clocks, signals to themselves. */
const ENGINE: Calls = {
  mmap: [9, 222],
  munmap: [11, 215],
  mremap: [25, 216],
  mprotect: [10, 226],
  madvise: [28, 233],
  mincore: [27, 232],
  brk: [12, 214],
  membarrier: [324, 283],
  futex: [202, 98],
  set_robust_list: [273, 99],
  rseq: [334, 293],
  exit: [60, 93],
  exit_group: [231, 94],
  sched_yield: [24, 124],
  sched_getaffinity: [204, 123],
  sched_getparam: [143, 121],
  sched_getscheduler: [145, 120],
  gettid: [186, 178],
  getpid: [39, 172],
  getuid: [102, 174],
  geteuid: [107, 175],
  getgid: [104, 176],
  getegid: [108, 177],
  rt_sigaction: [13, 134],
  rt_sigprocmask: [14, 135],
  rt_sigreturn: [15, 139],
  rt_sigsuspend: [130, 133],
  rt_sigtimedwait: [128, 137],
  sigaltstack: [131, 132],
  restart_syscall: [219, 128],
  clock_gettime: [228, 113],
  clock_getres: [229, 114],
  clock_nanosleep: [230, 115],
  nanosleep: [35, 101],
  gettimeofday: [96, 169],
  time: [201, -1],
  getcpu: [309, 168],
  getrandom: [318, 278],
  getrusage: [98, 165],
  sysinfo: [99, 179],
  uname: [63, 160],
};

/** Bytes through descriptors that are open. */
const DESCRIPTORS: Calls = {
  read: [0, 63],
  write: [1, 64],
  readv: [19, 65],
  writev: [20, 66],
  pread64: [17, 67],
  pwrite64: [18, 68],
  lseek: [8, 62],
  close: [3, 57],
  dup: [32, 23],
  dup3: [292, 24],
  poll: [7, -1],
  ppoll: [271, 73],
  pipe2: [293, 59],
  eventfd2: [290, 19],
  timerfd_create: [283, 85],
  timerfd_settime: [286, 86],
  epoll_create1: [291, 20],
  epoll_ctl: [233, 21],
  epoll_wait: [232, -1],
  epoll_pwait: [281, 22],
  epoll_pwait2: [441, 441],
  fsync: [74, 82],
  fdatasync: [75, 83],
  syncfs: [306, 267],
  ftruncate: [77, 46],
  fallocate: [285, 47],
  fadvise64: [221, 223],
};

/** What files are called, are, and hold; and taking away the name of a scratch file. */
const LOOKING: Calls = {
  statx: [332, 291],
  stat: [4, -1],
  lstat: [6, -1],
  fstat: [5, 80],
  newfstatat: [262, 79],
  statfs: [137, 43],
  fstatfs: [138, 44],
  access: [21, -1],
  faccessat: [269, 48],
  faccessat2: [439, 439],
  readlink: [89, -1],
  readlinkat: [267, 78],
  getdents64: [217, 61],
  getcwd: [79, 17],
  chdir: [80, 49],
  getxattr: [191, 8],
  lgetxattr: [192, 9],
  fgetxattr: [193, 10],
  llistxattr: [195, 12],
  unlink: [87, -1],
  unlinkat: [263, 35],
};

/** Making files of all kinds. */
const MAKING: Calls = {
  utimensat: [280, 88],
  mkdir: [83, -1],
  mkdirat: [258, 34],
  rmdir: [84, -1],
  mknodat: [259, 33],
  link: [86, -1],
  linkat: [265, 37],
  symlink: [88, -1],
  symlinkat: [266, 36],
  chmod: [90, -1],
  fchmod: [91, 52],
  fchmodat: [268, 53],
  chown: [92, -1],
  lchown: [94, -1],
  fchown: [93, 55],
  fchownat: [260, 54],
  lsetxattr: [189, 6],
  fsetxattr: [190, 7],
  lremovexattr: [198, 15],
};

/** What a filter lets through besides opening files: only looking at them, or making some as well. */
export type Permission = "look" | "make";

/** Holds when `(argument & mask) === value`; of each argument the kernel takes 32 bits here. */
interface Condition {
  argument: number;
  mask: number;
  value: number;
}

/** A call that is allowed when one of the conditions holds, and otherwise fails with `errno`. */
interface Rule {
  numbers: Numbers;
  conditions: readonly Condition[];
  errno: number;
}

const { ENOSYS, EACCES, EPERM } = osConstants.errno;
const { O_NOFOLLOW, O_DIRECTORY } = constants;
const CLONE_THREAD = 0x10000;
/** NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const CLONE_NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x7c000000;
const PR_SET_NAME = 15;
const PR_SET_VMA = 0x53564d41;
/** F_DUPFD to F_SETFL; those after it send signals to anybody, or hand out locks. */
const FCNTL_COMMANDS = [0, 1, 2, 3, 4, 1030];
const WHOLE = 0xffff_ffff;

const oneOf = (argument: number, values: readonly number[]): Condition[] =>
  values.map((value) => ({ argument, mask: WHOLE, value }));
const flags = (argument: number, values: readonly number[]): Condition[] =>
  values.map((value) => ({ argument, mask: value, value }));

/**
 * Paths that the engine opens by itself (/proc/self/statm at a collection, /etc/localtime) may be
 * anything where the root is a stranger's. Crib's own code always says O_NOFOLLOW or O_DIRECTORY, and
 * the engine's never does. openat2 and clone3 hide their flags from a filter; libc can do without.
 */
function rules(): Rule[] {
  const opening = [O_NOFOLLOW, O_DIRECTORY];
  return [
    { numbers: [257, 56], conditions: flags(2, opening), errno: EACCES }, // openat
    { numbers: [2, -1], conditions: flags(1, opening), errno: EACCES }, // open
    {
      numbers: [56, 220], // clone: threads only
      conditions: [{ argument: 0, mask: CLONE_THREAD | CLONE_NAMESPACES, value: CLONE_THREAD }],
      errno: EPERM,
    },
    { numbers: [234, 131], conditions: oneOf(0, [process.pid]), errno: EPERM }, // tgkill
    { numbers: [302, 261], conditions: oneOf(0, [0, process.pid]), errno: EPERM }, // prlimit64
    { numbers: [157, 167], conditions: oneOf(0, [PR_SET_NAME, PR_SET_VMA]), errno: EPERM }, // prctl
    { numbers: [72, 25], conditions: oneOf(1, FCNTL_COMMANDS), errno: EPERM }, // fcntl
  ];
}

const LOAD = 0x20;
const AND = 0x54;
const IF_EQUAL = 0x15;
const RETURN = 0x06;
const ALLOW = 0x7fff_0000;
const FAIL = 0x0005_0000;
const KILL_PROCESS = 0x8000_0000;
/** In struct seccomp_data. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const ARGUMENTS_AT = 16;
const ARCHITECTURE = process.arch === "arm64" ? 0xc000_00b7 : 0xc000_003e;

/** [code, jump if true, jump if false, k] */
type Instruction = readonly [number, number, number, number];

const numberOf = ([x64, arm64]: Numbers) => (process.arch === "arm64" ? arm64 : x64);

function conditional({ numbers, conditions, errno }: Rule): Instruction[] {
  const number = numberOf(numbers);
  if (number < 0) return [];
  const body = conditions.flatMap(({ argument, mask, value }): Instruction[] => [
    [LOAD, 0, 0, ARGUMENTS_AT + 8 * argument],
    [AND, 0, 0, mask],
    [IF_EQUAL, 0, 1, value],
    [RETURN, 0, 0, ALLOW],
  ]);
  return [[IF_EQUAL, 0, body.length + 1, number], ...body, [RETURN, 0, 0, FAIL | errno]];
}

function program(permission: Permission): Instruction[] {
  const calls = { ...DESCRIPTORS, ...LOOKING, ...(permission === "make" ? MAKING : {}), ...ENGINE };
  return [
    // 32-bit programs have other numbers for other calls.
    [LOAD, 0, 0, ARCHITECTURE_AT],
    [IF_EQUAL, 1, 0, ARCHITECTURE],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD, 0, 0, NUMBER_AT],
    ...rules().flatMap(conditional),
    // Newer kernels remember those that need no look at arguments, and do not run the program for them.
    ...Object.values(calls)
      .map(numberOf)
      .filter((number) => number >= 0)
      .flatMap((number): Instruction[] => [
        [IF_EQUAL, 0, 1, number],
        [RETURN, 0, 0, ALLOW],
      ]),
    [RETURN, 0, 0, FAIL | ENOSYS],
  ];
}

const SYS_SECCOMP = process.arch === "arm64" ? 277 : 317;
const SET_MODE_FILTER = 1;
/** All threads; and no slower processor for it: there is nothing secret here that a filter could guard. */
const TSYNC_AND_SPEC_ALLOW = 1 | 4;
const INSTRUCTION_BYTES = 8;

/** Locks this process in, for good. It must have no_new_privs. Throws a `SyscallError`. */
export function allowOnly(permission: Permission): void {
  const instructions = program(permission);
  const filter = buffer(instructions.length * INSTRUCTION_BYTES);
  const view = new DataView(filter.buffer);
  for (const [index, [code, whenTrue, whenFalse, k]] of instructions.entries()) {
    const at = index * INSTRUCTION_BYTES;
    view.setUint16(at, code, true);
    view.setUint8(at + 2, whenTrue);
    view.setUint8(at + 3, whenFalse);
    view.setUint32(at + 4, k, true);
  }
  const header = buffer(16);
  const headerView = new DataView(header.buffer);
  headerView.setUint16(0, instructions.length, true);
  headerView.setBigUint64(8, BigInt(ptr(filter)), true);
  const result = c.syscall(SYS_SECCOMP, SET_MODE_FILTER, TSYNC_AND_SPEC_ALLOW, header);
  const thread = check(result, "seccomp");
  if (thread !== 0) throw new Error(`seccomp: thread ${thread} cannot follow`);
}
