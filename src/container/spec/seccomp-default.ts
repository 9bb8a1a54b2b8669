/**
 * The built-in RuntimeDefault seccomp profile. What is allowed follows the defaults that Docker and
 * containerd share: no mounting, no new namespaces, no kernel modules, keyrings, io_uring or bpf unless
 * a capability stands for it.
 *
 * Refusals differ by what a program can make of them: EPERM for calls that are known and forbidden;
 * ENOSYS, the default, for all others, newer ones too, so that libc falls back to an older call.
 */
import type { OciSeccomp } from "./oci.ts";
import {
  allow,
  cloneRules,
  EPERM,
  personalityRules,
  refuse,
  socketRules,
} from "./seccomp-arguments.ts";

/** Allowed to every container, by subject; one table for all architectures, 32 bit calls included. */
const ALLOWED = [
  // descriptors and pipes
  `close close_range copy_file_range dup dup2 dup3 eventfd eventfd2 fanotify_mark fcntl
    fcntl64 flock inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
    memfd_create memfd_secret pipe pipe2 sendfile sendfile64 signalfd signalfd4 splice tee
    vmsplice`,
  // polling
  `_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
    epoll_wait epoll_wait_old poll ppoll ppoll_time64 pselect6 pselect6_time64 select`,
  // reading and writing
  `_llseek fadvise64 fadvise64_64 fallocate fdatasync fsync ftruncate ftruncate64 io_cancel
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit lseek
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sync sync_file_range
    syncfs truncate truncate64 write writev`,
  // names and attributes of files
  `access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat
    fchmodat2 fchown fchown32 fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd getdents getdents64 getxattr
    getxattrat lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat
    llistxattr lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 readdir readlink readlinkat removexattr
    removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat stat64 statfs
    statfs64 statmount statx symlink symlinkat umask unlink unlinkat utime utimensat
    utimensat_time64 utimes`,
  // memory
  `brk cachestat madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_mrelease process_vm_readv process_vm_writev remap_file_pages`,
  // processes and threads
  `execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid
    getppid getpriority getrlimit getrusage getsid gettid landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr pidfd_open pidfd_send_signal prctl
    prlimit64 ptrace restart_syscall rseq seccomp set_robust_list set_thread_area
    set_tid_address setpgid setpriority setrlimit setsid times ugetrlimit uretprobe vfork
    wait4 waitid waitpid`,
  // users, groups, capabilities
  `capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid
    setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32
    setresuid setresuid32 setreuid setreuid32 setuid setuid32`,
  // signals
  `kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction
    sigaltstack signal sigpending sigprocmask sigreturn sigsuspend tgkill tkill`,
  // scheduling
  `ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield`,
  // time
  `adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer
    gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64`,
  // sockets
  `accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown`,
  // inter-process communication
  `ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    semtimedop_time64 shmat shmctl shmdt shmget`,
  // the system
  `getrandom sysinfo uname`,
];

/** Allowed with one of the capabilities, EPERM without. */
const BY_CAPABILITY: Readonly<Record<string, string>> = {
  CAP_BPF: "bpf",
  CAP_DAC_READ_SEARCH: "open_by_handle_at",
  CAP_PERFMON: "perf_event_open",
  CAP_SYSLOG: "syslog",
  CAP_SYS_ADMIN: `bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
    mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
    sethostname setns syslog umount umount2 unshare`,
  CAP_SYS_BOOT: "reboot",
  CAP_SYS_CHROOT: "chroot",
  CAP_SYS_MODULE: "delete_module finit_module init_module",
  CAP_SYS_NICE: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
  CAP_SYS_PACCT: "acct",
  CAP_SYS_PTRACE: "kcmp pidfd_getfd process_madvise",
  CAP_SYS_RAWIO: "ioperm iopl",
  CAP_SYS_TIME: "clock_settime clock_settime64 settimeofday stime",
  CAP_SYS_TTY_CONFIG: "vhangup",
};

/** EPERM whatever the container has. */
const FORBIDDEN = `_sysctl add_key kexec_file_load kexec_load keyctl migrate_pages move_pages
  nfsservctl pivot_root request_key swapoff swapon sysfs userfaultfd uselib ustat vm86 vm86old`;

interface Architecture {
  architectures: string[];
  /** Calls that only this architecture has. */
  allowed: string;
}

const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  x64: {
    architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    allowed: "arch_prctl modify_ldt",
  },
  arm64: {
    architectures: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    allowed: "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
  },
};

const ENOSYS = 38;

/** The libseccomp names of an architecture (Node's `process.arch`), native one first. */
export function seccompArchitectures(arch: string): string[] {
  return ARCHITECTURES[arch]?.architectures ?? [];
}

/** What the profile of a container depends on. */
export interface SeccompScope {
  /** With CAP_. */
  capabilities: readonly string[];
  /** Node's `process.arch`. */
  arch: string;
  /** Whether the container runs under Crib's AppArmor profile, which refuses families of sockets too. */
  apparmor: boolean;
}

/** The profile for a container with these capabilities on this architecture. */
export function defaultSeccomp({ capabilities, arch, apparmor }: SeccompScope): OciSeccomp {
  const granted = new Set(capabilities.flatMap((name) => words(BY_CAPABILITY[name])));
  const gated = new Set(Object.values(BY_CAPABILITY).flatMap(words));
  const withheld = [...gated].filter((name) => !granted.has(name));
  const admin = capabilities.includes("CAP_SYS_ADMIN");
  const audit = capabilities.includes("CAP_AUDIT_WRITE");
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: ENOSYS,
    architectures: seccompArchitectures(arch),
    syscalls: [
      ...socketRules({ audit, socketcall: apparmor }),
      allow([
        ...ALLOWED.flatMap(words),
        ...words(ARCHITECTURES[arch]?.allowed),
        ...granted,
        ...(admin ? ["clone", "clone3"] : []),
      ]),
      refuse([...withheld, ...words(FORBIDDEN)], EPERM),
      ...(admin ? [] : cloneRules()),
      ...personalityRules(),
    ],
  };
}

function words(text = ""): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}
