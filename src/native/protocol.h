/*
 * The control protocol between the daemon and a pod's monitor. Mirrored by src/monitor/protocol.ts:
 * change both, and PROTOCOL_VERSION when an old peer could misread the change.
 *
 * A frame is a 12 byte header and a payload, all little-endian:
 *   u32 payload length | u16 type | u16 zero | u32 request number
 * The daemon numbers its requests; a reply carries the request's number, an event carries 0.
 * Each request gets exactly one reply: REPLY | its type, or ERROR.
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
  PROTOCOL_VERSION = 1,
  PROTOCOL_MAGIC = 0x42495243, /* "CRIB" */
  FRAME_HEADER = 12,
  FRAME_LIMIT = 1 << 20, /* bytes of payload */
};

enum frame_type {
  /* Requests. 16 and up are kept for ttys, attach, resize and dials. */
  HELLO = 1,      /* u32 magic, u16 version */
  CREATE = 2,     /* string id, cwd, log path, pid file, oom file; u32 flags, deadline ms, drain ms;
                     list argv, env; u32 log bytes per second (0 or absent: no limit) */
  EXEC = 3,       /* string id, cwd, pid file; u32 flags, timeout ms (0: none), drain ms;
                     list argv, env */
  KILL = 4,       /* string id, u32 signal */
  REOPEN_LOG = 5, /* string id */
  LIST = 6,       /* LIST_ENTRY frames, then the reply */
  FORGET = 7,     /* string id; a creation is cancelled, and answered too */
  SHUTDOWN = 8,

  REPLY = 0x8000, /* HELLO: u16 version, u16 zero, u32 pid, u32 pause pid (0: none), string pod id
                     CREATE: u32 exit status, u32 pid (0: not created), string error
                     EXEC: u32 exit code, u32 signal, u32 flags; others: empty */
  ERROR = 0xc000, /* u32 error code, string text */
  EXIT = 0xc001,  /* event: a container record */
  EXEC_OUTPUT = 0xc002, /* u8 stream (1, 2), bytes; carries the EXEC's request number */
  LIST_ENTRY = 0xc003,  /* a container record; carries the LIST's request number */
};

/* A container record: string id; u32 pid, state, exit code, signal, oom killed;
 * u64 finished at (ns since 1970), u64 bytes of log that could not be written. */
enum container_state { CREATING = 0, RUNNING = 1, DRAINING = 2, EXITED = 3 };

enum create_flag { CREATE_STDIN = 1, CREATE_STDIN_ONCE = 2 };
enum exec_flag { EXEC_TIMED_OUT = 1, EXEC_RUNTIME_FAILED = 2 };

enum error_code {
  INVALID_ARGUMENT = 1,
  NOT_FOUND = 2,
  ALREADY_EXISTS = 3,
  FAILED_PRECONDITION = 4,
  RESOURCE_EXHAUSTED = 5,
  INTERNAL = 6,
  UNIMPLEMENTED = 7,
};

struct frame {
  uint16_t type;
  uint32_t request;
  unsigned char *payload;
  uint32_t length;
};

/* The frame at the start of `bytes`: its size, 0 when more bytes are needed, -1 when it is none. */
long frame_parse(unsigned char *bytes, size_t length, struct frame *frame);

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
