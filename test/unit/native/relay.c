/* Tests of the moves between a stream's connection and pipes, sockets and terminals. */
#define _GNU_SOURCE
#include "../../../src/native/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "expect.h"

static char bytes[RELAY_CHUNK];
static const struct relay_buffer buffer = {bytes, sizeof bytes};

/* [0] is the monitor's, [1] the daemon's. */
static void open_connection(int ends[2]) {
  int room = RELAY_SNDBUF;
  EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
}

static void close_both(int ends[2]) {
  if (ends[0] >= 0) close(ends[0]);
  if (ends[1] >= 0) close(ends[1]);
}

static unsigned char expected(size_t at) { return (unsigned char)(at * 31 + at / 251); }

/* Writes what fits; where the counting goes on. */
static size_t feed(int fd, size_t at, size_t end) {
  unsigned char piece[5000];
  while (at < end) {
    size_t length = end - at < sizeof piece ? end - at : sizeof piece;
    for (size_t i = 0; i < length; i++) piece[i] = expected(at + i);
    ssize_t count = write(fd, piece, length);
    if (count < 0) break;
    at += (size_t)count;
    if ((size_t)count < length) break;
  }
  return at;
}

/* Reads what is there, at most `most`; fails on a byte that is not the next. */
static size_t drain(int fd, size_t at, size_t most) {
  unsigned char piece[3000];
  while (most > 0) {
    ssize_t count = read(fd, piece, most < sizeof piece ? most : sizeof piece);
    if (count <= 0) break;
    for (ssize_t i = 0; i < count; i++) EXPECT(piece[i] == expected(at + (size_t)i));
    at += (size_t)count;
    most -= (size_t)count;
  }
  return at;
}

enum { TOTAL = 2000000 };

/* All bytes cross, in order, whatever either side does not take for a while. */
static void cross(int source, int sink, enum relay (*move)(int, int, bool, struct relay_buffer),
                  int from, int to, bool pipe) {
  size_t written = 0, seen = 0;
  bool was_blocked = false;
  srand(5);
  while (seen < TOTAL) {
    size_t more = written + (size_t)(rand() % 300000);
    written = feed(source, written, more < TOTAL ? more : TOTAL);
    enum relay result;
    while ((result = move(from, to, pipe, buffer)) == RELAY_MOVED) continue;
    EXPECT(result == RELAY_BLOCKED);
    if (rand() % 3 == 0) {
      was_blocked = true;
      continue; /* nobody reads: the next move finds no room */
    }
    seen = drain(sink, seen, (size_t)(rand() % 400000));
  }
  EXPECT(was_blocked && seen == TOTAL);
}

