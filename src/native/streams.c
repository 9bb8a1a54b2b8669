/* The table of streams, and those that lead to a process or a port. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay.h"
#include "stream.h"

/* Aligned as scratch is: the pages of an empty table are given back. */
static struct { _Alignas(65536) struct stream slots[MAX_STREAMS]; } table;
struct stream *const streams = table.slots, *streams_end = table.slots;

/* How long a connection may take to say what it is, and then to be named by a request. */
enum { SPEAK_MS = 10000, MOST_MOVES = 32, REST_MS = 2000, ASK_MS = 2000 };

unsigned stream_index(const struct stream *it) { return (unsigned)(it - streams); }

struct relay_buffer stream_buffer(void) {
  return (struct relay_buffer){scratch.read, sizeof scratch.read};
}

/* Both may be the same descriptor: it is closed when neither is in use any more. */
static void close_end(struct stream *it, int *end) {
  int fd = *end;
  *end = -1;
  if (fd >= 0 && fd != it->source && fd != it->sink) close(fd);
}

void stream_drop(struct stream *it) {
  close_end(it, &it->source);
  close_end(it, &it->sink);
  unwatch_close(&it->fd);
  it->role = STREAM_FREE;
  while (streams_end > streams && streams_end[-1].role == STREAM_FREE) streams_end--;
}

void stream_finish(struct stream *it) {
  close_end(it, &it->source);
  close_end(it, &it->sink);
  it->role = STREAM_ENDED;
  it->deadline = 0;
  it->request = 0;
  it->again =
      true; /* what the daemon still sends is read away: unread, it would cost it our last words */
  shutdown(it->fd, SHUT_WR);
}

/* ---- new connections ---- */

static struct stream *free_slot(void) {
  for (EACH_STREAM(it))
    if (it->role == STREAM_FREE) return it;
  return streams_end < streams + MAX_STREAMS ? streams_end++ : NULL;
}

void stream_open(int fd) {
  struct stream *it = free_slot();
  int room = RELAY_SNDBUF;
  if (it == NULL) {
    close(fd);
    return;
  }
  *it = (struct stream){.role = STREAM_NEW, .deadline = now_ms() + SPEAK_MS, .fd = fd};
  it->source = it->sink = -1;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  /* Its first frame is looked at in a turn of its own: a daemon's HELLO ends the connection before, and
   * with it the request that may just be looking for its stream. */
  watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, WATCH_STREAM, 0, stream_index(it));
}

/* The type of its first frame, which is left where it is; 0 as long as it may still come. */
static uint16_t first_frame(const struct stream *it, unsigned char *bytes, size_t size,
                            struct frame *frame) {
  ssize_t length = recv(it->fd, bytes, size, MSG_PEEK | MSG_DONTWAIT);
  size_t known = length < 0 ? 0 : (size_t)length;
  uint16_t type = frame_begins(bytes, known);
  bool more = length != 0 && known < size && !relay_gone(it->fd);
  if (type == HELLO) return HELLO;
  long whole = type == STREAM ? frame_parse(bytes, known, frame) : type == 0 ? 0 : -1;
  return whole > 0 ? STREAM : whole == 0 && more ? 0 : ERROR;
}

/* A stream gives its number, a daemon says HELLO; anything else is closed. */
static void introduce(struct stream *it, bool streams_only) {
  unsigned char bytes[64];
  struct frame frame;
  uint16_t type = first_frame(it, bytes, sizeof bytes, &frame);
  if (type == 0 || (type == HELLO && streams_only)) return;
  if (type == HELLO) {
    int fd = it->fd;
    it->fd = -1;
    stream_drop(it);
    epoll_ctl(monitor.epoll, EPOLL_CTL_DEL, fd, NULL);
    client_take(fd);
  } else if (type == STREAM) {
    struct reader reader = {frame.payload, frame.payload + frame.length, false};
    it->number = read_u32(&reader);
    it->role = STREAM_WAITING;
    /* What follows the frame is the stream's. */
    size_t size = FRAME_HEADER + frame.length;
    if (reader.bad || recv(it->fd, bytes, size, MSG_DONTWAIT) != (ssize_t)size) stream_drop(it);
  } else {
    stream_drop(it);
  }
}

static struct stream *waiting(uint32_t number) {
  for (EACH_STREAM(it))
    if (it->role == STREAM_WAITING && it->number == number) return it;
  return NULL;
}

struct stream *stream_claim(uint32_t number) {
  struct stream *it = waiting(number);
  /* It was connected before it was named, but the loop may not have come to it yet. */
  if (it == NULL) {
    client_accept();
    for (EACH_STREAM(other))
      if (other->role == STREAM_NEW) introduce(other, true);
    it = waiting(number);
  }
  if (it != NULL) {
    it->deadline = 0;
    it->role = STREAM_RESERVED;
  }
  return it;
}

/* ---- moving ---- */

static void end_source(struct stream *it) {
  bool terminal = it->role == STREAM_EXEC && it->source == it->sink;
  close_end(it, &it->source);
  if (terminal) close_end(it, &it->sink);
  shutdown(it->fd, SHUT_WR);
  if (it->role == STREAM_EXEC) exec_output_ended(it->owner);
  if (it->role == STREAM_DIAL) dial_ended(it);
}

