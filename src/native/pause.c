/*
 * Pid 1 of a PID namespace that the pod's containers share: it reaps, and ends with the monitor.
 *
 * The kernel kills it when the monitor dies, and with it every process of the namespace: without
 * their monitor the containers have lost their logs and exit codes, and nothing may outlive the pod.
 *
 * The containers see it, and one with CAP_SYS_PTRACE can look through its /proc entry and make it do
 * anything. So it has nothing: no user, no capabilities, an empty root, a read-only program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { NOBODY = 65535 };

/* Tells the monitor through fd 0: an empty text when all is done. False when nobody listens. */
static bool tell(const char *step) {
  char text[128] = "";
  if (step != NULL) snprintf(text, sizeof text, "%s: %s", step, strerror(errno));
  return write(0, text, strlen(text) + 1) > 0;
}

/* In the new PID and mount namespaces. The program is run from a read-only mount of its own, which
 * stays with /proc/1/exe: all monitors of the node share the file. */
static NOINLINE _Noreturn void become_pause(const char *id, int ready) {
  char *argv[] = {"crib-pause", (char *)id, NULL}, *env[] = {NULL};
  char path[PATH_MAX] = "";
  const unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV;
  if (dup2(ready, 0) < 0) _exit(127);
  if (setsid() < 0)
    tell("setsid");
  else if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    tell("make mounts private");
  else if (readlink("/proc/self/exe", path, sizeof path - 1) < 0 ||
           mount(path, path, NULL, MS_BIND, NULL) != 0 || mount(NULL, path, NULL, flags, NULL) != 0)
    tell("make the program read-only");
  else if (execve(path, argv, env) != 0)
    tell("execve");
  _exit(127);
}

pid_t pause_start(const char *id, char *error, size_t size) {
  int ready[2];
  char text[128] = "it ended before it was ready";
  if (pipe2(ready, O_CLOEXEC) != 0) {
    snprintf(error, size, "pause: pipe2: %s", strerror(errno));
    return 0;
  }
  /* As fork, but into new namespaces; unshare would put every later child there too. */
  const long flags = CLONE_NEWPID | CLONE_NEWNS | SIGCHLD;
  pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
  if (pid == 0) become_pause(id, ready[1]);
  if (pid < 0) snprintf(text, sizeof text, "clone: %s", strerror(errno));
  close(ready[1]);
  ssize_t length = pid > 0 ? read(ready[0], text, sizeof text - 1) : -1;
  close(ready[0]);
  if (length > 0 && text[0] == 0) return pid;
  snprintf(error, size, "pause: %s", text);
  return 0;
}

/* The old root goes, and with it every mount of the host that the namespace was made with. */
static bool empty_root(void) {
  const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mount("none", "/proc", "tmpfs", flags, "mode=555") != 0 || chdir("/proc") != 0) return false;
  if (syscall(SYS_pivot_root, ".", ".") == 0)
    return umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
  /* The host runs from its initramfs, which cannot be pivoted away. */
  return mount(".", "/", NULL, MS_MOVE, NULL) == 0 && chroot(".") == 0 && chdir("/") == 0;
}

static bool give_up_privileges(void) {
  return setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
         setresuid(NOBODY, NOBODY, NOBODY) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_DUMPABLE, 0) == 0;
}

int pause_main(void) {
  sigset_t signals;
  prctl(PR_SET_NAME, "crib-pause");
  /* No other signal is blocked: the kernel drops those that the first process of a namespace has no
   * handler for, so that no container can end it. */
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigprocmask(SIG_SETMASK, &signals, NULL);
  if (!empty_root()) return tell("empty root"), 1;
  if (!give_up_privileges()) return tell("give up privileges"), 1;
  /* Last: a change of user clears it. Had the monitor died before, nobody would listen. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || !tell(NULL)) return 1;
  dup2(1, 0);
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    sigwaitinfo(&signals, NULL);
  }
}
