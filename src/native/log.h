/*
 * The CRI log format (k8s.io/kubernetes, "CRI: Log management"): one record per line,
 *   2016-10-06T00:17:09.669794202Z stdout F the line
 * A line longer than LOG_LINE bytes is cut into records tagged P; its last piece is tagged F, also
 * when the stream ends without a newline. Where output is missing, a record says so:
 *   2016-10-06T00:17:10.000031337Z stdout F [crib: 4096 bytes of output are missing here: ...]
 */
#ifndef CRIB_LOG_H
#define CRIB_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

enum {
  LOG_LINE = 16384,
  LOG_PREFIX = 40, /* time, stream, tag, each followed by a space */
  LOG_BATCH = 256, /* iovecs per write */
};

/* The file, shared by both streams of a container. fd -1: records are discarded. Bytes are those of
 * the streams. */
struct log_file {
  int fd;
  bool torn;              /* the file ends inside a record */
  bool gone;              /* it was removed: nothing is written until there is another */
  int error;              /* of the last write, 0: it went well */
  uint64_t dropped_bytes; /* that are not in it */
  uint32_t limit;         /* bytes per second, 0: none */
  time_t second;          /* in which `used` were taken */
  uint64_t used;
  time_t looked_at; /* whether it is still there */
  uint64_t fresh;   /* bytes written since then */
};

/* One stream's place in its lines. `carry` holds the start of a line: LOG_LINE bytes. */
struct log_stream {
  char *carry;
  size_t carried;
  const char *name;  /* "stdout" or "stderr": six bytes, LOG_PREFIX counts on it */
  bool mid_line;     /* the last record made was a P: the next one goes on with its line */
  bool skipping;     /* mid_line, and that record was lost: the rest of the line goes too */
  bool partial_open; /* the last record in the file is a P */
  uint64_t untold;   /* bytes that are missing, of which no record tells yet */
  const char *why;   /* they are missing */
};

/* Writes what is whole in `data`, keeps the rest. Never fails, never allocates. */
void log_data(struct log_file *file, struct log_stream *stream, const char *data, size_t length,
              struct timespec now);
/* The stream ended: writes what is kept. */
void log_end(struct log_file *file, struct log_stream *stream, struct timespec now);

/* Whether somebody removed the file. Looks once a second at most; what was written since is lost. */
bool log_removed(struct log_file *file, struct log_stream *stream, struct timespec now);
/* From now on records go to `fd`; the old file is closed. */
void log_switch(struct log_file *file, int fd);

/* The LOG_PREFIX bytes before a line; `out` is not terminated. */
void log_prefix(char *out, struct timespec now, const char *stream, char tag);

#endif
