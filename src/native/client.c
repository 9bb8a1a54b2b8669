/* The control connection: one daemon at a time, bounded queues in both directions. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "stream.h"

static struct {
  int listener, fd; /* -1: none */
  bool greeted;     /* it said HELLO in a version we speak */
  size_t in, out;   /* bytes in scratch.in; bytes in scratch.out */
  size_t sent;      /* of them, already sent */
  uint32_t events;  /* what epoll watches for */
  bool dirty;       /* something was queued since the last turn */
} client = {.listener = -1, .fd = -1};

int client_listen(char *error, size_t size) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  /* Through /proc, because the directory's own path may be longer than sun_path. */
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/monitor.sock",
           monitor.directory);
  unlinkat(monitor.directory, "monitor.sock", 0);
  client.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  mode_t mask = umask(0177);
  int bound = bind(client.listener, (struct sockaddr *)&address, sizeof address);
  umask(mask);
  if (bound != 0 || listen(client.listener, MAX_STREAMS) != 0) {
    snprintf(error, size, "listen on monitor.sock: %s", strerror(errno));
    return -1;
  }
  watch(client.listener, EPOLLIN, WATCH_LISTENER, 0, 0);
  return 0;
}

static void disconnect(void) {
  if (client.fd < 0) return;
  unwatch_close(&client.fd);
  client.in = client.out = client.sent = 0;
  client.greeted = false;
  containers_abandon();
  execs_abandon();
  streams_abandon();
}

static int next_connection(void) {
  int fd = accept4(client.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0 || (errno != EMFILE && errno != ENFILE)) return fd;
  /* No descriptor is left: it is turned away, or it would wake the loop for ever. */
  close(monitor.spare);
  fd = accept4(client.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  unwatch_close(&fd);
  monitor.spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return -1;
}

void client_accept(void) {
  int fd;
  while ((fd = next_connection()) >= 0) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        (peer.uid != 0 && peer.uid != geteuid()))
      close(fd);
    else
      stream_open(fd);
  }
}

void client_take(int fd) {
  /* The one before is dead, or about to find out. */
  disconnect();
  client.fd = fd;
  client.events = EPOLLIN;
  watch(fd, EPOLLIN, WATCH_CLIENT, 0, 0);
}

bool client_connected(void) { return client.fd >= 0 && client.greeted; }

static size_t room(void) { return OUT_SIZE - (client.out - client.sent); }

bool client_has_room(size_t bytes) { return client_connected() && room() >= OUT_RESERVE + bytes; }

bool client_quiet(void) { return client.in == 0 && client.out == 0; }

static void interest(void) {
  if (client.fd < 0) return;
  uint32_t events = (room() > OUT_RESERVE ? EPOLLIN : 0u) | (client.out > 0 ? EPOLLOUT : 0u);
  if (events == client.events) return;
  struct epoll_event event = {events, {.u64 = (uint64_t)WATCH_CLIENT << 32}};
  epoll_ctl(monitor.epoll, EPOLL_CTL_MOD, client.fd, &event);
  client.events = events;
}

static void flush(void) {
  while (client.fd >= 0 && client.sent < client.out) {
    ssize_t count = send(client.fd, scratch.out + client.sent, client.out - client.sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) {
      if (errno != EAGAIN && errno != EINTR) disconnect();
      break;
    }
    client.sent += (size_t)count;
  }
  if (client.sent == client.out) client.sent = client.out = 0;
  interest();
}

struct writer client_frame(uint16_t type, uint32_t request) {
  /* client_output counts on room beyond the reserve, where client_has_room saw it. */
  if (client.sent > 0 && OUT_SIZE - client.out < OUT_RESERVE + READ_SIZE) {
    memmove(scratch.out, scratch.out + client.sent, client.out - client.sent);
    client.out -= client.sent;
    client.sent = 0;
  }
  struct writer writer = {.bytes = scratch.out + client.out, .capacity = OUT_SIZE - client.out};
  writer.full = client.fd < 0;
  write_header(&writer, type, request);
  return writer;
}

void client_send(struct writer *writer) {
  write_end(writer);
  /* The reserve makes this impossible; were it not, a reconnect loses nothing. */
  if (writer->full) {
    disconnect();
    return;
  }
  client.out += writer->length;
  client.dirty = true;
}

void client_reply(enum frame_type type, uint32_t request) {
  struct writer writer = client_frame(REPLY | type, request);
  client_send(&writer);
}

void client_error(uint32_t request, enum error_code code, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  struct writer writer = client_frame(ERROR, request);
  write_u32(&writer, code);
  write_string(&writer, text);
  client_send(&writer);
}

