/*
 * crib-monitor: one per pod. Owns the pod's namespaces and its containers' stdio, runs the argv that
 * the daemon hands it, reaps, writes CRI logs and exit records. Decides nothing: the daemon does,
 * over the control socket (protocol.h), and may be gone for any time.
 *
 *   crib-monitor --id POD --directory DIR [--net|--ipc|--uts|--pid PIN-PATH]... [--hostname NAME]
 *                [--sysctl NAME=VALUE]... [--oom-score-adj N] [--cgroup FILE]...
 *
 * Prints "ready PID PAUSE-PID" or "error TEXT" and is in the background from then on.
 * `crib-monitor confine` and `crib-monitor unmount` are something else: see confine.c, unmount.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

struct monitor monitor = {.directory = -1, .exits = -1, .epoll = -1, .signals = -1, .spare = -1};
struct scratch scratch;

#define LOG_NAME "monitor.log"
enum { IDLE_MS = 1000, MAX_SYSCTLS = 256, MAX_CGROUPS = 32, LOG_LIMIT = 64 << 10 };

uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct timespec wall_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now;
}

uint64_t wall_ns(void) {
  struct timespec now = wall_time();
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void watch(int fd, uint32_t events, enum watch_kind kind, unsigned stream, unsigned index) {
  struct epoll_event event = {events, {.u64 = (uint64_t)kind << 32 | stream << 16 | index}};
  if (epoll_ctl(monitor.epoll, EPOLL_CTL_ADD, fd, &event) != 0)
    complain("watch descriptor %d of kind %d: %s", fd, (int)kind, strerror(errno));
}

void unwatch_close(int *fd) {
  /* Not left to close(2): it would go on being watched where it has a duplicate. */
  if (*fd >= 0) epoll_ctl(monitor.epoll, EPOLL_CTL_DEL, *fd, NULL);
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

void complain(const char *format, ...) {
  char text[1024];
  struct stat stat;
  log_prefix(text, wall_time(), "error ", ' ');
  size_t used = 37; /* up to the stream's name */
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text + used, sizeof text - used - 1, format, arguments);
  va_end(arguments);
  used += length < (int)(sizeof text - used - 1) ? (size_t)length : sizeof text - used - 2;
  text[used++] = '\n';
  if (fstatat(monitor.directory, LOG_NAME, &stat, 0) == 0 && stat.st_size >= LOG_LIMIT)
    renameat(monitor.directory, LOG_NAME, monitor.directory, LOG_NAME ".1");
  int fd = openat(monitor.directory, LOG_NAME, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (write(fd, text, used) < 0) errno = 0;
  close(fd);
}

/* ---- the loop ---- */

/* The pod cannot go on: no process can be started in a PID namespace without its first one. */
static void pause_ended(int status) {
  monitor.pause = 0;
  complain("the pause ended with status 0x%x", status);
  if (!client_connected()) return; /* the next daemon sees it in the answer to its HELLO */
  struct writer writer = client_frame(PAUSE_ENDED, 0);
  client_send(&writer);
}

static void reap(void) {
  struct signalfd_siginfo info;
  struct ending ending;
  while (read(monitor.signals, &info, sizeof info) > 0) continue;
  while ((ending.pid = waitpid(-1, &ending.status, WNOHANG)) > 0) {
    ending.at_ns = wall_ns();
    if (ending.pid == monitor.pause) {
      pause_ended(ending.status);
    } else if (!containers_reaped(&ending) && !execs_reaped(&ending)) {
      reaped_add(ending);
    }
  }
  if (!containers_busy() && !execs_busy()) reaped_clear();
}

