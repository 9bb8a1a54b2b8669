/*
 * Clients attached to a container. They see its output from then on, and may write to its stdin.
 *
 * A client's buffer is that of its connection. While one is further behind, the container's output waits
 * for it, so that a burst survives; but not for longer than HOLD_MOST_MS at once and one in HOLD_SHARE of
 * the time: then whoever is behind is cut off, and told. A container that ends waits for nobody: what was
 * written last goes to those who have room.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/socket.h>

#include "container.h"
#include "relay.h"
#include "stream.h"

enum {
  /* Of which the kernel counts the double, and tells of room when no more than a quarter is used. */
  ATTACH_SNDBUF = 1 << 20,
  /* A client that has gone, and whose last input the container does not take. */
  LINGER_MS = 5000,
  MOST_MOVES = 32
};

static struct container *container_of(const struct stream *it) { return &containers[it->owner]; }

static bool shows(const struct stream *it, unsigned container, unsigned output) {
  return it->role == STREAM_ATTACH && it->owner == container && it->output == output;
}

/* Lets go of it; the client is told when this was the last of its streams. */
static void leave(struct stream *it) {
  uint32_t request = it->request;
  container_of(it)->attached--;
  stream_finish(it);
  for (EACH_STREAM(other))
    if (other->role == STREAM_ATTACH && other->request == request) return;
  if (request != 0) client_reply(ATTACH, request);
}

static void end_input(struct stream *it) {
  struct container *container = container_of(it);
  it->input = false;
  /* A terminal has no end that could be told. */
  if (container->stdin_once && !container->tty) unwatch_close(&container->input);
}

/* ---- the container's output ---- */

static bool behind(const struct stream *it) {
  return !relay_has_room(it->fd) && !relay_gone(it->fd);
}

bool attach_has_room(unsigned container, unsigned output) {
  for (EACH_STREAM(it))
    if (shows(it, container, output) && behind(it)) return false;
  return true;
}

/* Ends all streams of its client. */
static void cut(struct stream *it) {
  uint32_t request = it->request;
  if (request != 0)
    client_error(request, RESOURCE_EXHAUSTED,
                 "the client reads too slowly: output from here on is missing");
  for (EACH_STREAM(other)) {
    bool same = other == it || (request != 0 && other->request == request);
    if (other->role != STREAM_ATTACH || !same) continue;
    other->request = 0;
    if (other->input) end_input(other);
    leave(other);
  }
}

void attach_cut(unsigned container) {
  for (EACH_STREAM(it)) {
    bool shown = shows(it, container, 0) || shows(it, container, 1);
    if (shown && behind(it)) cut(it);
  }
}

void attach_output(unsigned container, unsigned output, const char *bytes, size_t length) {
  for (EACH_STREAM(it)) {
    if (!shows(it, container, output)) continue;
    ssize_t sent = send(it->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)length) continue;
    if (relay_gone(it->fd))
      it->output = NO_OUTPUT; /* its event is on the way */
    else
      cut(it);
  }
}

void attach_output_ended(unsigned container, unsigned output) {
  for (EACH_STREAM(it)) {
    if (!shows(it, container, output)) continue;
    it->output = NO_OUTPUT;
    shutdown(it->fd, SHUT_WR);
  }
}

void attach_ended(unsigned container) {
  for (EACH_STREAM(it))
    if (it->role == STREAM_ATTACH && it->owner == container) leave(it);
}

/* ---- the container's input ---- */

static bool move_in(struct stream *it) {
  struct container *container = container_of(it);
  if (!it->input || container->input < 0) return relay_away(it->fd, stream_buffer()) == RELAY_MOVED;
  enum relay result = relay_in(it->fd, container->input, !container->tty, stream_buffer());
  if (result == RELAY_ENDED) end_input(it);
  bool broken = result == RELAY_BROKEN || result == RELAY_RESET;
  if (broken) unwatch_close(&container->input); /* nobody will read it any more */
  return result == RELAY_MOVED || broken;
}

/* It has gone, and nothing more can be done for it. */
void attach_forget(struct stream *it) {
  if (it->input) end_input(it);
  leave(it);
  stream_drop(it);
}

void attach_ready(struct stream *it) {
  bool gone = relay_gone(it->fd), more = true;
  int moves = 0;
  for (; more && moves < MOST_MOVES; moves++) more = move_in(it);
  it->again = more;
  if (!gone) {
    container_resume(container_of(it));
    return;
  }
  struct container *container = container_of(it);
  it->output = NO_OUTPUT;
  container_resume(container);
  /* The rest of what it said still goes to the container, as long as that takes it. */
  if (!it->input || container->input < 0)
    attach_forget(it);
  else if (it->deadline == 0 || moves > 1)
    it->deadline = now_ms() + LINGER_MS;
}

void attach_input_ready(unsigned container) {
  for (EACH_STREAM(it))
    if (it->role == STREAM_ATTACH && it->owner == container && it->input) attach_ready(it);
}

/* ---- requests ---- */

static void begin(struct stream *it, struct container *container, uint32_t request, bool shown,
                  unsigned output) {
  if (it == NULL) return;
  stream_relay(it, STREAM_ATTACH, -1, -1, false);
  setsockopt(it->fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){ATTACH_SNDBUF}, sizeof(int));
  it->owner = (uint16_t)(container - containers);
  it->request = request;
  it->output = shown ? (uint8_t)output : NO_OUTPUT;
  container->attached++;
  if (shown && container->streams[output] < 0) attach_output_ended(it->owner, output);
}

void container_attach(struct reader *reader, uint32_t request) {
  struct container *container = container_named(reader, request);
  uint32_t wants = read_u32(reader), first = read_u32(reader), second = read_u32(reader);
  if (container == NULL) return;
  bool on_first = (wants & (WANT_STDIN | WANT_STDOUT)) != 0, on_second = (wants & WANT_STDERR) != 0;
  if (reader->bad || (!on_first && !on_second) || (container->tty && on_second)) {
    client_error(request, INVALID_ARGUMENT, "attach: malformed request");
    return;
  }
  if (container->state != RUNNING && container->state != DRAINING) {
    client_error(request, FAILED_PRECONDITION, "attach: container %s does not run", container->id);
    return;
  }
  if (wants & WANT_STDIN && container->input < 0) {
    client_error(request, FAILED_PRECONDITION, "attach: the stdin of container %s is closed",
                 container->id);
    return;
  }
  struct stream *out = on_first ? stream_claim(first) : NULL;
  struct stream *err = on_second ? stream_claim(second) : NULL;
  if ((on_first && out == NULL) || (on_second && err == NULL)) {
    if (out != NULL) stream_drop(out);
    if (err != NULL) stream_drop(err);
    client_error(request, RESOURCE_EXHAUSTED, "attach: no room for its streams");
    return;
  }
  begin(out, container, request, wants & WANT_STDOUT, 0);
  begin(err, container, request, true, 1);
  if (out != NULL) out->input = (wants & WANT_STDIN) != 0;
}