static void nothing_is_lost_from_a_pipe_to_the_socket(void) {
  int connection[2], ends[2];
  open_connection(connection);
  EXPECT(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
  cross(ends[1], connection[1], relay_out, ends[0], connection[0], true);
  close(ends[1]);
  EXPECT(relay_out(ends[0], connection[0], true, buffer) == RELAY_ENDED);
  close(ends[0]);
  close_both(connection);
}

static void nothing_is_lost_from_the_socket_to_a_pipe(void) {
  int connection[2], ends[2];
  open_connection(connection);
  EXPECT(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
  cross(connection[1], ends[0], relay_in, connection[0], ends[1], true);
  shutdown(connection[1], SHUT_WR);
  EXPECT(relay_in(connection[0], ends[1], true, buffer) == RELAY_ENDED);
  close_both(ends);
  close_both(connection);
}

static void nothing_is_lost_between_sockets(void) {
  int connection[2], port[2];
  open_connection(connection);
  open_connection(port);
  cross(port[1], connection[1], relay_out, port[0], connection[0], false);
  cross(connection[1], port[1], relay_in, connection[0], port[0], false);
  shutdown(port[1], SHUT_WR);
  EXPECT(relay_out(port[0], connection[0], false, buffer) == RELAY_ENDED);
  shutdown(connection[1], SHUT_WR);
  EXPECT(relay_in(connection[0], port[0], false, buffer) == RELAY_ENDED);
  close_both(connection);
  close_both(port);
}

static void a_terminal_takes_what_it_can_and_ends_with_its_last_process(void) {
  int connection[2], master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  char text[8] = "";
  struct termios raw;
  open_connection(connection);
  EXPECT(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  EXPECT(slave >= 0 && tcgetattr(slave, &raw) == 0);
  cfmakeraw(&raw);
  EXPECT(tcsetattr(slave, TCSANOW, &raw) == 0);
  size_t written = feed(connection[1], 0, 100000), seen = 0;
  for (int rounds = 0; seen < written && rounds < 10000; rounds++) {
    while (relay_in(connection[0], master, false, buffer) == RELAY_MOVED) continue;
    seen = drain(slave, seen, 100000);
  }
  EXPECT(seen == written);
  EXPECT(write(slave, "bye", 3) == 3);
  EXPECT(relay_out(master, connection[0], false, buffer) == RELAY_MOVED);
  EXPECT(read(connection[1], text, sizeof text) == 3 && memcmp(text, "bye", 3) == 0);
  EXPECT(relay_out(master, connection[0], false, buffer) == RELAY_BLOCKED);
  close(slave);
  EXPECT(relay_out(master, connection[0], false, buffer) == RELAY_ENDED);
  close(master);
  close_both(connection);
}

static void a_side_that_takes_nothing_any_more_is_told_apart(void) {
  int connection[2], ends[2];
  for (int piped = 0; piped < 2; piped++) {
    open_connection(connection);
    if (piped)
      EXPECT(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
    else
      open_connection(ends);
    EXPECT(write(connection[1], "x", 1) == 1);
    close(ends[0]);
    ends[0] = -1;
    EXPECT(relay_in(connection[0], ends[1], piped, buffer) == RELAY_BROKEN);
    close_both(ends);
    close_both(connection);
  }
  open_connection(connection);
  EXPECT(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
  EXPECT(write(ends[1], "x", 1) == 1);
  close(connection[1]);
  connection[1] = -1;
  EXPECT(relay_out(ends[0], connection[0], true, buffer) == RELAY_BROKEN);
  close_both(ends);
  close_both(connection);
}

/* [0] is the monitor's, [1] the port's owner's. */
static void open_port(int ends[2]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
  EXPECT(listen(listener, 1) == 0);
  EXPECT(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
  ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT(connect(ends[0], (struct sockaddr *)&address, sizeof address) == 0);
  ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  EXPECT(ends[1] >= 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
  close(listener);
}

static void reset(int *fd) {
  struct linger at_once = {.l_onoff = 1};
  EXPECT(setsockopt(*fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
  close(*fd);
  *fd = -1;
}

static void a_port_that_is_reset_has_not_ended(void) {
  int connection[2], port[2];
  char text[8];
  open_connection(connection);
  open_port(port);
  EXPECT(write(port[1], "last", 4) == 4);
  EXPECT(relay_out(port[0], connection[0], false, buffer) == RELAY_MOVED);
  reset(&port[1]);
  EXPECT(relay_out(port[0], connection[0], false, buffer) == RELAY_RESET && errno == ECONNRESET);
  EXPECT(read(connection[1], text, sizeof text) == 4);
  close_both(port);
  /* Whoever finds out first is told. */
  open_port(port);
  reset(&port[1]);
  EXPECT(write(connection[1], "x", 1) == 1);
  EXPECT(relay_in(connection[0], port[0], false, buffer) == RELAY_RESET && errno == ECONNRESET);
  EXPECT(relay_out(port[0], connection[0], false, buffer) == RELAY_ENDED);
  close_both(port);
  close_both(connection);
}

static void a_port_that_said_all_and_takes_nothing_any_more_was_not_reset(void) {
  int connection[2], port[2];
  open_connection(connection);
  open_port(port);
  close(port[1]);
  port[1] = -1;
  EXPECT(relay_out(port[0], connection[0], false, buffer) == RELAY_ENDED);
  EXPECT(write(connection[1], "xy", 2) == 2);
  EXPECT(write(port[0], "x", 1) == 1); /* which is answered with a reset */
  EXPECT(relay_in(connection[0], port[0], false, buffer) == RELAY_BROKEN);
  close_both(port);
  close_both(connection);
}

static void a_client_that_said_all_is_not_gone(void) {
  int connection[2];
  open_connection(connection);
  EXPECT(!relay_gone(connection[0]) && relay_has_room(connection[0]));
  EXPECT(relay_away(connection[0], buffer) == RELAY_BLOCKED);
  EXPECT(write(connection[1], "x", 1) == 1);
  shutdown(connection[1], SHUT_WR);
  EXPECT(!relay_gone(connection[0]));
  EXPECT(relay_away(connection[0], buffer) == RELAY_MOVED);
  EXPECT(relay_away(connection[0], buffer) == RELAY_ENDED);
  close(connection[1]);
  EXPECT(relay_gone(connection[0]));
  close(connection[0]);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  RUN(nothing_is_lost_from_a_pipe_to_the_socket);
  RUN(nothing_is_lost_from_the_socket_to_a_pipe);
  RUN(nothing_is_lost_between_sockets);
  RUN(a_terminal_takes_what_it_can_and_ends_with_its_last_process);
  RUN(a_side_that_takes_nothing_any_more_is_told_apart);
  RUN(a_port_that_is_reset_has_not_ended);
  RUN(a_port_that_said_all_and_takes_nothing_any_more_was_not_reset);
  RUN(a_client_that_said_all_is_not_gone);
  return 0;
}