static void handle(const struct epoll_event *event) {
  unsigned index = event->data.u64 & 0xffff, stream = event->data.u64 >> 16 & 0xffff;
  switch ((enum watch_kind)(event->data.u64 >> 32)) {
    case WATCH_SIGNALS: reap(); break;
    case WATCH_LISTENER: client_accept(); break;
    case WATCH_CLIENT: client_ready(event->events); break;
    case WATCH_LOG: container_stream_ready(index, stream); break;
    case WATCH_EXEC: exec_stream_ready(index, stream); break;
    case WATCH_OOM: container_oom_ready(index); break;
    case WATCH_INPUT: attach_input_ready(index); break;
    case WATCH_STREAM: stream_ready(index); break;
  }
}

/* What deeper calls have left of the stack. */
static void stack_idle(void) {
  char here;
  uintptr_t end =
      ((uintptr_t)&here - 256) & ~(uintptr_t)4095; /* not what this call itself still uses */
  /* Reaches below the mapping: what is mapped of it goes all the same. */
  madvise((void *)(end - (64 << 10)), 64 << 10, MADV_DONTNEED);
}

/* Gives the pages of the large buffers back. */
static void rest(void) {
  containers_idle();
  execs_idle();
  streams_idle();
  reaped_idle();
  if (client_quiet()) madvise(&scratch, sizeof scratch, MADV_DONTNEED);
  stack_idle();
}

static void loop(void) {
  bool used = true; /* the buffers, since the last rest */
  for (;;) {
    struct epoll_event events[16];
    client_turn(); /* before the deadlines are looked at: it may set new ones */
    streams_turn();
    if (monitor.stopping) break;
    uint64_t now = now_ms(), next = UINT64_MAX;
    containers_tick(now, &next);
    execs_tick(now, &next);
    streams_tick(now, &next);
    if (client_dirty()) next = now;
    if (used && next > now + IDLE_MS) next = now + IDLE_MS;
    uint64_t wait = next == UINT64_MAX ? 0 : next > now ? next - now : 0;
    int count = epoll_wait(monitor.epoll, events, 16,
                           next == UINT64_MAX ? -1
                           : wait > 60000     ? 60000
                                              : (int)wait);
    for (int i = 0; i < count; i++) handle(&events[i]);
    if (count > 0) used = true;
    if (count == 0 && used && now_ms() >= now + IDLE_MS) {
      rest();
      used = false;
    }
  }
}

/* ---- the start ---- */

static bool parse(int argc, char **argv, struct options *options) {
  static char *sysctls[MAX_SYSCTLS + 1], *cgroups[MAX_CGROUPS + 1];
  int used = 0, joined = 0;
  options->sysctls = sysctls;
  options->cgroups = cgroups;
  for (int i = 1; i + 1 < argc; i += 2) {
    const char *name = argv[i];
    if (strcmp(name, "--id") == 0)
      options->id = argv[i + 1];
    else if (strcmp(name, "--directory") == 0)
      options->directory = argv[i + 1];
    else if (strcmp(name, "--net") == 0)
      options->net = argv[i + 1];
    else if (strcmp(name, "--ipc") == 0)
      options->ipc = argv[i + 1];
    else if (strcmp(name, "--uts") == 0)
      options->uts = argv[i + 1];
    else if (strcmp(name, "--pid") == 0)
      options->pid = argv[i + 1];
    else if (strcmp(name, "--hostname") == 0)
      options->hostname = argv[i + 1];
    else if (strcmp(name, "--oom-score-adj") == 0)
      options->oom_score_adj = argv[i + 1];
    else if (strcmp(name, "--sysctl") == 0 && used < MAX_SYSCTLS)
      sysctls[used++] = argv[i + 1];
    else if (strcmp(name, "--cgroup") == 0 && joined < MAX_CGROUPS)
      cgroups[joined++] = argv[i + 1];
    else
      return false;
  }
  return argc % 2 == 1 && options->id != NULL && options->directory != NULL;
}

static void own_process(void) {
  sigset_t all;
  for (int signal_number = 1; signal_number < 65; signal_number++) signal(signal_number, SIG_DFL);
  signal(SIGPIPE, SIG_IGN);
  /* Blocked and never read, except for SIGCHLD: only SIGKILL and the protocol end a monitor. */
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  prctl(PR_SET_NAME, "crib-monitor");
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_DUMPABLE, 0);
  umask(022);
}

