#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPLICE_MOST = 1 << 20 };

static enum relay outcome(ssize_t count, enum relay failure) {
  if (count > 0) return RELAY_MOVED;
  if (count == 0) return RELAY_ENDED;
  return errno == EAGAIN || errno == EINTR ? RELAY_BLOCKED : failure;
}

bool relay_has_room(int socket) {
  struct pollfd poll_for = {socket, POLLOUT, 0};
  return poll(&poll_for, 1, 0) == 1 && (poll_for.revents & POLLOUT) != 0;
}

bool relay_gone(int socket) {
  struct pollfd poll_for = {socket, 0, 0};
  return poll(&poll_for, 1, 0) == 1 && (poll_for.revents & (POLLHUP | POLLERR)) != 0;
}

enum relay relay_out(int from, int socket, bool pipe, struct relay_buffer buffer) {
  /* A pipe can be read without error, so it is the socket's. */
  if (pipe)
    return outcome(splice(from, NULL, socket, NULL, SPLICE_MOST, SPLICE_F_NONBLOCK), RELAY_BROKEN);
  /* Read only what certainly goes on: it could not be put back. */
  if (!relay_has_room(socket)) return RELAY_BLOCKED;
  size_t most = buffer.size < RELAY_CHUNK ? buffer.size : RELAY_CHUNK;
  ssize_t count = read(from, buffer.bytes, most);
  /* EIO: a terminal that no process has open. */
  enum relay result = outcome(count, errno == EIO ? RELAY_ENDED : RELAY_RESET);
  if (result == RELAY_MOVED &&
      send(socket, buffer.bytes, (size_t)count, MSG_NOSIGNAL | MSG_DONTWAIT) != count)
    return RELAY_BROKEN;
  return result;
}

enum relay relay_in(int socket, int to, bool pipe, struct relay_buffer buffer) {
  if (pipe) {
    ssize_t count = splice(socket, NULL, to, NULL, SPLICE_MOST, SPLICE_F_NONBLOCK);
    return outcome(count, errno == ECONNRESET ? RELAY_ENDED : RELAY_BROKEN);
  }
  size_t most = buffer.size < RELAY_CHUNK ? buffer.size : RELAY_CHUNK;
  ssize_t count = recv(socket, buffer.bytes, most, MSG_PEEK | MSG_DONTWAIT);
  if (count <= 0) return outcome(count, RELAY_ENDED);
  ssize_t taken = write(to, buffer.bytes, (size_t)count);
  if (taken > 0 && recv(socket, buffer.bytes, (size_t)taken, MSG_DONTWAIT) != taken)
    return RELAY_ENDED;
  /* EPIPE: a port whose owner ended it in good order before. A reset is told only once, here or to who
   * reads. */
  return outcome(taken, errno == EPIPE || errno == EIO ? RELAY_BROKEN : RELAY_RESET);
}

enum relay relay_away(int socket, struct relay_buffer buffer) {
  return outcome(recv(socket, buffer.bytes, buffer.size, MSG_DONTWAIT), RELAY_ENDED);
}
