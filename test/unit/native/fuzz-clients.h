/* The fuzzer's clients: what they send, and what they must get. Included once, by fuzz.c. */
#ifndef CRIB_TEST_FUZZ_CLIENTS_H
#define CRIB_TEST_FUZZ_CLIENTS_H

#include "fuzz-streams.h"

enum {
  CLIENTS = 3,
  WAITING = 4096,
  IDS = 12,
  BUFFER = 2 << 20,
};

struct waiting {
  uint32_t request;
  uint16_t type;
};
struct client_end {
  int fd;          /* -1: none */
  bool liar, lazy; /* a lazy one hardly ever reads */
  uint32_t last_request;
  struct waiting waiting[WAITING];
  size_t waits;
  unsigned char *out, *in; /* BUFFER bytes each */
  size_t out_length, in_length;
};
static struct client_end clients[CLIENTS];

static void hang_up(struct client_end *end) {
  if (end->fd >= 0) close(end->fd);
  end->fd = -1;
  end->waits = end->out_length = end->in_length = 0;
}

static void await(struct client_end *end, uint16_t type) {
  EXPECT(end->waits < WAITING);
  end->waiting[end->waits++] = (struct waiting){end->last_request, type};
}

static struct writer begin(struct client_end *end, uint16_t type) {
  struct writer writer = {.bytes = end->out + end->out_length,
                          .capacity = BUFFER - end->out_length};
  write_header(&writer, type, ++end->last_request);
  return writer;
}

static void finish(struct client_end *end, struct writer *writer) {
  write_end(writer);
  EXPECT(!writer->full);
  end->out_length += writer->length;
}

static void write_id(struct writer *writer) {
  char id[8];
  snprintf(id, sizeof id, "c%u", below(IDS));
  write_string(writer, below(40) ? id : "../x");
}

static void write_process(struct writer *writer, const char *pid_file, const char *console) {
  write_u32(writer, 6);
  write_string(writer, "/runc");
  write_string(writer, "--pid-file");
  write_string(writer, pid_file);
  write_string(writer, "--console-socket");
  write_string(writer, console);
  write_string(writer, "x");
  write_u32(writer, 1);
  write_string(writer, "PATH=/");
}

/* Several may have the same. */
static const char *pick_console(void) {
  static const char *const names[] = {"console-a", "console-b", "console-c", ""};
  return names[below(16) ? below(3) : 3];
}

static void send_create(struct client_end *end) {
  struct writer writer = begin(end, CREATE);
  char path[32], pid_file[32];
  unsigned id = below(IDS), flags = below(8);
  const char *console = flags & CREATE_TTY ? pick_console() : "";
  snprintf(path, sizeof path, "c%u", id);
  write_string(&writer, path);
  write_string(&writer, "/");
  snprintf(path, sizeof path, "/logs/c%u", below(IDS));
  write_string(&writer, below(10) ? path : below(2) ? "" : "/nowhere/log");
  snprintf(pid_file, sizeof pid_file, "/pids/%u", below(1000000));
  write_string(&writer, pid_file);
  write_string(&writer, below(2) ? "" : "/oom");
  write_u32(&writer, flags);
  write_u32(&writer, below(60000));
  write_u32(&writer, below(500));
  write_process(&writer, pid_file, console);
  if (flags & CREATE_TTY || below(2)) write_u32(&writer, below(3) ? 0 : below(1000));
  if (flags & CREATE_TTY) write_string(&writer, console);
  finish(end, &writer);
}

static void send_exec(struct client_end *end) {
  struct writer writer = begin(end, EXEC);
  char pid_file[32];
  write_id(&writer);
  write_string(&writer, "/");
  snprintf(pid_file, sizeof pid_file, "/pids/%u", below(1000000));
  write_string(&writer, pid_file);
  bool streams_wanted = below(2);
  const char *console = streams_wanted ? pick_console() : "";
  if (streams_wanted)
    write_wants(&writer, end->liar);
  else
    write_u32(&writer, 0);
  write_u32(&writer, below(2) ? 0 : below(3000) + 1);
  write_u32(&writer, below(500));
  write_process(&writer, pid_file, console);
  if (streams_wanted) {
    write_wires(&writer, end->liar);
    write_string(&writer, console);
  }
  finish(end, &writer);
}

static void send_attach(struct client_end *end) {
  struct writer writer = begin(end, ATTACH);
  write_id(&writer);
  write_wants(&writer, end->liar);
  write_wires(&writer, end->liar);
  finish(end, &writer);
}

static void send_dial(struct client_end *end) {
  struct writer writer = begin(end, DIAL);
  write_u32(&writer, open_wire(end->liar));
  write_u32(&writer, below(10) ? 80 : below(100000));
  write_u32(&writer, below(10) ? 1000 : 0);
  finish(end, &writer);
}

/* Of a stream that may be a dial's, or anything else's, or gone. */
static void send_dial_end(struct client_end *end) {
  struct writer writer = begin(end, DIAL_END);
  write_u32(&writer, below(10) ? wires[below(WIRES)].number : below(100));
  finish(end, &writer);
}

