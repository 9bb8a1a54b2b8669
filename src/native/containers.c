/* The table of the pod's containers and the requests about them. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "container.h"

_Alignas(4096) struct container containers[MAX_CONTAINERS];
/* Behind the last slot that was ever used: the rest costs no memory as long as nobody looks. */
static struct container *containers_end = containers;

static struct container *find(const char *id) {
  for (struct container *it = containers; it < containers_end; it++)
    if (it->id[0] != 0 && strcmp(it->id, id) == 0) return it;
  return NULL;
}

/* An id is a file name and goes into JSON as it is. */
static bool good_id(const char *id) {
  size_t length = strspn(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-");
  return length > 0 && length <= MAX_ID && id[length] == 0 && id[0] != '.';
}

/* ---- create ---- */

static void discard(struct container *it) {
  container_drain(it);
  for (unsigned stream = 0; stream < 2; stream++) container_close_stream(it, stream);
  unwatch_close(&it->log.fd);
  unwatch_close(&it->input);
  unwatch_close(&it->oom);
  unwatch_close(&it->oom_notice);
  unwatch_close(&it->console);
  unwatch_close(&it->peer);
  it->id[0] = 0;
}

static void answer_create(struct container *it, int status, const char *error) {
  if (it->request == 0 || !client_connected()) return;
  struct writer writer = client_frame(REPLY | CREATE, it->request);
  write_u32(&writer, (uint32_t)status);
  write_u32(&writer, (uint32_t)it->pid);
  write_string(&writer, error);
  client_send(&writer);
  it->request = 0;
}

/* Its first process has ended: no attached client holds up what there is still to be read. */
static void init_ended(struct container *it, const struct ending *ending) {
  unwatch_close(&it->peer);
  container_ended(it, ending);
  container_resume(it);
}

static void runtime_ended(struct container *it, int status) {
  struct ending ending;
  it->runtime = 0;
  it->deadline = 0;
  pid_t pid = take_pid_file(it->paths[PID_PATH]);
  bool failed = status != 0 || it->deadline_passed || it->cancel != 0;
  enum child_state state = pid > 0 ? find_child(pid, &ending) : CHILD_UNKNOWN;
  bool no_terminal = !failed && it->tty && !container_open_terminal(it);
  if ((failed || no_terminal) && state == CHILD_RUNS) kill_family(pid);
  if (failed || no_terminal || state == CHILD_UNKNOWN) {
    answer_create(it, exit_code(status),
                  it->cancel != 0       ? "the container was forgotten"
                  : it->deadline_passed ? "the runtime did not end in time and was killed"
                  : failed              ? ""
                  : no_terminal         ? "the runtime sent no terminal"
                  : pid == 0            ? "the runtime wrote no pid file"
                                        : "the runtime's process is not a child of the monitor");
    if (it->cancel != 0) client_reply(FORGET, it->cancel);
    discard(it);
    return;
  }
  it->pid = pid;
  it->state = RUNNING;
  container_open_oom(it);
  if (it->tty) container_watch(it);
  answer_create(it, 0, "");
  if (state == CHILD_ENDED) init_ended(it, &ending);
}

static void launch(struct container *it, const char *cwd, const char *console) {
  char error[700] = "";
  int ends[3] = {-1, -1, -1};
  bool ready = true;
  if (it->paths[LOG_PATH][0] != 0) {
    it->log.fd = container_open_log(it->paths[LOG_PATH], error, sizeof error);
    ready = it->log.fd >= 0;
  }
  if (ready && it->tty) {
    it->console = terminal_listen(cwd, console, error, sizeof error);
    ready = it->console >= 0;
  } else if (ready) {
    ready = container_open_stdio(it, ends, error, sizeof error);
  }
  if (ready) {
    struct process process = {scratch.argv, scratch.env, cwd, 0, 0, 0};
    if (ends[0] >= 0) process.in = ends[0];
    if (!it->tty) process.out = ends[1], process.err = ends[2];
    unlink(it->paths[PID_PATH]);
    it->runtime = spawn(&process, error, sizeof error);
  }
  for (int i = 0; i < 3; i++)
    if (ends[i] >= 0) close(ends[i]);
  if (it->runtime == 0) {
    answer_create(it, 127, error);
    discard(it);
    return;
  }
  if (!it->tty) container_watch(it);
}

static struct container *free_slot(void) {
  for (struct container *it = containers; it < containers_end; it++)
    if (it->id[0] == 0) return it;
  return containers_end < containers + MAX_CONTAINERS ? containers_end++ : NULL;
}

void container_create(struct reader *reader, uint32_t request) {
  const char *id = read_string(reader), *cwd = read_string(reader);
  const char *paths[3] = {read_string(reader), read_string(reader), read_string(reader)};
  uint32_t flags = read_u32(reader), deadline_ms = read_u32(reader), drain_ms = read_u32(reader);
  size_t arguments = read_list(reader, scratch.argv, 8192);
  read_list(reader, scratch.env, 8192);
  uint32_t log_limit = read_later_u32(reader);
  const char *console = flags & CREATE_TTY ? read_string(reader) : "";
  struct container *it = free_slot();
  bool good = !reader->bad && arguments > 0 && good_id(id);
  for (int i = 0; i < 3; i++) good = good && strlen(paths[i]) < sizeof it->paths[i];
  if (!good) {
    client_error(request, INVALID_ARGUMENT, "create: malformed request");
  } else if (find(id) != NULL) {
    client_error(request, ALREADY_EXISTS, "create: container %s exists", id);
  } else if (it == NULL) {
    client_error(request, RESOURCE_EXHAUSTED, "create: the pod has %d containers", MAX_CONTAINERS);
  } else {
    *it = (struct container){.state = CREATING,
                             .request = request,
                             .drain_ms = drain_ms,
                             .deadline = now_ms() + deadline_ms,
                             .tty = (flags & CREATE_TTY) != 0,
                             .has_stdin = (flags & CREATE_STDIN) != 0,
                             .stdin_once = (flags & CREATE_STDIN_ONCE) != 0,
                             .input = -1,
                             .streams = {-1, -1},
                             .console = -1,
                             .peer = -1,
                             .log = {.fd = -1, .limit = log_limit},
                             .oom = -1,
                             .oom_notice = -1};
    memcpy(it->id, id, strlen(id) + 1);
    for (int i = 0; i < 3; i++) memcpy(it->paths[i], paths[i], strlen(paths[i]) + 1);
    launch(it, cwd, console);
  }
}

/* ---- requests about one container ---- */

struct container *container_named(struct reader *reader, uint32_t request) {
  const char *id = read_string(reader);
  struct container *it = reader->bad ? NULL : find(id);
  if (reader->bad)
    client_error(request, INVALID_ARGUMENT, "malformed request");
  else if (it == NULL)
    client_error(request, NOT_FOUND, "container %s: unknown to its monitor", id);
  return it;
}

void container_kill(struct reader *reader, uint32_t request) {
  struct container *it = container_named(reader, request);
  uint32_t signal = read_u32(reader);
  if (it == NULL) return;
  if (reader->bad || signal > 64)
    client_error(request, INVALID_ARGUMENT, "kill: signal %u", signal);
  else if (it->state != RUNNING)
    client_error(request, FAILED_PRECONDITION, "kill: container %s is not running", it->id);
  else if (kill(it->pid, (int)signal) != 0) /* unreaped, so the pid is still its own */
    client_error(request, INTERNAL, "kill: container %s: %s", it->id, strerror(errno));
  else {
    it->killed |= signal == SIGKILL;
    client_reply(KILL, request);
  }
}

void container_reopen_log(struct reader *reader, uint32_t request) {
  char error[700];
  struct container *it = container_named(reader, request);
  if (it == NULL) return;
  /* Whoever moved the log away expects it back, also of a container that closed its output. */
  if (it->log.fd >= 0 || (it->state == RUNNING && it->paths[LOG_PATH][0] != 0)) {
    int fd = container_open_log(it->paths[LOG_PATH], error, sizeof error);
    if (fd < 0) {
      client_error(request, INTERNAL, "%s", error);
      return;
    }
    if (it->log.fd >= 0)
      log_switch(&it->log, fd);
    else
      close(fd);
  }
  client_reply(REOPEN_LOG, request);
}

void container_forget(struct reader *reader, uint32_t request) {
  struct container *it = container_named(reader, request);
  if (it == NULL) return;
  if (it->state == CREATING && it->cancel == 0) {
    /* Answered when the runtime is gone: nothing is made any more behind the asker's back. */
    it->cancel = request;
    kill_family(it->runtime);
    return;
  }
  if (it->state != EXITED) {
    client_error(request, FAILED_PRECONDITION, "forget: container %s has not exited", it->id);
    return;
  }
  unlinkat(monitor.exits, it->id, 0);
  discard(it);
  client_reply(FORGET, request);
}

/* Also of an exec, which then has no container's id but the number of its own request. */
void container_resize(struct reader *reader, uint32_t request) {
  struct reader start = *reader;
  bool is_exec = read_string(reader)[0] == 0;
  uint32_t exec = is_exec ? read_u32(reader) : 0;
  uint32_t columns = read_u32(reader), rows = read_u32(reader);
  struct terminal_size size = {(uint16_t)columns, (uint16_t)rows};
  if (reader->bad || columns == 0 || rows == 0 || columns > UINT16_MAX || rows > UINT16_MAX) {
    client_error(request, INVALID_ARGUMENT, "resize: %u columns, %u rows", columns, rows);
  } else if (is_exec) {
    exec_resize(exec, size, request);
  } else {
    struct container *it = container_named(&start, request);
    if (it == NULL) return;
    it->size = size;
    if (it->tty) terminal_resize(it->streams[0], size);
    client_reply(RESIZE, request);
  }
}

void containers_list(uint32_t request) {
  for (struct container *it = containers; it < containers_end; it++) {
    if (it->id[0] == 0) continue;
    struct writer writer = client_frame(LIST_ENTRY, request);
    container_write_record(&writer, it);
    client_send(&writer);
  }
  client_reply(LIST, request);
}

/* ---- called from the loop ---- */

bool containers_reaped(const struct ending *ending) {
  for (struct container *it = containers; it < containers_end; it++) {
    if (it->id[0] == 0) continue;
    if (it->state == CREATING && it->runtime == ending->pid) {
      runtime_ended(it, ending->status);
      return true;
    }
    if (it->state == RUNNING && it->pid == ending->pid) {
      init_ended(it, ending);
      return true;
    }
  }
  return false;
}

bool containers_busy(void) {
  for (struct container *it = containers; it < containers_end; it++)
    if (it->id[0] != 0 && it->state == CREATING) return true;
  return false;
}

void containers_tick(uint64_t now, uint64_t *next) {
  for (struct container *it = containers; it < containers_end; it++) {
    if (it->id[0] == 0) continue;
    if (it->deadline > 0 && it->deadline <= now) {
      it->deadline = 0;
      it->deadline_passed = true;
      kill_family(it->runtime);
    }
    if (it->hold_until > 0 && it->hold_until <= now) {
      attach_cut((unsigned)(it - containers));
      container_resume(it);
      it->debt = 0; /* whoever made it is gone */
    }
    /* Something that outlived the container holds its stdout: its log goes on, the exit is told. */
    if (it->drain_until > 0 && it->drain_until <= now) {
      container_drain(it);
      container_complete(it);
    }
    if (it->complete && !it->recorded) {
      if (it->retry_at <= now) container_tell_exit(it);
      if (!it->recorded && it->retry_at < *next) *next = it->retry_at;
    }
    if (it->deadline > 0 && it->deadline < *next) *next = it->deadline;
    if (it->hold_until > 0 && it->hold_until < *next) *next = it->hold_until;
    if (it->drain_until > 0 && it->drain_until < *next) *next = it->drain_until;
  }
}

void containers_abandon(void) {
  for (struct container *it = containers; it < containers_end; it++) it->request = it->cancel = 0;
}

void containers_idle(void) {
  for (struct container *it = containers; it < containers_end; it++)
    for (int i = 0; i < 2; i++)
      if (it->id[0] != 0 && it->streams[i] >= 0 && it->lines[i].carried == 0)
        madvise(it->lines[i].carry, LOG_LINE, MADV_DONTNEED);
}
