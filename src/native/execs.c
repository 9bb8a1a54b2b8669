/* Processes started in containers by `runc exec --detach`; their output goes to the daemon. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "monitor.h"

struct exec {
  bool used, replied, timed_out, runtime_failed;
  uint32_t request;
  pid_t runtime, pid; /* unreaped; 0: not yet, or no more */
  bool ended;         /* `code` and `signal` are final */
  int code, signal;
  uint64_t timeout, drain_until; /* now_ms, 0: none */
  uint32_t drain_ms;
  int streams[2]; /* read ends of its stdout and stderr, -1: closed */
  bool paused;    /* not watched: the daemon does not keep up */
  char pid_file[512];
};
static struct exec execs[MAX_EXECS];
static struct exec *execs_end = execs; /* behind the last slot that was ever used */

static void open_streams(struct exec *exec) {
  for (unsigned stream = 0; stream < 2; stream++)
    if (exec->streams[stream] >= 0)
      watch(exec->streams[stream], EPOLLIN, WATCH_EXEC, stream, (unsigned)(exec - execs));
}

/* The slot is free when nobody waits for a reply and nothing is left to be reaped. */
static void release(struct exec *exec) {
  if (exec->replied && exec->runtime == 0 && exec->pid == 0) exec->used = false;
}

static void reply(struct exec *exec) {
  unwatch_close(&exec->streams[0]);
  unwatch_close(&exec->streams[1]);
  if (!exec->replied) {
    struct writer writer = client_frame(REPLY | EXEC, exec->request);
    write_u32(&writer, (uint32_t)exec->code);
    write_u32(&writer, (uint32_t)exec->signal);
    write_u32(&writer, (exec->timed_out ? EXEC_TIMED_OUT : 0u) |
                           (exec->runtime_failed ? EXEC_RUNTIME_FAILED : 0u));
    exec->replied = true;
    client_send(&writer);
  }
  release(exec);
}

static void reply_if_done(struct exec *exec) {
  if (exec->ended && exec->streams[0] < 0 && exec->streams[1] < 0) reply(exec);
}

static void end(struct exec *exec, int code, int signal) {
  exec->ended = true;
  exec->code = code;
  exec->signal = signal;
  exec->timeout = 0;
  if (exec->drain_until == 0) exec->drain_until = now_ms() + exec->drain_ms;
  reply_if_done(exec);
  release(exec);
}

static struct exec *free_slot(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++)
    if (!exec->used) return exec;
  return execs_end < execs + MAX_EXECS ? execs_end++ : NULL;
}

static int make_pipe(int ends[2]) {
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  return fcntl(ends[0], F_SETFL, O_NONBLOCK);
}

static void launch(struct exec *exec, const char *cwd, char **argv, char **env) {
  char error[300];
  int out[2] = {-1, -1}, err[2] = {-1, -1};
  if (make_pipe(out) != 0 || make_pipe(err) != 0) {
    client_error(exec->request, INTERNAL, "exec: pipe: %s", strerror(errno));
    unwatch_close(&out[0]), unwatch_close(&out[1]);
    return;
  }
  struct process process = {argv, env, cwd, 0, out[1], err[1]};
  unlink(exec->pid_file);
  exec->runtime = spawn(&process, error, sizeof error);
  close(out[1]), close(err[1]);
  exec->streams[0] = out[0], exec->streams[1] = err[0];
  if (exec->runtime == 0) {
    unwatch_close(&exec->streams[0]), unwatch_close(&exec->streams[1]);
    client_error(exec->request, INTERNAL, "exec: %s", error);
    return;
  }
  exec->used = true;
  open_streams(exec);
}

