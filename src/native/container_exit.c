/* How a container ends: the verdict on its memory, its exit record, the news to the daemon. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "container.h"

/* How long an exit waits for its record when that cannot be written, and for the next try. */
enum { RECORD_MS = 3000, RETRY_MS = 500 };

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

/* All kills in this pod's containers that were told apart so far. */
static uint64_t kills_known;

/* On v2 the parent cgroup counts the kills in its children, also when these are gone. */
static bool read_parent_kills(const struct container *it, uint64_t *kills) {
  static const char name[] = "memory.events";
  char path[sizeof it->paths[OOM_PATH] + sizeof name];
  snprintf(path, sizeof path, "%s", it->paths[OOM_PATH]);
  char *slash = strrchr(path, '/');
  if (slash == NULL || strcmp(slash + 1, name) != 0) return false;
  *slash = 0;
  slash = strrchr(path, '/');
  if (slash == NULL) return false;
  memcpy(slash + 1, name, sizeof name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool told = fd >= 0 && read_oom_kills(fd, kills);
  if (fd >= 0) close(fd);
  return told;
}

/* On v1 the kernel tells of memory running out, before it kills; and once more when the cgroup goes. */
static bool open_notice(struct container *it) {
  static const char name[] = "cgroup.event_control";
  char path[sizeof it->paths[OOM_PATH] + sizeof name], text[32];
  snprintf(path, sizeof path, "%s", it->paths[OOM_PATH]);
  memcpy(strrchr(path, '/') + 1, name, sizeof name);
  it->oom_notice = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int length = snprintf(text, sizeof text, "%d %d", it->oom_notice, it->oom);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  bool asked = it->oom_notice >= 0 && fd >= 0 && write(fd, text, (size_t)length) == length;
  if (!asked) complain("%s: %s: %s", it->id, path, strerror(errno));
  if (fd >= 0) close(fd);
  if (!asked) unwatch_close(&it->oom_notice);
  return asked;
}

static void close_oom(struct container *it) {
  unwatch_close(&it->oom);
  unwatch_close(&it->oom_notice);
}

static void check_oom(struct container *it) {
  uint64_t kills, notices;
  if (it->oom_notice >= 0 && read(it->oom_notice, &notices, sizeof notices) == sizeof notices)
    it->oom_notices += notices;
  if (it->oom < 0) return;
  if (!read_oom_kills(it->oom, &kills)) {
    /* The cgroup is gone; its file would be ready for ever. */
    unwatch_close(&it->oom);
    it->oom_vanished = true;
    return;
  }
  if (it->oom_notices > 0) it->oom_noticed = true;
  if (kills > it->oom_kills) {
    it->oom_killed = true;
    kills_known += kills - it->oom_kills;
    it->oom_kills = kills;
  }
}

/* systemd removes a scope's cgroup as soon as it is empty, often before we have read it. Of a container
 * that was killed then tells on v1 the notice; on v2 the parent, whose count beyond the kills that are
 * known is this container's. Of one that was asked to be killed it tells nothing: pods may share a parent. */
static void check_vanished(struct container *it) {
  uint64_t kills;
  if (!it->oom_vanished || it->oom_killed || it->signal != SIGKILL) return;
  /* One of them may be about the cgroup's own end, unless that was still there. */
  it->oom_killed = it->oom_noticed || it->oom_notices > 1;
  if (it->killed || !read_parent_kills(it, &kills)) return;
  uint64_t rise = kills - it->oom_parent, known = kills_known - it->oom_known;
  if (kills < it->oom_parent || rise <= known) return;
  it->oom_killed = true;
  kills_known += rise - known;
}

void container_open_oom(struct container *it) {
  if (strrchr(it->paths[OOM_PATH], '/') == NULL) return;
  it->oom_known = kills_known;
  if (!read_parent_kills(it, &it->oom_parent)) it->oom_parent = UINT64_MAX;
  it->oom = open(it->paths[OOM_PATH], O_RDONLY | O_CLOEXEC);
  if (it->oom < 0) {
    complain("%s: %s: %s", it->id, it->paths[OOM_PATH], strerror(errno));
    it->oom_vanished = true;
    return;
  }
  if (!read_oom_kills(it->oom, &it->oom_kills)) {
    complain("%s: %s: no oom_kill line", it->id, it->paths[OOM_PATH]);
    unwatch_close(&it->oom);
    return;
  }
  /* On v2 the kernel tells of each change. */
  if (strcmp(strrchr(it->paths[OOM_PATH], '/'), "/memory.oom_control") != 0)
    watch(it->oom, EPOLLPRI, WATCH_OOM, 0, (unsigned)(it - containers));
  else if (open_notice(it))
    watch(it->oom_notice, EPOLLIN, WATCH_OOM, 0, (unsigned)(it - containers));
}

void container_oom_ready(unsigned index) { check_oom(&containers[index]); }

void container_write_record(struct writer *writer, const struct container *it) {
  write_string(writer, it->id);
  write_u32(writer, (uint32_t)it->pid);
  write_u32(writer, it->state);
  write_u32(writer, (uint32_t)it->code);
  write_u32(writer, (uint32_t)it->signal);
  write_u32(writer, it->oom_killed);
  write_u64(writer, it->finished_at);
  write_u64(writer, it->log.dropped_bytes);
}

/* <directory>/exits/<id>, whole or absent: what is left when the monitor is gone too. Written as soon as
 * the end is known, and once more when the log is complete. */
static bool save_exit(struct container *it) {
  char text[512], name[MAX_ID + 8];
  int length = snprintf(text, sizeof text,
                        "{\"version\":1,\"id\":\"%s\",\"pid\":%d,\"exitCode\":%d,\"signal\":%d,"
                        "\"finishedAtNs\":\"%" PRIu64 "\",\"oomKilled\":%s,"
                        "\"droppedLogBytes\":\"%" PRIu64 "\"%s}\n",
                        it->id, it->pid, it->code, it->signal, it->finished_at,
                        it->oom_killed ? "true" : "false", it->log.dropped_bytes,
                        it->complete ? "" : ",\"logComplete\":false");
  snprintf(name, sizeof name, ".%s.tmp", it->id);
  int fd = openat(monitor.exits, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool saved = fd >= 0 && write(fd, text, (size_t)length) == length;
  if (fd >= 0) close(fd);
  return saved && renameat(monitor.exits, name, monitor.exits, it->id) == 0;
}

void container_tell_exit(struct container *it) {
  uint64_t now = now_ms();
  it->recorded = save_exit(it);
  if (!it->recorded && it->retry_at == 0) {
    complain("%s: exit record: %s", it->id, strerror(errno));
    it->tell_at = now + RECORD_MS;
  }
  it->retry_at = now + RETRY_MS;
  if (it->state == EXITED || (!it->recorded && now < it->tell_at)) return;
  it->state = EXITED;
  if (it->attached > 0) attach_ended((unsigned)(it - containers));
  if (!client_connected()) return;
  struct writer writer = client_frame(EXIT, 0);
  container_write_record(&writer, it);
  client_send(&writer);
}

void container_complete(struct container *it) {
  it->complete = true;
  it->drain_until = 0;
  check_oom(it);
  check_vanished(it);
  if (it->log.dropped_bytes > 0)
    complain("%s: %" PRIu64 " bytes of output are not in its log", it->id, it->log.dropped_bytes);
  close_oom(it);
  unwatch_close(&it->input);
  container_tell_exit(it);
}

void container_ended(struct container *it, const struct ending *ending) {
  it->code = exit_code(ending->status);
  it->signal = exit_signal(ending->status);
  it->finished_at = ending->at_ns;
  it->state = DRAINING;
  it->drain_until = now_ms() + it->drain_ms;
  check_oom(it);
  check_vanished(it);
  if (it->streams[0] < 0 && it->streams[1] < 0)
    container_complete(it);
  else
    save_exit(it); /* the monitor may not live to see the end of the log */
}
