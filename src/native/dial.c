/* Connections to ports of the pod: the monitor lives in its network namespace. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay.h"
#include "stream.h"

static const char *const hosts[] = {"127.0.0.1", "[::1]"};

/* Begins to connect to localhost by the next family; false when there is none left. */
static bool attempt(struct stream *it) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(it->port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(it->port)};
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  v6.sin6_addr = in6addr_loopback;
  while (it->output < 2) {
    bool first = it->output++ == 0;
    int one = 1;
    int fd = socket(first ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    int result = first ? connect(fd, (struct sockaddr *)&v4, sizeof v4)
                       : connect(fd, (struct sockaddr *)&v6, sizeof v6);
    if (result == 0 || errno == EINPROGRESS) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      it->sink = fd;
      watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, WATCH_STREAM, 0, stream_index(it));
      return true;
    }
    it->error = (uint16_t)errno;
    close(fd);
  }
  return false;
}

static void refuse(struct stream *it, enum error_code code, const char *reason) {
  if (it->request != 0)
    client_error(it->request, code, "dial: %s:%u, %s:%u: %s", hosts[0], it->port, hosts[1],
                 it->port, reason);
  stream_drop(it);
}

void dial_ready(struct stream *it) {
  struct pollfd poll_for = {it->sink, POLLOUT, 0};
  int error = 0;
  socklen_t size = sizeof error;
  if (relay_gone(it->fd)) {
    refuse(it, FAILED_PRECONDITION, "the client has left");
    return;
  }
  if (poll(&poll_for, 1, 0) != 1) return;
  if (getsockopt(it->sink, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error == 0) {
    it->role = STREAM_DIAL;
    it->untold = true;
    it->source = it->sink;
    it->deadline = 0;
    it->error = 0;
    it->again = true;
    if (it->request != 0) client_reply(DIAL, it->request);
    it->request = 0;
    return;
  }
  it->error = (uint16_t)error;
  unwatch_close(&it->sink);
  if (!attempt(it)) refuse(it, FAILED_PRECONDITION, strerror(it->error));
}

void dial_expired(struct stream *it) { refuse(it, DEADLINE_EXCEEDED, "no answer in time"); }

void dial_start(struct reader *reader, uint32_t request) {
  uint32_t number = read_u32(reader), port = read_u32(reader), deadline_ms = read_u32(reader);
  if (reader->bad || port == 0 || port > 65535 || deadline_ms == 0) {
    client_error(request, INVALID_ARGUMENT, "dial: malformed request");
    return;
  }
  struct stream *it = stream_claim(number);
  if (it == NULL) {
    client_error(request, RESOURCE_EXHAUSTED, "dial: no room for its stream");
    return;
  }
  it->role = STREAM_DIALING;
  it->request = request;
  it->port = (uint16_t)port;
  it->output = 0;
  it->deadline = now_ms() + deadline_ms;
  if (!attempt(it)) refuse(it, FAILED_PRECONDITION, strerror(it->error));
}

static void tell_end(struct stream *it, uint32_t request) {
  it->untold = false;
  it->again = true;
  struct writer writer = client_frame(REPLY | DIAL_END, request);
  write_u32(&writer, it->error);
  client_send(&writer);
}

void dial_ended(struct stream *it) {
  if (it->request != 0) tell_end(it, it->request);
  it->request = 0;
}

/* One that has ended keeps its number until the daemon has asked, or has had the time to. */
void dial_end(struct reader *reader, uint32_t request) {
  uint32_t number = read_u32(reader);
  for (EACH_STREAM(it)) {
    if (reader->bad || it->number != number) continue;
    if (it->role == STREAM_ENDED || (it->role == STREAM_DIAL && it->source < 0)) {
      tell_end(it, request);
      return;
    }
    if (it->role == STREAM_DIAL && it->request == 0) {
      it->request = request;
      return;
    }
  }
  client_error(request, NOT_FOUND, "dial: no such stream, or its end is waited for already");
}
