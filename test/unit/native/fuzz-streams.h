/* The fuzzer's streams, and the requests that name them. Included once, by fuzz-clients.h. */
#ifndef CRIB_TEST_FUZZ_STREAMS_H
#define CRIB_TEST_FUZZ_STREAMS_H

#include "fuzz-world.h"

enum { WIRES = 40 };

struct wire {
  int fd; /* -1: none */
  uint32_t number;
};
static struct wire wires[WIRES];
static uint32_t last_wire;

static void drop_wire(struct wire *wire) {
  if (wire->fd >= 0) close(wire->fd);
  wire->fd = -1;
}

static struct wire *free_wire(void) {
  struct wire *wire = &wires[below(WIRES)];
  drop_wire(wire);
  return wire;
}

/* A connection that has said, most of the time well, that it is a stream; its number. */
static uint32_t open_wire(bool liar) {
  unsigned char bytes[64];
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/monitor.sock"};
  struct wire *wire = free_wire();
  struct writer writer = {.bytes = bytes, .capacity = sizeof bytes};
  wire->number = ++last_wire;
  wire->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  EXPECT(wire->fd >= 0);
  if (__real_connect(wire->fd, (struct sockaddr *)&address, sizeof address) != 0) {
    drop_wire(wire);
    return wire->number;
  }
  write_header(&writer, STREAM, 0);
  write_u32(&writer, wire->number);
  write_end(&writer);
  if (liar && below(4) == 0)
    bytes[below((unsigned)writer.length)] ^= (unsigned char)(1u << below(8));
  size_t length = liar && below(8) == 0 ? below((unsigned)writer.length) : writer.length;
  EXPECT(send(wire->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length);
  return wire->number;
}

/* What a port of the pod would be: the other end of a pair, which is the wire of nobody's request. */
static int connect_port(int fd) {
  int pair[2];
  if (below(2) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
    errno = ECONNREFUSED;
    return -1;
  }
  EXPECT(dup3(pair[0], fd, O_CLOEXEC) == fd);
  close(pair[0]);
  free_wire()->fd = pair[1];
  return 0;
}

/* Whoever is at the other end of a stream does something. */
static void act_wire(struct wire *wire) {
  static char bytes[70000];
  if (wire->fd < 0) return;
  switch (below(12)) {
    case 0: shutdown(wire->fd, SHUT_WR); break;
    case 1: drop_wire(wire); break;
    case 2:
    case 3:
    case 4: send(wire->fd, bytes, below(below(4) ? 100 : sizeof bytes), MSG_NOSIGNAL); break;
    default: recv(wire->fd, bytes, below(sizeof bytes), 0);
  }
}

static void write_wants(struct writer *writer, bool liar) {
  write_u32(writer, 1 + below(liar ? 16 : 15));
}

static void write_wires(struct writer *writer, bool liar) {
  for (int i = 0; i < 2; i++) write_u32(writer, below(10) ? open_wire(liar) : below(100));
}

#endif
