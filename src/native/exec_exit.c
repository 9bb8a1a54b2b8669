/* How an exec ends: its terminal or its runtime's failure, its reply, its killing. */
#define _GNU_SOURCE
#include <unistd.h>

#include "exec.h"

/* The slot is free when nobody waits for a reply and nothing is left to be reaped. */
static void release(struct exec *exec) {
  if (exec->replied && exec->runtime == 0 && exec->pid == 0) exec->used = false;
  while (execs_end > execs && !execs_end[-1].used) execs_end--;
}

static void reply(struct exec *exec) {
  unwatch_close(&exec->streams[0]);
  unwatch_close(&exec->streams[1]);
  exec->master = -1; /* its stream's */
  exec->terminal = NULL;
  exec->outputs = 0;
  if (exec->wants != 0) streams_finish(exec_index(exec));
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

void exec_reply_if_done(struct exec *exec) {
  if (exec->ended && exec->streams[0] < 0 && exec->streams[1] < 0 && exec->outputs == 0)
    reply(exec);
}

void exec_output_ended(unsigned index) {
  execs[index].outputs--;
  execs[index].master = -1;
  exec_reply_if_done(&execs[index]);
}

static void end(struct exec *exec, int code, int signal) {
  exec->ended = true;
  exec->code = code;
  exec->signal = signal;
  exec->timeout = 0;
  if (exec->drain_until == 0) exec->drain_until = now_ms() + exec->drain_ms;
  exec_reply_if_done(exec);
  release(exec);
}

/* Without its terminal a process has nobody to talk to. */
static void open_terminal(struct exec *exec) {
  struct stream *stream = exec->terminal;
  exec->terminal = NULL;
  exec->master = terminal_receive(&exec->console);
  if (exec->master < 0) {
    complain("exec: the runtime sent no terminal");
    exec->outputs--;
    if (exec->pid > 0) kill_family(exec->pid);
    return;
  }
  terminal_resize(exec->master, exec->size);
  stream_relay(stream, STREAM_EXEC, exec->master, exec->wants & WANT_STDIN ? exec->master : -1,
               false);
}

/* The runtime is done: the exec'd process is ours, if there is one. */
static void runtime_ended(struct exec *exec, int status) {
  struct ending ending;
  exec->runtime = 0;
  pid_t pid = take_pid_file(exec->pid_file);
  enum child_state state = pid > 0 ? find_child(pid, &ending) : CHILD_UNKNOWN;
  if (state == CHILD_RUNS) exec->pid = pid;
  if (exec->terminal != NULL && state != CHILD_UNKNOWN) open_terminal(exec);
  if (exec->terminal != NULL) exec->outputs--;
  exec->terminal = NULL;
  unwatch_close(&exec->console);
  if (state == CHILD_RUNS) {
    if (exec->timed_out || (exec->replied && exec->wants == 0)) kill_family(pid);
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

/* Processes that are to be killed together. */
struct doomed {
  pid_t pids[2 * MAX_EXECS];
  size_t count;
};

static void doom(struct doomed *doomed, const struct exec *exec) {
  if (exec->runtime > 0) doomed->pids[doomed->count++] = exec->runtime;
  if (exec->pid > 0) doomed->pids[doomed->count++] = exec->pid;
}

static void expire(struct exec *exec, struct doomed *doomed) {
  exec->timeout = 0;
  exec->timed_out = true;
  exec->held = false; /* its end is not to be waited for */
  exec->code = 128 + 9, exec->signal = 9;
  exec->drain_until = now_ms() + exec->drain_ms;
  doom(doomed, exec);
}

void exec_expire(struct exec *exec) {
  struct doomed doomed = {.count = 0};
  expire(exec, &doomed);
  if (doomed.count > 0) kill_families(doomed.pids, doomed.count);
}

/* What a pipe holds is read by so many calls. */
enum { PIPE_READS = 3 };

/* Whoever still holds its output is not waited for any longer. But what was written in time is passed on:
 * the loop may have been too busy to come to it. */
static void stop_draining(struct exec *exec, uint64_t now) {
  unsigned index = exec_index(exec);
  if (exec->wants != 0)
    streams_pump(index);
  else
    for (unsigned move = 0; move < 2 * PIPE_READS; move++) exec_stream_ready(index, move % 2);
  if (!exec->used) return; /* that was all of it */
  /* Time in which the daemon or a client did not read does not count. */
  bool waits = exec->paused || (exec->wants != 0 && streams_stalled(index));
  exec->drain_until = waits ? now + exec->drain_ms + 100 : 0;
  if (!waits) reply(exec);
}

void execs_tick(uint64_t now, uint64_t *next) {
  struct doomed doomed;
  doomed.count = 0;
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used) continue;
    if (exec->timeout > 0 && exec->timeout <= now) expire(exec, &doomed);
    if (exec->drain_until > 0 && exec->drain_until <= now) stop_draining(exec, now);
    if (exec->timeout > 0 && exec->timeout < *next) *next = exec->timeout;
    if (exec->drain_until > 0 && exec->drain_until < *next) *next = exec->drain_until;
  }
  if (doomed.count > 0) kill_families(doomed.pids, doomed.count);
}

void execs_abandon(void) {
  struct doomed doomed;
  doomed.count = 0;
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used) continue;
    exec->replied = true;
    if (exec->wants != 0) continue;
    exec->timeout = exec->drain_until = 0;
    doom(&doomed, exec);
    reply(exec);
  }
  if (doomed.count > 0) kill_families(doomed.pids, doomed.count);
}
