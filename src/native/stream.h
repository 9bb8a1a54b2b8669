/*
 * Streams: the daemon's further connections. streams.c has the table and relays those that lead to a
 * process or a port; attach.c feeds those that show a container's output; dial.c makes ports' ends.
 */
#ifndef CRIB_STREAM_H
#define CRIB_STREAM_H

#include "monitor.h"

enum { MAX_STREAMS = 1024 };

enum stream_role {
  STREAM_FREE,
  STREAM_NEW,      /* has not said what it is */
  STREAM_WAITING,  /* for the request that names it */
  STREAM_RESERVED, /* for an exec whose terminal does not exist yet */
  STREAM_EXEC,
  STREAM_ATTACH,
  STREAM_DIALING,
  STREAM_DIAL,
  STREAM_ENDED, /* nothing more will be sent: the daemon reads the rest, and closes */
};

struct stream {
  enum stream_role role;
  bool pipes;     /* source and sink are pipes */
  bool again;     /* there may be more to move */
  bool input;     /* ATTACH: what comes goes to the container */
  bool untold;    /* DIAL, and then ENDED: the daemon does not know how its port ended */
  uint8_t output; /* ATTACH: which of the container's streams it shows; DIALING: attempts made */
  uint16_t owner; /* EXEC, ATTACH: the slot of the exec or the container */
  uint16_t port;  /* DIALING: where to */
  uint16_t error; /* errno: DIALING: of the last attempt; DIAL: with which it broke off, 0: not */
  uint32_t number;
  uint32_t request;  /* ATTACH, DIALING, DIAL (its end): to be answered, 0: no */
  uint64_t deadline; /* now_ms, 0: none */
  int fd;
  int source,
      sink; /* what it leads to: read from, written to; may be the same; -1: none (any more) */
};
enum { NO_OUTPUT = 255 }; /* none (any more) */

extern struct stream *const streams, *streams_end; /* behind the last slot that is in use */

#define EACH_STREAM(it)                                                                            \
  struct stream *it = streams;                                                                     \
  it < streams_end;                                                                                \
  it++

/* streams.c */
unsigned stream_index(const struct stream *it);
/* Gives it its ends, which it closes, and its role; begins to move. */
void stream_relay(struct stream *it, enum stream_role role, int source, int sink, bool pipes);
void stream_finish(struct stream *it); /* sends no more, lets the daemon read the rest */
void stream_drop(struct stream *it);   /* frees the slot */
struct relay_buffer stream_buffer(void);

/* attach.c */
void attach_ready(struct stream *it); /* its connection has become readable, writable, or is gone */
void attach_forget(struct stream *it); /* its client has gone */

/* dial.c */
void dial_ready(struct stream *it);
void dial_expired(struct stream *it);
void dial_ended(struct stream *it); /* its port says no more */

#endif
