/*
 * Processes started in containers by `runc exec --detach`. Their output goes to the daemon, in frames or,
 * for clients that are there to see it, in streams. One whose daemon has gone is killed when it answers in
 * frames (a probe); with streams it gets what those give when they break, as its client's end would.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "exec.h"

/* Aligned as scratch is: the pages of an empty table are given back. */
static struct { _Alignas(65536) struct exec slots[MAX_EXECS]; } table;
struct exec *const execs = table.slots, *execs_end = table.slots;

unsigned exec_index(const struct exec *exec) { return (unsigned)(exec - execs); }

static struct exec *free_slot(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++)
    if (!exec->used) return exec;
  return execs_end < execs + MAX_EXECS ? execs_end++ : NULL;
}

static void open_streams(struct exec *exec) {
  for (unsigned stream = 0; stream < 2; stream++)
    if (exec->streams[stream] >= 0)
      watch(exec->streams[stream], EPOLLIN, WATCH_EXEC, stream, exec_index(exec));
}

/* ---- the start ---- */

/* Which of stdin, stdout, stderr it gets a pipe for. With a terminal the runtime itself needs none. */
static unsigned pipes_of(const struct exec *exec) {
  if (exec->wants == 0) return WANT_STDOUT | WANT_STDERR;
  return exec->wants & WANT_TTY ? 0 : exec->wants;
}

/* Ours go to where they lead to, the daemon. */
static void connect_streams(struct exec *exec, struct stream *const io[2], const int ours[3]) {
  if (exec->wants == 0) {
    exec->streams[0] = ours[1];
    exec->streams[1] = ours[2];
    open_streams(exec);
    return;
  }
  exec->outputs = (ours[1] >= 0) + (ours[2] >= 0) + (exec->wants & WANT_TTY ? 1 : 0);
  for (int i = 0; i < 2; i++)
    if (io[i] != NULL) io[i]->owner = (uint16_t)exec_index(exec);
  if (exec->wants & WANT_TTY) {
    exec->terminal = io[0];
    return;
  }
  if (io[0] != NULL) stream_relay(io[0], STREAM_EXEC, ours[1], ours[0], true);
  if (io[1] != NULL) stream_relay(io[1], STREAM_EXEC, ours[2], -1, true);
}

static bool launch(struct exec *exec, struct stream *const io[2], const char *cwd,
                   const char *console, char *error, size_t size) {
  int ours[3] = {-1, -1, -1}, theirs[3] = {-1, -1, -1};
  unsigned pipes = pipes_of(exec);
  bool ready = true;
  for (int i = 0; i < 3 && ready; i++)
    if (pipes & 1u << i) ready = open_pipe(i, &ours[i], &theirs[i], error, size);
  if (ready && exec->wants & WANT_TTY) {
    exec->console = terminal_listen(cwd, console, error, size);
    ready = exec->console >= 0;
  }
  if (ready) {
    int fds[3];
    for (int i = 0; i < 3; i++) fds[i] = theirs[i] < 0 ? 0 : theirs[i];
    struct process process = {scratch.argv, scratch.env, cwd, fds[0], fds[1], fds[2]};
    unlink(exec->pid_file);
    exec->runtime = spawn(&process, error, size);
  }
  for (int i = 0; i < 3; i++) unwatch_close(&theirs[i]);
  if (exec->runtime > 0) {
    exec->used = true;
    connect_streams(exec, io, ours);
    return true;
  }
  for (int i = 0; i < 3; i++) unwatch_close(&ours[i]);
  unwatch_close(&exec->console);
  return false;
}

/* The streams that the request names; false when one is not there. */
static bool claim(uint32_t wants, const uint32_t numbers[2], struct stream *io[2]) {
  bool needed[2] = {(wants & (WANT_STDIN | WANT_STDOUT | WANT_TTY)) != 0,
                    (wants & WANT_STDERR) != 0};
  bool there = true;
  for (int i = 0; i < 2; i++) {
    io[i] = needed[i] ? stream_claim(numbers[i]) : NULL;
    there = there && (!needed[i] || io[i] != NULL);
  }
  return there;
}