/* About an exec, mostly one of the last. */
static void send_about_exec(struct client_end *end, uint16_t type) {
  struct writer writer = begin(end, type);
  if (type == RESIZE) write_string(&writer, "");
  write_u32(&writer, end->last_request - below(8));
  if (type == RESIZE) write_u32(&writer, below(100)), write_u32(&writer, below(100));
  finish(end, &writer);
}

static void send_simple(struct client_end *end, uint16_t type) {
  struct writer writer = begin(end, type);
  if (type == FORGET) {
    unsigned id = below(IDS);
    char name[8];
    snprintf(name, sizeof name, "c%u", id);
    write_string(&writer, name);
  } else if (type != LIST) {
    write_id(&writer);
  }
  if (type == KILL) write_u32(&writer, below(70));
  finish(end, &writer);
}

/* A request of any type, with fields of any kind. */
static void send_anything(struct client_end *end) {
  struct writer writer = begin(end, (uint16_t)below(below(10) ? 32 : 65536));
  for (unsigned field = below(10); field > 0; field--) {
    switch (below(4)) {
      case 0: write_u16(&writer, (uint16_t)below(65536)); break;
      case 1: write_u32(&writer, below(4) ? below(8) : below(INT_MAX)); break;
      case 2: write_id(&writer); break;
      default: write_string(&writer, below(2) ? "" : "/logs/other");
    }
  }
  finish(end, &writer);
}

static void send_hello(struct client_end *end) {
  struct writer writer = begin(end, HELLO);
  write_u32(&writer, PROTOCOL_MAGIC);
  write_u16(&writer, (uint16_t)(end->liar && below(4) == 0 ? below(4) : PROTOCOL_VERSION));
  finish(end, &writer);
}

static void damage(unsigned char *bytes, size_t length) {
  for (unsigned hits = below(4); hits > 0 && length > 0; hits--)
    bytes[below((unsigned)length)] ^= (unsigned char)(1u << below(8));
}

static void send_request(struct client_end *end) {
  static const uint16_t simple[] = {KILL, REOPEN_LOG, FORGET, FORGET, FORGET, LIST};
  size_t start = end->out_length;
  if (start > BUFFER / 2) return;
  unsigned kind = below(27);
  if (end->liar && kind < 5)
    send_anything(end);
  else if (kind < 7)
    send_create(end);
  else if (kind < 10)
    send_exec(end);
  else if (kind < 15)
    send_attach(end);
  else if (kind < 17)
    send_dial(end);
  else if (kind < 18)
    send_dial_end(end);
  else if (kind < 20)
    send_about_exec(end, below(2) ? RESIZE : CANCEL);
  else
    send_simple(end, simple[below(6)]);
  if (end->liar)
    damage(end->out + start, end->out_length - start);
  else
    await(end, (uint16_t)(end->out[start + 4] | end->out[start + 5] << 8));
}

static void call(struct client_end *end, bool liar) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/monitor.sock"};
  hang_up(end);
  end->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  EXPECT(end->fd >= 0);
  if (__real_connect(end->fd, (struct sockaddr *)&address, sizeof address) != 0) {
    hang_up(end);
    return;
  }
  end->liar = liar;
  end->lazy = below(3) == 0;
  setsockopt(end->fd, SOL_SOCKET, SO_RCVBUF, &(int){end->lazy ? 2048 : 200000}, sizeof(int));
  end->last_request = 0;
  send_hello(end);
  if (!end->liar) await(end, HELLO);
}

static void push(struct client_end *end, size_t most) {
  size_t length = end->out_length < most ? end->out_length : most;
  ssize_t sent = send(end->fd, end->out, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) hang_up(end);
  if (sent <= 0) return;
  end->out_length -= (size_t)sent;
  memmove(end->out, end->out + sent, end->out_length);
}

/* ---- what comes back ---- */

static void check_reply(struct client_end *end, const struct frame *frame) {
  size_t at = 0;
  while (at < end->waits && end->waiting[at].request != frame->request) at++;
  EXPECT(at < end->waits); /* else a second reply, or one that nobody asked for */
  EXPECT(frame->type == ERROR || frame->type == (REPLY | end->waiting[at].type));
  end->waiting[at] = end->waiting[--end->waits];
}

static void take(struct client_end *end) {
  ssize_t count = recv(end->fd, end->in + end->in_length, BUFFER - end->in_length, MSG_DONTWAIT);
  if (count == 0 || (count < 0 && errno != EAGAIN)) {
    /* An honest client is only cut off for a newer one, or by a shutdown. */
    hang_up(end);
    return;
  }
  if (count > 0) end->in_length += (size_t)count;
  struct frame frame;
  size_t at = 0;
  for (long size; (size = frame_parse(end->in + at, end->in_length - at, &frame)) != 0;) {
    EXPECT(size > 0);
    at += (size_t)size;
    bool is_reply = frame.type == ERROR || (frame.type & 0xc000) == REPLY;
    if (is_reply && !end->liar) check_reply(end, &frame);
  }
  end->in_length -= at;
  memmove(end->in, end->in + at, end->in_length);
}

#endif
