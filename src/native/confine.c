/*
 * Runs a program of Crib's that reads what images bring, with as little around it as can be:
 *
 *   crib-monitor confine CAPABILITIES ROOT [ro|rw SOURCE NAME]... -- PROGRAM [ARG]...
 *
 * The program gets a mount namespace, of which the host sees nothing, and in it ROOT as a mount that
 * knows no devices, no programs and no set-user-ID: the directory itself, or, where there are sources, an
 * empty one that holds those under their names. It has to make that its root itself (pivot_root(2)), since
 * it could not be started from there. Of capabilities it has those of the hexadecimal mask at most.
 *
 * This cannot be left to the program: its engine has threads before the first line of ours, and both
 * namespaces and capabilities are a thread's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "monitor.h"

enum { MAX_SOURCES = 4, BULK_NICE = 10 };
/* capset(2) */
enum { CAPABILITY_VERSION_3 = 0x20080522 };
static const unsigned long HARMLESS = MS_NODEV | MS_NOSUID | MS_NOEXEC;

struct source {
  char handle[40]; /* a path, also when something is mounted above it */
  const char *name;
  bool writable;
};

bool tell_failure(const char *step, const char *name) {
  dprintf(2, "crib-monitor: %s %s: %s\n", step, name, strerror(errno));
  return false;
}

static bool bind(const char *source, const char *target, unsigned long flags) {
  return (mount(source, target, NULL, MS_BIND, NULL) == 0 &&
          mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | flags, NULL) == 0) ||
         tell_failure("bind", target);
}

/* An empty read-only root with the sources in it; `root` is where it is, and is not changed. */
static bool make_root(const char *root, const struct source *sources, int count) {
  if (mount("none", root, "tmpfs", HARMLESS, "mode=755,size=64k") != 0)
    return tell_failure("mount", root);
  for (int i = 0; i < count; i++) {
    char target[PATH_MAX];
    snprintf(target, sizeof target, "%s/%s", root, sources[i].name);
    if (mkdir(target, 0755) != 0) return tell_failure("mkdir", target);
    if (!bind(sources[i].handle, target, HARMLESS | (sources[i].writable ? 0 : MS_RDONLY)))
      return false;
  }
  return mount(NULL, root, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | HARMLESS, NULL) == 0 ||
         tell_failure("make read-only", root);
}

/* What the host unmounts goes here too: nothing of it is kept busy until the program has a new root. */
static bool own_mounts(void) {
  return (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0) ||
         tell_failure("unshare", "mounts");
}

/* After exec root has what is in the bounding set, but with no_new_privs no more than before. */
static bool keep_capabilities(uint64_t mask) {
  struct {
    uint32_t version;
    int pid;
  } header = {CAPABILITY_VERSION_3, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } sets[2];
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return tell_failure("set", "no_new_privs");
  for (unsigned long each = 0; prctl(PR_CAPBSET_READ, each, 0, 0, 0) >= 0; each++)
    if ((mask >> each & 1) == 0 && prctl(PR_CAPBSET_DROP, each, 0, 0, 0) != 0 && errno != EPERM)
      return tell_failure("drop", "a capability");
  if (syscall(SYS_capget, &header, sets) != 0) return tell_failure("read", "capabilities");
  for (int half = 0; half < 2; half++) {
    sets[half].permitted &= (uint32_t)(mask >> 32 * half);
    sets[half].effective = sets[half].permitted;
    sets[half].inheritable = 0;
  }
  return syscall(SYS_capset, &header, sets) == 0 || tell_failure("set", "capabilities");
}

static int run(char **argv, uint64_t capabilities) {
  /* Before: a path through /proc/PID may ask for more capabilities than are left. */
  int program = open(argv[0], O_PATH | O_CLOEXEC);
  if (program < 0) return tell_failure("open", argv[0]), 1;
  if (!keep_capabilities(capabilities)) return 1;
  syscall(SYS_execveat, program, "", argv, environ, AT_EMPTY_PATH);
  return tell_failure("execute", argv[0]), 1;
}

/* Their handles are of the new namespace: an older one cannot be bound. */
static bool open_source(struct source *source, char **argv) {
  int fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return tell_failure("open", argv[1]);
  snprintf(source->handle, sizeof source->handle, "/proc/self/fd/%d", fd);
  source->name = argv[2];
  source->writable = strcmp(argv[0], "rw") == 0;
  return true;
}

int confine_main(char **argv) {
  struct source sources[MAX_SOURCES];
  const char *mask = argv[0], *root = mask == NULL ? NULL : argv[1];
  int count = 0;
  if (root == NULL) return 2;
  /* It takes what processor time the daemon's answers and the node's pods leave. */
  setpriority(PRIO_PROCESS, 0, BULK_NICE);
  if (!own_mounts()) return 1;
  for (argv += 2; *argv != NULL && strcmp(*argv, "--") != 0; argv += 3, count++) {
    if (count == MAX_SOURCES || argv[1] == NULL || argv[2] == NULL) return 2;
    if (!open_source(&sources[count], argv)) return 1;
  }
  if (argv[0] == NULL || argv[1] == NULL) return 2;
  bool made = count == 0 ? bind(root, root, HARMLESS) : make_root(root, sources, count);
  return made ? run(argv + 1, strtoull(mask, NULL, 16)) : 1;
}