void exec_start(struct reader *reader, uint32_t request) {
  struct exec *exec = free_slot();
  read_string(reader); /* the container's id: the runtime's argv names it too */
  char *cwd = read_string(reader), *pid_file = read_string(reader);
  read_u32(reader); /* flags: none yet */
  uint32_t timeout_ms = read_u32(reader), drain_ms = read_u32(reader);
  size_t arguments = read_list(reader, scratch.argv, 8192);
  read_list(reader, scratch.env, 8192);
  if (reader->bad || arguments == 0 || strlen(pid_file) >= sizeof exec->pid_file) {
    client_error(request, INVALID_ARGUMENT, "exec: malformed request");
  } else if (exec == NULL) {
    client_error(request, RESOURCE_EXHAUSTED, "exec: %d are running in this pod", MAX_EXECS);
  } else {
    *exec = (struct exec){.request = request, .drain_ms = drain_ms, .streams = {-1, -1}};
    if (timeout_ms > 0) exec->timeout = now_ms() + timeout_ms;
    memcpy(exec->pid_file, pid_file, strlen(pid_file) + 1);
    launch(exec, cwd, scratch.argv, scratch.env);
  }
}

static void pause_output(struct exec *exec) {
  for (int i = 0; i < 2; i++)
    if (exec->streams[i] >= 0) epoll_ctl(monitor.epoll, EPOLL_CTL_DEL, exec->streams[i], NULL);
  exec->paused = true;
}

void execs_resume(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used || !exec->paused) continue;
    exec->paused = false;
    open_streams(exec);
  }
}

void exec_stream_ready(unsigned index, unsigned stream) {
  struct exec *exec = &execs[index];
  if (!exec->used || exec->paused || exec->streams[stream] < 0) return;
  if (!client_has_room(4096)) {
    pause_output(exec);
    return;
  }
  ssize_t count = client_output(exec->request, exec->streams[stream], stream + 1);
  if (count > 0 || (count < 0 && errno == EAGAIN)) return;
  unwatch_close(&exec->streams[stream]);
  reply_if_done(exec);
}

/* The runtime is done: the exec'd process is ours, if there is one. */
static void runtime_ended(struct exec *exec, int status) {
  struct ending ending;
  exec->runtime = 0;
  pid_t pid = take_pid_file(exec->pid_file);
  enum child_state state = pid > 0 ? find_child(pid, &ending) : CHILD_UNKNOWN;
  if (state == CHILD_RUNS) {
    exec->pid = pid;
    if (exec->timed_out || exec->replied) kill_family(pid);
  } else if (state == CHILD_ENDED) {
    end(exec, exit_code(ending.status), exit_signal(ending.status));
  } else if (exec->timed_out) {
    end(exec, 128 + 9, 9);
  } else {
    exec->runtime_failed = true;
    end(exec, exit_code(status), exit_signal(status));
  }
  release(exec);
}

bool execs_reaped(const struct ending *ending) {
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used) continue;
    if (ending->pid == exec->runtime) {
      runtime_ended(exec, ending->status);
      return true;
    }
    if (ending->pid == exec->pid) {
      exec->pid = 0;
      end(exec, exit_code(ending->status), exit_signal(ending->status));
      return true;
    }
  }
  return false;
}

bool execs_busy(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++)
    if (exec->used && exec->runtime > 0) return true;
  return false;
}

static void kill_exec(struct exec *exec) {
  if (exec->runtime > 0) kill_family(exec->runtime);
  if (exec->pid > 0) kill_family(exec->pid);
}

void execs_tick(uint64_t now, uint64_t *next) {
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used) continue;
    if (exec->timeout > 0 && exec->timeout <= now) {
      exec->timeout = 0;
      exec->timed_out = true;
      /* What cannot be killed (a process stuck in the kernel) does not hold the reply. */
      exec->code = 128 + 9, exec->signal = 9;
      exec->drain_until = now + exec->drain_ms;
      kill_exec(exec);
    }
    if (exec->drain_until > 0 && exec->drain_until <= now) {
      /* Time in which the daemon did not read does not count. */
      exec->drain_until = exec->paused ? now + exec->drain_ms + 100 : 0;
      if (!exec->paused) reply(exec);
    }
    if (exec->timeout > 0 && exec->timeout < *next) *next = exec->timeout;
    if (exec->drain_until > 0 && exec->drain_until < *next) *next = exec->drain_until;
  }
}

void execs_abandon(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used) continue;
    exec->replied = true;
    exec->timeout = exec->drain_until = 0;
    kill_exec(exec);
    reply(exec);
  }
}