static void end_sink(struct stream *it) {
  if (it->role == STREAM_DIAL) shutdown(it->sink, SHUT_WR);
  close_end(it, &it->sink);
}

static bool move_out(struct stream *it) {
  if (it->source < 0) return false;
  enum relay result = relay_out(it->source, it->fd, it->pipes, stream_buffer());
  if (result == RELAY_RESET) it->error = (uint16_t)errno;
  if (result > RELAY_BLOCKED) end_source(it);
  return result == RELAY_MOVED;
}

static bool move_in(struct stream *it) {
  if (it->sink < 0) return relay_away(it->fd, stream_buffer()) == RELAY_MOVED;
  enum relay result = relay_in(it->fd, it->sink, it->pipes, stream_buffer());
  if (result == RELAY_RESET && it->source >= 0) it->error = (uint16_t)errno;
  if (result > RELAY_BLOCKED) end_sink(it);
  return result == RELAY_MOVED;
}

/*
 * A client that has gone: its process gets no SIGKILL, but what a process gets whose terminal or pipe was
 * closed: SIGHUP, SIGPIPE when it writes, and the end of its input, after the rest of it. A port gets the
 * rest too, as long as it takes some of it.
 */
static void end_gone(struct stream *it, bool moved) {
  if (it->source >= 0) end_source(it);
  if (it->role == STREAM_DIAL && it->sink >= 0) {
    if (moved || it->deadline == 0) it->deadline = now_ms() + REST_MS;
  } else if (it->untold) {
    /* Both sides have ended, which looks no other than a client that has gone. */
    if (it->deadline == 0) it->deadline = now_ms() + ASK_MS;
  } else if (!it->pipes || it->sink < 0) {
    stream_drop(it);
  }
}

static void pump(struct stream *it) {
  bool gone = relay_gone(it->fd), more = true, moved = false;
  it->again = false;
  for (int moves = 0; more && moves < MOST_MOVES; moves++) {
    more = !gone && move_out(it);
    more = move_in(it) || more;
    moved = moved || more;
  }
  it->again = more;
  if (gone && !more) end_gone(it, moved);
  if (it->role == STREAM_DIAL && it->source < 0 && it->sink < 0) stream_finish(it);
}

void stream_relay(struct stream *it, enum stream_role role, int source, int sink, bool pipes) {
  unsigned index = stream_index(it);
  bool both = source == sink;
  it->role = role;
  it->source = source;
  it->sink = sink;
  it->pipes = pipes;
  it->again = true;
  uint32_t out = both ? EPOLLIN | EPOLLOUT | EPOLLRDHUP : EPOLLIN;
  if (source >= 0) watch(source, out | EPOLLET, WATCH_STREAM, 0, index);
  if (sink >= 0 && !both) watch(sink, EPOLLOUT | EPOLLET, WATCH_STREAM, 0, index);
}

/* ---- called from the loop ---- */

void stream_ready(unsigned index) {
  struct stream *it = &streams[index];
  switch (it->role) {
    case STREAM_FREE:
    case STREAM_WAITING: /* also when its client has gone: the request that names it will tell */
    case STREAM_RESERVED: break;
    case STREAM_NEW: introduce(it, false); break;
    case STREAM_ATTACH: attach_ready(it); break;
    case STREAM_DIALING: dial_ready(it); break;
    case STREAM_EXEC:
    case STREAM_DIAL:
    case STREAM_ENDED: pump(it); break;
  }
}

void streams_turn(void) {
  for (EACH_STREAM(it))
    if (it->again) stream_ready(stream_index(it));
}

static void expired(struct stream *it) {
  if (it->role == STREAM_ATTACH)
    attach_forget(it);
  else if (it->role == STREAM_DIALING)
    dial_expired(it);
  else
    stream_drop(it);
}

void streams_tick(uint64_t now, uint64_t *next) {
  for (EACH_STREAM(it)) {
    if (it->role == STREAM_FREE) continue;
    if (it->deadline > 0 && it->deadline <= now) expired(it);
    if (it->deadline > 0 && it->deadline < *next) *next = it->deadline;
    if (it->again) *next = now;
  }
}

static bool of_exec(const struct stream *it, unsigned exec) {
  return (it->role == STREAM_EXEC || it->role == STREAM_RESERVED) && it->owner == exec;
}

void streams_pump(unsigned exec) {
  for (EACH_STREAM(it))
    if (it->role == STREAM_EXEC && it->owner == exec) pump(it);
}

bool streams_stalled(unsigned exec) {
  for (EACH_STREAM(it))
    if (of_exec(it, exec) && it->source >= 0 && !relay_gone(it->fd) && !relay_has_room(it->fd))
      return true;
  return false;
}

void streams_finish(unsigned exec) {
  for (EACH_STREAM(it))
    if (of_exec(it, exec)) stream_finish(it);
}

void streams_abandon(void) {
  for (EACH_STREAM(it)) {
    it->request = 0;
    if (it->role == STREAM_WAITING) stream_drop(it);
  }
}

void streams_idle(void) {
  if (streams_end == streams) madvise(&table, sizeof table, MADV_DONTNEED);
}
