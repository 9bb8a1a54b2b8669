/*
 * Pid 1 of a PID namespace that the pod's containers share: it reaps, and ends on SIGTERM.
 *
 * The kernel kills it when the monitor dies, and with it every process of the namespace: without
 * their monitor the containers have lost their logs and exit codes, and nothing may outlive the pod.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

static _Noreturn void become_pause(const char *id, int ready) {
  char *argv[] = {"crib-pause", (char *)id, NULL}, *env[] = {NULL};
  /* The monitor reads one byte: had it died before the prctl, this write would fail. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && setsid() > 0 && write(ready, "", 1) == 1)
    execve("/proc/self/exe", argv, env);
  _exit(127);
}

pid_t pause_start(const char *id, char *error, size_t size) {
  int ready[2];
  char byte;
  if (pipe2(ready, O_CLOEXEC) != 0) {
    snprintf(error, size, "pause: pipe2: %s", strerror(errno));
    return 0;
  }
  /* As fork, but into a new PID namespace; unshare would put every later child there too. */
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid == 0) {
    close(ready[0]);
    become_pause(id, ready[1]);
  }
  int clone_error = errno;
  close(ready[1]);
  bool started = pid > 0 && read(ready[0], &byte, 1) == 1;
  /* EOF tells that execve closed the pipe, or that it failed. */
  while (started && read(ready[0], &byte, 1) > 0) continue;
  close(ready[0]);
  if (started && waitpid(pid, NULL, WNOHANG) == 0) return pid;
  snprintf(error, size, "pause: %s", pid < 0 ? strerror(clone_error) : "could not be started");
  return 0;
}

int pause_main(void) {
  sigset_t signals;
  prctl(PR_SET_NAME, "crib-pause");
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGCHLD);
  sigprocmask(SIG_SETMASK, &signals, NULL);
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    if (sigwaitinfo(&signals, NULL) != SIGCHLD && errno != EINTR) return 0;
  }
}
