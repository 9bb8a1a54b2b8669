/* A container's pipes and its log. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container.h"

enum { LOSS_SECONDS = 60 };

int container_open_log(const char *path, char *error, size_t size) {
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

static bool open_line(struct container *it, unsigned stream, int fd) {
  void *carry = mmap(NULL, LOG_LINE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (carry == MAP_FAILED) return false;
  it->streams[stream] = fd;
  it->lines[stream] =
      (struct log_stream){.carry = carry, .name = stream == 0 ? "stdout" : "stderr"};
  return true;
}

bool container_open_stdio(struct container *it, int ends[3], char *error, size_t size) {
  if (it->has_stdin && !open_pipe(0, &it->input, &ends[0], error, size)) return false;
  for (int i = 1; i < 3; i++) {
    int ours;
    if (!open_pipe(i, &ours, &ends[i], error, size)) return false;
    if (open_line(it, (unsigned)i - 1, ours)) continue;
    snprintf(error, size, "mmap: %s", strerror(errno));
    close(ours);
    return false;
  }
  return true;
}

/* A log that was removed is made anew, as soon as its directory lets us. */
static void keep_log(struct container *it, unsigned stream, struct timespec now) {
  char error[700];
  if (!log_removed(&it->log, &it->lines[stream], now)) return;
  int fd = container_open_log(it->paths[LOG_PATH], error, sizeof error);
  if (fd >= 0) log_switch(&it->log, fd);
}

/* The first loss is told at once, the others now and then; all of them are counted. */
static void tell_loss(struct container *it, struct timespec now) {
  if (it->log.error == 0 || now.tv_sec - it->loss_told_at < LOSS_SECONDS) return;
  it->loss_told_at = now.tv_sec;
  complain("%s: output is lost: log %s: %s", it->id, it->paths[LOG_PATH],
           it->log.gone ? "it was removed" : strerror(it->log.error));
}

bool container_open_terminal(struct container *it) {
  int master = terminal_receive(&it->console);
  if (master < 0) return false;
  if (!open_line(it, 0, master)) {
    close(master);
    return false;
  }
  terminal_resize(master, it->size);
  it->peer = terminal_peer(master);
  if (it->has_stdin) it->input = fcntl(master, F_DUPFD_CLOEXEC, 3);
  return it->peer >= 0 && (!it->has_stdin || it->input >= 0);
}

void container_watch(struct container *it) {
  unsigned index = (unsigned)(it - containers);
  for (unsigned stream = 0; stream < 2; stream++)
    if (it->streams[stream] >= 0) watch(it->streams[stream], EPOLLIN, WATCH_LOG, stream, index);
  if (it->input >= 0) watch(it->input, EPOLLOUT | EPOLLET, WATCH_INPUT, 0, index);
}

/* Nobody reads its output until the clients that are behind have caught up, or are cut off. */
static void hold(struct container *it, unsigned stream) {
  epoll_ctl(monitor.epoll, EPOLL_CTL_DEL, it->streams[stream], NULL);
  it->held[stream] = true;
  if (it->hold_until > 0) return;
  uint64_t now = now_ms(), paid = now - it->debt_at;
  it->debt = it->debt > paid ? it->debt - paid : 0;
  it->debt_at = now;
  it->hold_until = now + HOLD_MOST_MS - it->debt / HOLD_SHARE;
}

void container_resume(struct container *it) {
  uint64_t now = now_ms(), most = (uint64_t)HOLD_MOST_MS * HOLD_SHARE;
  if (it->hold_until > 0) {
    it->debt += (now - it->debt_at) * HOLD_SHARE;
    if (it->debt > most) it->debt = most;
    it->debt_at = now;
    it->hold_until = 0;
  }
  for (unsigned stream = 0; stream < 2; stream++) {
    if (it->held[stream] && it->streams[stream] >= 0)
      watch(it->streams[stream], EPOLLIN, WATCH_LOG, stream, (unsigned)(it - containers));
    it->held[stream] = false;
  }
}

void container_close_stream(struct container *it, unsigned stream) {
  if (it->streams[stream] < 0) return;
  struct timespec now = wall_time();
  unwatch_close(&it->streams[stream]);
  keep_log(it, stream, now);
  log_end(&it->log, &it->lines[stream], now);
  tell_loss(it, now);
  munmap(it->lines[stream].carry, LOG_LINE);
  if (it->attached > 0) attach_output_ended((unsigned)(it - containers), stream);
  if (it->streams[0] < 0 && it->streams[1] < 0) unwatch_close(&it->log.fd);
}

bool container_pump(struct container *it, unsigned stream) {
  ssize_t count = read(it->streams[stream], scratch.read, READ_SIZE);
  if (count > 0) {
    struct timespec now = wall_time();
    keep_log(it, stream, now);
    log_data(&it->log, &it->lines[stream], scratch.read, (size_t)count, now);
    tell_loss(it, now);
  } else if (count == 0 || errno != EAGAIN) {
    container_close_stream(it, stream);
  }
  if (count > 0 && it->attached > 0)
    attach_output((unsigned)(it - containers), stream, scratch.read, (size_t)count);
  return count > 0;
}

void container_drain(struct container *it) {
  for (unsigned stream = 0; stream < 2; stream++)
    for (int i = 0; i < 32 && it->streams[stream] >= 0 && container_pump(it, stream);) i++;
}

void container_stream_ready(unsigned index, unsigned stream) {
  struct container *it = &containers[index];
  if (it->streams[stream] < 0 || it->id[0] == 0) return;
  if (it->attached > 0 && it->state == RUNNING && !attach_has_room(index, stream)) {
    hold(it, stream);
    return;
  }
  container_pump(it, stream);
  bool closed = it->streams[0] < 0 && it->streams[1] < 0;
  if (it->state == DRAINING && !it->complete && closed) container_complete(it);
}