void exec_start(struct reader *reader, uint32_t request) {
  char error[300] = "";
  struct stream *io[2] = {NULL, NULL};
  read_string(reader); /* the container's id: the runtime's argv names it too */
  char *cwd = read_string(reader), *pid_file = read_string(reader);
  uint32_t wants = read_u32(reader), timeout_ms = read_u32(reader), drain_ms = read_u32(reader);
  size_t arguments = read_list(reader, scratch.argv, 8192);
  read_list(reader, scratch.env, 8192);
  uint32_t numbers[2] = {0, 0};
  const char *console = "";
  if (wants != 0) {
    numbers[0] = read_u32(reader), numbers[1] = read_u32(reader);
    console = read_string(reader);
  }
  bool two_ends = (wants & WANT_TTY) != 0 && (wants & WANT_STDERR) != 0;
  if (reader->bad || arguments == 0 || two_ends || strlen(pid_file) >= sizeof execs->pid_file) {
    client_error(request, INVALID_ARGUMENT, "exec: malformed request");
    return;
  }
  bool streams_there = claim(wants, numbers, io);
  struct exec *exec = streams_there ? free_slot() : NULL;
  if (!streams_there) {
    client_error(request, RESOURCE_EXHAUSTED, "exec: no room for its streams");
  } else if (exec == NULL) {
    client_error(request, RESOURCE_EXHAUSTED, "exec: %d are running in this pod", MAX_EXECS);
  } else {
    *exec = (struct exec){.request = request,
                          .wants = wants,
                          .drain_ms = drain_ms,
                          .streams = {-1, -1},
                          .console = -1,
                          .master = -1};
    if (timeout_ms > 0) exec->timeout = now_ms() + timeout_ms;
    memcpy(exec->pid_file, pid_file, strlen(pid_file) + 1);
    if (launch(exec, io, cwd, console, error, sizeof error)) return;
    client_error(request, INTERNAL, "exec: %s", error);
  }
  for (int i = 0; i < 2; i++)
    if (io[i] != NULL) stream_drop(io[i]);
}

/* ---- other requests ---- */

static struct exec *find(uint32_t request) {
  for (struct exec *exec = execs; exec < execs_end; exec++)
    if (exec->used && !exec->replied && exec->request == request) return exec;
  return NULL;
}

void exec_cancel(struct reader *reader, uint32_t request) {
  struct exec *exec = find(read_u32(reader));
  /* One that has ended meanwhile needs no more killing. */
  if (exec != NULL && !exec->ended) exec_expire(exec);
  client_reply(CANCEL, request);
}

void exec_resize(uint32_t exec_request, struct terminal_size size, uint32_t request) {
  struct exec *exec = find(exec_request);
  if (exec != NULL) exec->size = size;
  if (exec != NULL) terminal_resize(exec->master, size);
  client_reply(RESIZE, request);
}

/* ---- output in frames ---- */

static void pause_output(struct exec *exec) {
  for (int i = 0; i < 2; i++)
    if (exec->streams[i] >= 0) epoll_ctl(monitor.epoll, EPOLL_CTL_DEL, exec->streams[i], NULL);
  exec->paused = true;
}

/* Those that are let go are resumed in this turn, if there is room. */
void exec_hold(struct reader *reader, uint32_t request) {
  struct exec *exec = find(read_u32(reader));
  bool held = read_u32(reader) != 0;
  if (exec != NULL && exec->wants == 0 && !exec->timed_out && !reader->bad) {
    exec->held = held;
    if (held && !exec->paused) pause_output(exec);
  }
  client_reply(HOLD, request);
}

void exec_drop(struct reader *reader, uint32_t request) {
  struct exec *exec = find(read_u32(reader));
  if (exec != NULL && !reader->bad) exec->dropped = true, exec->held = false;
  client_reply(DROP, request);
}

void execs_resume(void) {
  for (struct exec *exec = execs; exec < execs_end; exec++) {
    if (!exec->used || !exec->paused || exec->held) continue;
    exec->paused = false;
    open_streams(exec);
  }
}

void exec_stream_ready(unsigned index, unsigned stream) {
  struct exec *exec = &execs[index];
  if (!exec->used || exec->paused || exec->streams[stream] < 0) return;
  if (!exec->dropped && !client_has_room(4096)) {
    pause_output(exec);
    return;
  }
  int from = exec->streams[stream];
  ssize_t count = exec->dropped ? read(from, scratch.read, sizeof scratch.read)
                                : client_output(exec->request, from, stream + 1);
  if (count > 0 || (count < 0 && errno == EAGAIN)) return;
  unwatch_close(&exec->streams[stream]);
  exec_reply_if_done(exec);
}

void execs_idle(void) {
  if (execs_end == execs) madvise(&table, sizeof table, MADV_DONTNEED);
}
