/* What makes the pod: new namespaces, pinned where the daemon says, and what is set inside. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"

static int pinned; /* how many of the pins below are mounted */

static bool fail(char *error, size_t size, const char *step, const char *name) {
  snprintf(error, size, "%s %s: %s", step, name, strerror(errno));
  return false;
}

static bool loopback_up(char *error, size_t size) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool up = fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags |= IFF_UP;
  up = up && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
  if (!up) fail(error, size, "bring up", "lo");
  if (fd >= 0) close(fd);
  return up;
}

static bool starts(const char *text, const char *prefix) {
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Refuses what would change the host: a sysctl of a namespace that the pod does not own. */
static bool owns_sysctl(const struct options *options, const char *name) {
  if (starts(name, "net.")) return options->net != NULL;
  bool of_ipc = starts(name, "kernel.shm") || starts(name, "kernel.msg") ||
                starts(name, "kernel.sem=") || starts(name, "fs.mqueue.");
  return of_ipc && options->ipc != NULL;
}

static bool write_sysctl(const struct options *options, const char *setting, char *error,
                         size_t size) {
  char path[256] = "/proc/sys/";
  const char *value = strchr(setting, '=');
  size_t length = value == NULL ? 0 : (size_t)(value - setting), at = strlen(path);
  bool good = length > 0 && length < sizeof path - at && owns_sysctl(options, setting);
  /* As sysctl(8) has it: a slash in the name stands for a dot in the path. */
  for (size_t i = 0; good && i < length; i++)
    path[at + i] = setting[i] == '.' ? '/' : setting[i] == '/' ? '.' : setting[i];
  if (!good || strstr(path, "..") != NULL) {
    snprintf(error, size, "sysctl %.*s: not one of the pod's own namespaces", (int)length, setting);
    return false;
  }
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  size_t bytes = strlen(value + 1);
  bool written = fd >= 0 && write(fd, value + 1, bytes) == (ssize_t)bytes;
  if (!written) fail(error, size, "sysctl", setting);
  if (fd >= 0) close(fd);
  return written;
}

static bool pin(const char *source, const char *target, char *error, size_t size) {
  int fd = open(target, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return fail(error, size, "create", target);
  close(fd);
  if (mount(source, target, NULL, MS_BIND, NULL) != 0) {
    fail(error, size, "pin a namespace at", target);
    unlink(target);
    return false;
  }
  return true;
}

static bool pin_all(const struct options *options, char *error, size_t size) {
  const char *targets[4] = {options->net, options->ipc, options->uts, options->pid};
  char pid_source[40];
  snprintf(pid_source, sizeof pid_source, "/proc/%d/ns/pid", monitor.pause);
  const char *sources[4] = {"/proc/self/ns/net", "/proc/self/ns/ipc", "/proc/self/ns/uts",
                            pid_source};
  for (; pinned < 4; pinned++)
    if (targets[pinned] != NULL && !pin(sources[pinned], targets[pinned], error, size))
      return false;
  return true;
}

void setup_undo(const struct options *options) {
  const char *targets[4] = {options->net, options->ipc, options->uts, options->pid};
  while (pinned-- > 0) {
    if (targets[pinned] == NULL) continue;
    umount2(targets[pinned], MNT_DETACH);
    unlink(targets[pinned]);
  }
}

/* A host that does not let us lower it keeps the inherited value: no reason to refuse the pod. */
static bool set_oom_score(const char *value, char *error, size_t size) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  bool set = fd >= 0 && (write(fd, value, strlen(value)) > 0 || errno == EACCES || errno == EPERM);
  if (!set) fail(error, size, "oom_score_adj", value);
  if (fd >= 0) close(fd);
  return set;
}

/*
 * Before anything is allocated or forked, so that all of it counts as the pod's. On cgroup v1 the files
 * are "tasks": a lone thread that moves itself spares the kernel the grace period (some 10 ms) that
 * moving another process costs.
 */
bool join_cgroups(const struct options *options, char *error, size_t size) {
  for (char **file = options->cgroups; *file != NULL; file++) {
    int fd = open(*file, O_WRONLY | O_CLOEXEC);
    bool joined = fd >= 0 && write(fd, "0", 1) == 1;
    if (!joined) fail(error, size, "join", *file);
    if (fd >= 0) close(fd);
    if (!joined) return false;
  }
  return true;
}

bool setup_namespaces(const struct options *options, char *error, size_t size) {
  int flags = (options->net ? CLONE_NEWNET : 0) | (options->ipc ? CLONE_NEWIPC : 0) |
              (options->uts ? CLONE_NEWUTS : 0);
  if (flags != 0 && unshare(flags) != 0) return fail(error, size, "unshare", "namespaces");
  if (options->net != NULL && !loopback_up(error, size)) return false;
  if (options->hostname != NULL && options->uts == NULL) {
    errno = EINVAL;
    return fail(error, size, "hostname in the host's UTS namespace", options->hostname);
  }
  if (options->hostname != NULL && sethostname(options->hostname, strlen(options->hostname)) != 0)
    return fail(error, size, "sethostname", options->hostname);
  for (char **setting = options->sysctls; *setting != NULL; setting++)
    if (!write_sysctl(options, *setting, error, size)) return false;
  if (options->oom_score_adj != NULL && !set_oom_score(options->oom_score_adj, error, size))
    return false;
  if (options->pid != NULL && (monitor.pause = pause_start(options->id, error, size)) == 0)
    return false;
  return pin_all(options, error, size);
}
