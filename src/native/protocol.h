/*
 * The control protocol between the daemon and a pod's monitor. Mirrored by src/monitor/protocol.ts:
 * change both, and PROTOCOL_VERSION when a daemon has to know that a monitor is too old for something.
 *
 * A frame is a 12 byte header and a payload, all little-endian:
 *   u32 payload length | u16 type | u16 zero | u32 request number
 * The daemon numbers its requests; a reply carries the request's number, an event carries 0.
 * Each request gets exactly one reply: REPLY | its type, or ERROR.
 *
 * Bytes of processes and ports never go over the control connection, but for an EXEC without streams.
 * A stream is a further connection to the same socket: after one frame, STREAM with a number that the
 * daemon chose, it carries nothing but the bytes, both ways; each side ends its own by shutdown(2). A
 * request on the control connection names the stream and says what it is for. A stream has no reply.
 *
 * Fields follow each other without padding. A string is u32 length, the bytes, a NUL that the length
 * does not count; a list is u32 count and that many strings. Bytes after the last known field are
 * ignored, so that a newer daemon can append fields; an unknown request is answered with ERROR.
 */
#ifndef CRIB_PROTOCOL_H
#define CRIB_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  /* 1: no streams, so no terminals, ATTACH, DIAL, RESIZE; a second connection replaced the first. */
  PROTOCOL_VERSION = 2,
  PROTOCOL_MAGIC = 0x42495243, /* "CRIB" */
  FRAME_HEADER = 12,
  FRAME_LIMIT = 1 << 20, /* bytes of payload */
};

enum frame_type {
  /* Requests. */
  /* u32 magic, u16 version */
  HELLO = 1,
  /* string id, cwd, log path, pid file, oom file; u32 flags, deadline ms, drain ms; list argv, env;
   * u32 log bytes per second (0 or absent: no limit); with CREATE_TTY: string console socket, a name
   * in cwd */
  CREATE = 2,
  /* string id, cwd, pid file; u32 wants (0: output in frames), timeout ms (0: none), drain ms;
   * list argv, env; with wants: u32 stream, u32 stream of stderr, string console socket, a name in cwd */
  EXEC = 3,
  /* string id, u32 signal */
  KILL = 4,
  /* string id */
  REOPEN_LOG = 5,
  /* LIST_ENTRY frames, then the reply */
  LIST = 6,
  /* string id; a creation is cancelled, and answered too */
  FORGET = 7,
  SHUTDOWN = 8,
  /* u32 number; the first frame of a connection that is a stream */
  STREAM = 16,
  /* string id; u32 wants, stream, stream of stderr; answered when the container has ended or the
   * client has left */
  ATTACH = 17,
  /* string id, of a container, or "" and u32 the number of an EXEC; u32 columns, rows */
  RESIZE = 18,
  /* u32 the number of an EXEC, which is killed, and answered itself too */
  CANCEL = 19,
  /* u32 stream, port, deadline ms; answered when it is connected */
  DIAL = 20,
  /* u32 stream of a DIAL that is connected; answered when the port says no more */
  DIAL_END = 21,
  /* u32 the number of an EXEC with output in frames, u32 1: its output is not read until 0 comes, or it
   * is killed */
  HOLD = 22,
  /* u32 the number of such an EXEC: what it still says is read, and sent to nobody */
  DROP = 23,

  /* HELLO: u16 version (the older of both), u16 zero, u32 pid, u32 pause pid (0: none), string pod id
   * CREATE: u32 exit status, u32 pid (0: not created), string error
   * EXEC: u32 exit code, u32 signal, u32 flags
   * DIAL_END: u32 errno with which the port broke off, 0: it ended in good order; others: empty */
  REPLY = 0x8000,
  /* u32 error code, string text */
  ERROR = 0xc000,
  /* event: a container record */
  EXIT = 0xc001,
  /* u8 stream (1, 2), bytes; carries the EXEC's request number */
  EXEC_OUTPUT = 0xc002,
  /* a container record; carries the LIST's request number */
  LIST_ENTRY = 0xc003,
  /* event: empty; the pod's PID namespace is dead */
  PAUSE_ENDED = 0xc004,
};

/* A container record: string id; u32 pid, state, exit code, signal, oom killed;
 * u64 finished at (ns since 1970), u64 bytes of log that could not be written. */
enum container_state { CREATING = 0, RUNNING = 1, DRAINING = 2, EXITED = 3 };

enum create_flag { CREATE_STDIN = 1, CREATE_STDIN_ONCE = 2, CREATE_TTY = 4 };
/* What a client wants of a process. With a terminal its output is one: there is no stderr. */
enum want { WANT_STDIN = 1, WANT_STDOUT = 2, WANT_STDERR = 4, WANT_TTY = 8 };
enum exec_flag { EXEC_TIMED_OUT = 1, EXEC_RUNTIME_FAILED = 2 };

enum error_code {
  INVALID_ARGUMENT = 1,
  NOT_FOUND = 2,
  ALREADY_EXISTS = 3,
  FAILED_PRECONDITION = 4,
  RESOURCE_EXHAUSTED = 5,
  INTERNAL = 6,
  UNIMPLEMENTED = 7,
  DEADLINE_EXCEEDED = 8,
};

struct frame {
  uint16_t type;
  uint32_t request;
  unsigned char *payload;
  uint32_t length;
};

/* The frame at the start of `bytes`: its size, 0 when more bytes are needed, -1 when it is none. */
long frame_parse(unsigned char *bytes, size_t length, struct frame *frame);

/* The type of the frame that `bytes` begin with; 0 when they are too few. */
uint16_t frame_begins(const unsigned char *bytes, size_t length);

/* Reads fields one after the other; after a bad one all are empty and `bad` stays set. */
struct reader {
  unsigned char *at, *end;
  bool bad;
};

uint16_t read_u16(struct reader *reader);
uint32_t read_u32(struct reader *reader);
/* A field that older daemons do not send; 0 then. */
uint32_t read_later_u32(struct reader *reader);
/* The string inside the frame itself, without embedded NUL. */
char *read_string(struct reader *reader);
/* Fills `vector` and ends it with NULL; more than `capacity` - 1 strings are bad. */
size_t read_list(struct reader *reader, char **vector, size_t capacity);

/* Appends one frame to `bytes`; what does not fit sets `full`. */
struct writer {
  unsigned char *bytes;
  size_t capacity, length;
  bool full;
};

void write_header(struct writer *writer, uint16_t type, uint32_t request);
void write_u16(struct writer *writer, uint16_t value);
void write_u32(struct writer *writer, uint32_t value);
void write_u64(struct writer *writer, uint64_t value);
void write_string(struct writer *writer, const char *value);
/* Sets the payload length in the header; the frame began at `bytes`. */
void write_end(struct writer *writer);

#endif