ssize_t client_output(uint32_t request, int fd, unsigned stream) {
  struct writer writer = client_frame(EXEC_OUTPUT, request);
  size_t spare = writer.capacity - writer.length - 1 - OUT_RESERVE;
  ssize_t count = read(fd, writer.bytes + writer.length + 1, spare < 32768 ? spare : 32768);
  if (count <= 0) return count;
  writer.bytes[writer.length] = (unsigned char)stream;
  writer.length += 1 + (size_t)count;
  client_send(&writer);
  return count;
}

static void hello(struct reader *reader, uint32_t request) {
  uint32_t magic = read_u32(reader);
  uint16_t version = read_u16(reader);
  if (reader->bad || magic != PROTOCOL_MAGIC || version < 1) {
    client_error(request, INVALID_ARGUMENT, "not a monitor client's HELLO");
    return;
  }
  client.greeted = true;
  struct writer writer = client_frame(REPLY | HELLO, request);
  write_u16(&writer, version < PROTOCOL_VERSION ? version : PROTOCOL_VERSION);
  write_u16(&writer, 0);
  write_u32(&writer, (uint32_t)getpid());
  write_u32(&writer, (uint32_t)monitor.pause);
  write_string(&writer, monitor.id);
  client_send(&writer);
}

static void dispatch(const struct frame *frame) {
  struct reader reader = {frame->payload, frame->payload + frame->length, false};
  if (frame->type == HELLO) {
    hello(&reader, frame->request);
    return;
  }
  if (!client.greeted) {
    client_error(frame->request, FAILED_PRECONDITION, "HELLO must come first");
    return;
  }
  switch (frame->type) {
    case CREATE: container_create(&reader, frame->request); break;
    case EXEC: exec_start(&reader, frame->request); break;
    case KILL: container_kill(&reader, frame->request); break;
    case REOPEN_LOG: container_reopen_log(&reader, frame->request); break;
    case LIST: containers_list(frame->request); break;
    case FORGET: container_forget(&reader, frame->request); break;
    case ATTACH: container_attach(&reader, frame->request); break;
    case RESIZE: container_resize(&reader, frame->request); break;
    case CANCEL: exec_cancel(&reader, frame->request); break;
    case HOLD: exec_hold(&reader, frame->request); break;
    case DROP: exec_drop(&reader, frame->request); break;
    case DIAL: dial_start(&reader, frame->request); break;
    case DIAL_END: dial_end(&reader, frame->request); break;
    case SHUTDOWN:
      monitor.stopping = true;
      client_reply(SHUTDOWN, frame->request);
      break;
    default: client_error(frame->request, UNIMPLEMENTED, "unknown request %u", frame->type);
  }
}

/* Handles the whole frames that have arrived, as long as there is room for their answers; false when
 * there was none to handle. */
static bool handle_frames(void) {
  size_t at = 0;
  while (client.fd >= 0 && room() > OUT_RESERVE) {
    struct frame frame;
    long size = frame_parse(scratch.in + at, client.in - at, &frame);
    if (size < 0) {
      complain("a frame that is none: closing the connection");
      disconnect();
      return false;
    }
    if (size == 0) break;
    dispatch(&frame);
    if (client.fd < 0) return false; /* disconnect emptied the buffers */
    at += (size_t)size;
  }
  if (at == 0) return false;
  client.in -= at;
  memmove(scratch.in, scratch.in + at, client.in);
  return true;
}

void client_ready(uint32_t events) {
  if (client.fd < 0) return;
  if (events & EPOLLOUT) flush();
  if (client.fd >= 0 && room() > OUT_RESERVE && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    ssize_t count =
        recv(client.fd, scratch.in + client.in, sizeof scratch.in - client.in, MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
      disconnect();
      return;
    }
    if (count > 0) client.in += (size_t)count;
  } else if (events & (EPOLLHUP | EPOLLERR)) {
    disconnect();
  }
}

void client_turn(void) {
  do flush();
  while (handle_frames());
  if (client_has_room(READ_SIZE)) execs_resume();
  client.dirty = false;
}

bool client_dirty(void) { return client.dirty; }

void client_farewell(void) {
  for (int tries = 0; tries < 10 && client.fd >= 0 && client.sent < client.out; tries++) {
    flush();
    struct pollfd wait = {client.fd, POLLOUT, 0};
    if (client.fd >= 0 && client.sent < client.out) poll(&wait, 1, 100);
  }
  unlinkat(monitor.directory, "monitor.sock", 0);
}
