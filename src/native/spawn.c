/* Processes: starting, killing, telling apart. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

/* Bun raised the daemon's soft limit, and so the monitor's. Programs that close every descriptor they
 * might have take for ever with a high one: back to what the kernel and systemd give, 1024 with leave
 * to raise it to the hard limit. What config.json says still wins. */
static void limit_files(void) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur <= 1024) return;
  files.rlim_cur = 1024;
  setrlimit(RLIMIT_NOFILE, &files);
}

bool open_pipe(int which, int *ours, int *theirs, char *error, size_t size) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    snprintf(error, size, "pipe2: %s", strerror(errno));
    return false;
  }
  *ours = which == 0 ? ends[1] : ends[0];
  *theirs = which == 0 ? ends[0] : ends[1];
  fcntl(*ours, F_SETFL, O_NONBLOCK);
  return true;
}

static _Noreturn void become(const struct process *process, int report) {
  sigset_t none;
  const char *step = "setpgid";
  sigemptyset(&none);
  signal(SIGPIPE, SIG_DFL);
  /* Not a session: with the kernel's autogroups each would wait for the CPU as a newcomer. */
  if (setpgid(0, 0) != 0) goto failed;
  step = "dup2";
  if (dup2(process->in, 0) < 0 || dup2(process->out, 1) < 0 || dup2(process->err, 2) < 0)
    goto failed;
  step = "chdir";
  if (chdir(process->cwd) != 0) goto failed;
  limit_files();
  sigprocmask(SIG_SETMASK, &none, NULL);
  step = "execve";
  execve(process->argv[0], process->argv, process->env);
failed:;
  char text[256];
  int error = errno;
  int length =
      snprintf(text, sizeof text, "%s %s: %s", step,
               strcmp(step, "chdir") == 0 ? process->cwd : process->argv[0], strerror(error));
  if (length > (int)sizeof text - 1) length = sizeof text - 1;
  if (write(report, text, (size_t)length) < 0) _exit(126);
  _exit(127);
}

pid_t spawn(const struct process *process, char *error, size_t size) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) {
    snprintf(error, size, "pipe2: %s", strerror(errno));
    return 0;
  }
  pid_t pid = fork();
  if (pid == 0) become(process, report[1]);
  int fork_error = errno;
  close(report[1]);
  if (pid < 0) {
    snprintf(error, size, "fork: %s", strerror(fork_error));
    close(report[0]);
    return 0;
  }
  /* EOF when execve closed the other end: microseconds. An OCI runtime on storage that does not answer
   * would hold up the monitor here; they are on the node's own disk, as Crib is. */
  ssize_t length = read(report[0], error, size - 1);
  close(report[0]);
  if (length <= 0) return pid;
  error[length] = 0;
  waitpid(pid, NULL, 0);
  return 0;
}

struct stat_line {
  char state;
  pid_t parent, group, session;
};

static bool read_stat(int proc, const char *pid, struct stat_line *line) {
  char path[32], text[512];
  snprintf(path, sizeof path, "%.16s/stat", pid);
  int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return false;
  text[length] = 0;
  /* The command may hold anything; its closing bracket is the last one. */
  char *at = strrchr(text, ')');
  if (at == NULL || strlen(at) < 4) return false;
  line->state = at[2];
  at += 3; /* ") S": then numbers */
  line->parent = (pid_t)strtol(at, &at, 10);
  line->group = (pid_t)strtol(at, &at, 10);
  line->session = (pid_t)strtol(at, &at, 10);
  return true;
}

struct families {
  const pid_t *pids;
  size_t count;
};

static bool related(int proc, const char *name, struct families families) {
  struct stat_line line;
  if (!read_stat(proc, name, &line)) return false;
  for (size_t i = 0; i < families.count; i++) {
    pid_t head = families.pids[i];
    if (line.parent == head || line.group == head || line.session == head) return true;
  }
  return false;
}

static bool kill_if_related(int proc, const char *name, struct families families) {
  pid_t pid = (pid_t)strtol(name, NULL, 10);
  if (pid <= 1 || pid == getpid() || !related(proc, name, families)) return true;
  for (size_t i = 0; i < families.count; i++)
    if (pid == families.pids[i]) return true;
  /* Looked at again behind the pidfd, so that what is looked at is what is killed. */
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return true;
  if (related(proc, name, families)) syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
  close(fd);
  return true;
}

struct entry {
  uint64_t inode;
  int64_t offset;
  unsigned short size;
  unsigned char type;
  char name[];
};

/* For each process or thread that a directory names, until one is answered with false. */
static bool each_number(int directory, bool (*answer)(int, const char *, struct families),
                        struct families families) {
  _Alignas(struct entry) char entries[4096];
  long length;
  lseek(directory, 0, SEEK_SET);
  while ((length = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0) {
    for (long at = 0; at < length;) {
      struct entry *entry = (struct entry *)(entries + at);
      if (entry->name[0] >= '1' && entry->name[0] <= '9' &&
          !answer(directory, entry->name, families))
        return false;
      at += entry->size;
    }
  }
  return true;
}

/* Stopped or ended; or waiting in the kernel for what may never come: then it stops before it runs again. */
static bool thread_stands_still(int tasks, const char *name, struct families families) {
  (void)families;
  struct stat_line line;
  return !read_stat(tasks, name, &line) || strchr("TtZXD", line.state) != NULL;
}

static bool all_stand_still(int proc, struct families families) {
  bool still = true;
  for (size_t i = 0; still && i < families.count; i++) {
    char path[32];
    snprintf(path, sizeof path, "%d/task", families.pids[i]);
    int tasks = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tasks < 0) continue;
    still = each_number(tasks, thread_stands_still, families);
    close(tasks);
  }
  return still;
}

enum { STOP_PATIENCE_MS = 500 };

void kill_families(const pid_t *pids, size_t count) {
  const struct families families = {pids, count};
  int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* Stopped, it starts nothing behind the search's back. It stops when it next runs, on a busy node not at
   * once: the last search begins after that. There are two, because relatives start processes as well. */
  for (size_t i = 0; i < count; i++) kill(pids[i], SIGSTOP);
  uint64_t patience = now_ms() + STOP_PATIENCE_MS;
  bool last = false;
  for (int pass = 0; proc >= 0 && !last; pass++) {
    if (pass > 1) poll(NULL, 0, 1);
    last = pass > 0 && (all_stand_still(proc, families) || now_ms() > patience);
    each_number(proc, kill_if_related, families);
  }
  if (proc >= 0) close(proc);
  for (size_t i = 0; i < count; i++) kill(pids[i], SIGKILL);
}

void kill_family(pid_t pid) { kill_families(&pid, 1); }

pid_t take_pid_file(const char *path) {
  char text[32];
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return 0;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  unlink(path);
  if (length <= 0) return 0;
  text[length] = 0;
  char *end;
  long pid = strtol(text, &end, 10);
  return pid > 1 && pid < 1 << 30 && (*end == 0 || *end == '\n') ? (pid_t)pid : 0;
}

enum child_state find_child(pid_t pid, struct ending *ending) {
  int status;
  pid_t found = waitpid(pid, &status, WNOHANG);
  if (found == 0) return CHILD_RUNS;
  if (found == pid) {
    *ending = (struct ending){pid, status, wall_ns()};
    return CHILD_ENDED;
  }
  return reaped_claim(pid, ending) ? CHILD_ENDED : CHILD_UNKNOWN;
}

int exit_code(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int exit_signal(int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }
