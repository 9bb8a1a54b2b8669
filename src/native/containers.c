/* The table of the pod's containers: created by the runtime, reaped, logged and recorded here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor.h"

struct container {
  char id[MAX_ID + 1]; /* "": a free slot */
  enum container_state state;
  uint32_t request; /* the CREATE to answer */
  pid_t runtime, pid;
  uint64_t deadline, drain_until; /* now_ms, 0: none */
  uint32_t drain_ms;
  bool deadline_passed, recorded;
  int input; /* write end of its stdin, -1: none */
  int streams[2];
  struct log_file log;
  struct log_stream lines[2];
  int oom; /* fd, -1: none */
  uint64_t oom_kills_before;
  bool oom_killed;
  int code, signal;
  uint64_t finished_at;
  char paths[3][512]; /* log, pid file, oom file */
};
enum { LOG_PATH, PID_PATH, OOM_PATH };
static struct container containers[MAX_CONTAINERS];
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

static int open_log(const char *path, char *error, size_t size) {
  struct stat stat;
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
  if (fd >= 0 && (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode))) {
    close(fd);
    fd = -1;
    errno = EINVAL;
  }
  if (fd < 0) snprintf(error, size, "log %s: %s", path, strerror(errno));
  return fd;
}

/* ---- out of memory ---- */

/* The `oom_kill N` of memory.events (v2) or memory.oom_control (v1); false when unreadable. */
static bool read_oom_kills(int fd, uint64_t *kills) {
  char text[512];
  ssize_t length = pread(fd, text, sizeof text - 1, 0);
  if (length <= 0) return false;
  text[length] = 0;
  for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
    if (strncmp(line, "oom_kill ", 9) != 0) continue;
    *kills = strtoull(line + 9, NULL, 10);
    return true;
  }
  return false;
}

static void check_oom(struct container *it) {
  uint64_t kills;
  if (it->oom < 0) return;
  if (!read_oom_kills(it->oom, &kills)) {
    /* The cgroup is gone; its file would be ready for ever. */
    unwatch_close(&it->oom);
  } else if (kills > it->oom_kills_before) {
    it->oom_killed = true;
  }
}

static void open_oom(struct container *it) {
  if (it->paths[OOM_PATH][0] == 0) return;
  it->oom = open(it->paths[OOM_PATH], O_RDONLY | O_CLOEXEC);
  if (it->oom < 0) {
    complain("%s: %s: %s", it->id, it->paths[OOM_PATH], strerror(errno));
    return;
  }
  if (!read_oom_kills(it->oom, &it->oom_kills_before)) {
    complain("%s: %s: no oom_kill line", it->id, it->paths[OOM_PATH]);
    unwatch_close(&it->oom);
    return;
  }
  /* On v2 the kernel tells of each change, before the cgroup can vanish. On v1 it never does. */
  watch(it->oom, EPOLLPRI, WATCH_OOM, 0, (unsigned)(it - containers));
}

void container_oom_ready(unsigned index) { check_oom(&containers[index]); }

/* ---- the end ---- */

static void write_record(struct writer *writer, const struct container *it) {
  write_string(writer, it->id);
  write_u32(writer, (uint32_t)it->pid);
  write_u32(writer, it->state);
  write_u32(writer, (uint32_t)it->code);
  write_u32(writer, (uint32_t)it->signal);
  write_u32(writer, it->oom_killed);
  write_u64(writer, it->finished_at);
  write_u64(writer, it->log.dropped_bytes);
}