static bool open_all(const struct options *options, char *error, size_t size) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  monitor.id = options->id;
  monitor.directory = open(options->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (monitor.directory >= 0) mkdirat(monitor.directory, "exits", 0700);
  monitor.exits = openat(monitor.directory, "exits", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (monitor.directory < 0 || monitor.exits < 0) {
    snprintf(error, size, "%s: %s", options->directory, strerror(errno));
    return false;
  }
  monitor.epoll = epoll_create1(EPOLL_CLOEXEC);
  monitor.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  monitor.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (monitor.epoll < 0 || monitor.signals < 0) {
    snprintf(error, size, "epoll or signalfd: %s", strerror(errno));
    return false;
  }
  watch(monitor.signals, EPOLLIN, WATCH_SIGNALS, 0, 0);
  return true;
}

/* Sets all up and tells the starter; false when there is nothing to serve. */
static NOINLINE bool prepare(const struct options *options, int report) {
  char error[700] = "", line[800];
  own_process();
  bool ready = setsid() > 0 && chdir("/") == 0 && open_all(options, error, sizeof error) &&
               join_cgroups(options, error, sizeof error) &&
               setup_namespaces(options, error, sizeof error);
  if (ready && client_listen(error, sizeof error) != 0) ready = false;
  if (!ready) setup_undo(options);
  if (!ready && monitor.pause > 0) kill(monitor.pause, SIGKILL);
  int length = ready ? snprintf(line, sizeof line, "ready %d %d\n", getpid(), monitor.pause)
                     : snprintf(line, sizeof line, "error %s\n", error);
  /* From here on the starter's death is nothing to us. */
  prctl(PR_SET_PDEATHSIG, 0);
  bool told = write(report, line, (size_t)length) == length && read(report, line, 1) == 1;
  close(report);
  if (ready && !told) setup_undo(options);
  return ready && told;
}

static int serve(const struct options *options, int report) {
  if (!prepare(options, report)) return 1;
  loop();
  client_farewell();
  if (monitor.pause > 0) kill(monitor.pause, SIGKILL);
  return 0;
}

/* Tells the daemon what the monitor says of its start. */
static NOINLINE int pass_on(int report) {
  char line[800];
  ssize_t length = report < 0 ? -1 : read(report, line, sizeof line);
  if (length <= 0) {
    static const char lost[] = "error the monitor ended before it was ready\n";
    memcpy(line, lost, sizeof lost - 1);
    length = sizeof lost - 1;
  }
  if (write(1, line, (size_t)length) != length || strncmp(line, "ready ", 6) != 0) return 1;
  return write(report, "", 1) == 1 ? 0 : 1;
}

/* The starter: the monitor dies with it until it is ready, so that a deadline can end both, and lives
 * on only when the daemon was told. */
static int start(const struct options *options) {
  int report[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) != 0) return 1;
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(report[0]);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    close(null);
    _exit(serve(options, report[1]));
  }
  close(report[1]);
  return pass_on(pid < 0 ? -1 : report[0]);
}

int main(int argc, char **argv) {
  struct options options = {0};
  if (argc > 0 && strcmp(argv[0], "crib-pause") == 0) return pause_main();
  if (argc > 1 && strcmp(argv[1], "confine") == 0) return confine_main(argv + 2);
  if (argc > 1 && strcmp(argv[1], "unmount") == 0) return unmount_main(argv + 2);
  if (!parse(argc, argv, &options)) {
    static const char usage[] = "error crib-monitor: bad arguments; it is started by crib\n";
    return write(1, usage, sizeof usage - 1) < 0 ? 2 : 2;
  }
  /* The daemon prefers itself: what runs in the pod is as any other process. */
  if (getpriority(PRIO_PROCESS, 0) < 0) setpriority(PRIO_PROCESS, 0, 0);
  syscall(SYS_close_range, 3u, ~0u, 0);
  return start(&options);
}
