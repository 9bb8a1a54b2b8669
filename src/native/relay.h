/*
 * Moves of bytes between the connection of a stream (a unix socket) and what it leads to: a pipe, a
 * terminal, a TCP socket. All are non-blocking; nothing is kept here between two calls, so that what one
 * side does not take stays with the other, in the kernel.
 */
#ifndef CRIB_RELAY_H
#define CRIB_RELAY_H

#include <stdbool.h>
#include <stddef.h>

enum relay {
  RELAY_MOVED,
  RELAY_BLOCKED, /* nothing to read, or no room to write: an edge of either will tell */
  RELAY_ENDED,   /* the side that is read has ended */
  RELAY_BROKEN,  /* the side that is written to takes nothing any more */
  RELAY_RESET,   /* the side that is no pipe has broken off; errno says how */
};

/* What a call may use in between, when `pipe` is false. */
struct relay_buffer {
  char *bytes;
  size_t size; /* at most RELAY_CHUNK is used */
};
enum { RELAY_CHUNK = 32768, RELAY_SNDBUF = 256 << 10 };

/* From a pipe (spliced: no copy), or from anything else, to the socket. */
enum relay relay_out(int from, int socket, bool pipe, struct relay_buffer buffer);
/* From the socket to a pipe, or to anything else. */
enum relay relay_in(int socket, int to, bool pipe, struct relay_buffer buffer);
/* From the socket to nowhere. */
enum relay relay_away(int socket, struct relay_buffer buffer);
/* Whether the socket takes at least half of RELAY_SNDBUF whole. */
bool relay_has_room(int socket);
/* Whether the socket's other end is closed, not just its writing side. */
bool relay_gone(int socket);

#endif