/* <directory>/exits/<id>, whole or absent: what is left when the monitor is gone too. */
static bool save_exit(struct container *it) {
  char text[512], name[MAX_ID + 8];
  int length = snprintf(text, sizeof text,
                        "{\"version\":1,\"id\":\"%s\",\"pid\":%d,\"exitCode\":%d,\"signal\":%d,"
                        "\"finishedAtNs\":\"%" PRIu64 "\",\"oomKilled\":%s,"
                        "\"droppedLogBytes\":\"%" PRIu64 "\"}\n",
                        it->id, it->pid, it->code, it->signal, it->finished_at,
                        it->oom_killed ? "true" : "false", it->log.dropped_bytes);
  snprintf(name, sizeof name, ".%s.tmp", it->id);
  int fd = openat(monitor.exits, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool saved = fd >= 0 && write(fd, text, (size_t)length) == length;
  if (fd >= 0) close(fd);
  return saved && renameat(monitor.exits, name, monitor.exits, it->id) == 0;
}

static void report_exit(struct container *it) {
  it->state = EXITED;
  it->drain_until = 0;
  it->recorded = save_exit(it);
  if (!it->recorded) complain("%s: exit record: %s", it->id, strerror(errno));
  if (it->log.dropped_bytes > 0)
    complain("%s: %" PRIu64 " bytes of log could not be written", it->id, it->log.dropped_bytes);
  unwatch_close(&it->oom);
  unwatch_close(&it->input);
  if (!client_connected()) return;
  struct writer writer = client_frame(EXIT, 0);
  write_record(&writer, it);
  client_send(&writer);
}

static void ended(struct container *it, const struct ending *ending) {
  it->code = exit_code(ending->status);
  it->signal = exit_signal(ending->status);
  it->finished_at = ending->at_ns;
  it->state = DRAINING;
  it->drain_until = now_ms() + it->drain_ms;
  check_oom(it);
  if (it->streams[0] < 0 && it->streams[1] < 0) report_exit(it);
}

/* ---- log streams ---- */

static void close_stream(struct container *it, unsigned stream) {
  if (it->streams[stream] < 0) return;
  unwatch_close(&it->streams[stream]);
  log_end(&it->log, &it->lines[stream], wall_time());
  munmap(it->lines[stream].carry, LOG_LINE);
  if (it->streams[0] < 0 && it->streams[1] < 0) unwatch_close(&it->log.fd);
}

/* One read; false at the end of the stream or when nothing is there. */
static bool pump(struct container *it, unsigned stream) {
  ssize_t count = read(it->streams[stream], scratch.read, READ_SIZE);
  if (count > 0)
    log_data(&it->log, &it->lines[stream], scratch.read, (size_t)count, wall_time());
  else if (count == 0 || errno != EAGAIN)
    close_stream(it, stream);
  return count > 0;
}

void container_stream_ready(unsigned index, unsigned stream) {
  struct container *it = &containers[index];
  if (it->streams[stream] < 0 || it->id[0] == 0) return;
  pump(it, stream);
  if (it->state == DRAINING && it->streams[0] < 0 && it->streams[1] < 0) report_exit(it);
}

/* ---- create ---- */

static void discard(struct container *it) {
  for (unsigned stream = 0; stream < 2; stream++) {
    while (it->streams[stream] >= 0 && pump(it, stream)) continue;
    close_stream(it, stream);
  }
  unwatch_close(&it->log.fd);
  unwatch_close(&it->input);
  unwatch_close(&it->oom);
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

static void runtime_ended(struct container *it, int status) {
  struct ending ending;
  it->runtime = 0;
  it->deadline = 0;
  pid_t pid = take_pid_file(it->paths[PID_PATH]);
  bool failed = status != 0 || it->deadline_passed;
  enum child_state state = pid > 0 && !failed ? find_child(pid, &ending) : CHILD_UNKNOWN;
  if (state == CHILD_UNKNOWN) {
    answer_create(it, exit_code(status),
                  it->deadline_passed ? "the runtime did not end in time and was killed"
                  : failed            ? ""
                  : pid == 0          ? "the runtime wrote no pid file"
                                      : "the runtime's process is not a child of the monitor");
    discard(it);
    return;
  }
  it->pid = pid;
  it->state = RUNNING;
  open_oom(it);
  answer_create(it, 0, "");
  if (state == CHILD_ENDED) ended(it, &ending);
}

static bool open_stdio(struct container *it, bool has_stdin, int ends[3], char *error,
                       size_t size) {
  int pipes[3][2];
  for (int i = has_stdin ? 0 : 1; i < 3; i++) {
    if (pipe2(pipes[i], O_CLOEXEC) != 0) {
      snprintf(error, size, "pipe: %s", strerror(errno));
      return false;
    }
    int ours = i == 0 ? pipes[i][1] : pipes[i][0];
    fcntl(ours, F_SETFL, O_NONBLOCK);
    ends[i] = i == 0 ? pipes[i][0] : pipes[i][1];
    if (i == 0) {
      it->input = ours;
      continue;
    }
    it->streams[i - 1] = ours;
    void *carry = mmap(NULL, LOG_LINE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (carry == MAP_FAILED) {
      snprintf(error, size, "mmap: %s", strerror(errno));
      unwatch_close(&it->streams[i - 1]);
      return false;
    }
    it->lines[i - 1] = (struct log_stream){.carry = carry, .name = i == 1 ? "stdout" : "stderr"};
  }
  return true;
}

static void launch(struct container *it, const char *cwd, uint32_t flags) {
  char error[700] = "";
  int ends[3] = {-1, -1, -1};
  bool ready = true;
  if (it->paths[LOG_PATH][0] != 0) {
    it->log.fd = open_log(it->paths[LOG_PATH], error, sizeof error);
    ready = it->log.fd >= 0;
  }
  if (ready && open_stdio(it, flags & CREATE_STDIN, ends, error, sizeof error)) {
    struct process process = {scratch.argv, scratch.env, cwd, ends[0] < 0 ? 0 : ends[0],
                              ends[1],      ends[2]};
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
  for (unsigned stream = 0; stream < 2; stream++)
    watch(it->streams[stream], EPOLLIN, WATCH_LOG, stream, (unsigned)(it - containers));
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
                             .input = -1,
                             .streams = {-1, -1},
                             .log.fd = -1,
                             .oom = -1};
    memcpy(it->id, id, strlen(id) + 1);
    for (int i = 0; i < 3; i++) memcpy(it->paths[i], paths[i], strlen(paths[i]) + 1);
    launch(it, cwd, flags);
  }
}

/* ---- requests about one container ---- */

static struct container *named(struct reader *reader, uint32_t request) {
  const char *id = read_string(reader);
  struct container *it = reader->bad ? NULL : find(id);
  if (reader->bad)
    client_error(request, INVALID_ARGUMENT, "malformed request");
  else if (it == NULL)
    client_error(request, NOT_FOUND, "container %s: unknown to its monitor", id);
  return it;
}

void container_kill(struct reader *reader, uint32_t request) {
  struct container *it = named(reader, request);
  uint32_t signal = read_u32(reader);
  if (it == NULL) return;
  if (reader->bad || signal > 64)
    client_error(request, INVALID_ARGUMENT, "kill: signal %u", signal);
  else if (it->state != RUNNING)
    client_error(request, FAILED_PRECONDITION, "kill: container %s is not running", it->id);
  else if (kill(it->pid, (int)signal) != 0) /* unreaped, so the pid is still its own */
    client_error(request, INTERNAL, "kill: container %s: %s", it->id, strerror(errno));
  else
    client_reply(KILL, request);
}

void container_reopen_log(struct reader *reader, uint32_t request) {
  char error[700];
  struct container *it = named(reader, request);
  if (it == NULL) return;
  if (it->log.fd >= 0) {
    int fd = open_log(it->paths[LOG_PATH], error, sizeof error);
    if (fd < 0) {
      client_error(request, INTERNAL, "%s", error);
      return;
    }
    close(it->log.fd);
    it->log.fd = fd;
    it->log.torn = false;
  }
  client_reply(REOPEN_LOG, request);
}

void container_forget(struct reader *reader, uint32_t request) {
  struct container *it = named(reader, request);
  if (it == NULL) return;
  if (it->state != EXITED) {
    client_error(request, FAILED_PRECONDITION, "forget: container %s has not exited", it->id);
    return;
  }
  unlinkat(monitor.exits, it->id, 0);
  discard(it);
  client_reply(FORGET, request);
}

void containers_list(uint32_t request) {
  for (struct container *it = containers; it < containers_end; it++) {
    if (it->id[0] == 0) continue;
    struct writer writer = client_frame(LIST_ENTRY, request);
    write_record(&writer, it);
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
      ended(it, ending);
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
    /* Something that outlived the container holds its stdout: its log goes on, the exit is told. */
    if (it->drain_until > 0 && it->drain_until <= now) report_exit(it);
    if (it->state == EXITED && !it->recorded) {
      it->recorded = save_exit(it);
      if (!it->recorded && now + 1000 < *next) *next = now + 1000;
    }
    if (it->deadline > 0 && it->deadline < *next) *next = it->deadline;
    if (it->drain_until > 0 && it->drain_until < *next) *next = it->drain_until;
  }
}

void containers_abandon(void) {
  for (struct container *it = containers; it < containers_end; it++) it->request = 0;
}

void containers_idle(void) {
  for (struct container *it = containers; it < containers_end; it++)
    for (int i = 0; i < 2; i++)
      if (it->id[0] != 0 && it->streams[i] >= 0 && it->lines[i].carried == 0)
        madvise(it->lines[i].carry, LOG_LINE, MADV_DONTNEED);
}
