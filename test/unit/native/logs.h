/* Log files and streams for tests of the log writer. */
#ifndef CRIB_TEST_LOGS_H
#define CRIB_TEST_LOGS_H

#include "../../../src/native/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "expect.h"

static struct timespec now = {1475712429, 669794202}; /* 2016-10-06T00:07:09.669794202Z */

static struct log_file open_file(void) {
  return (struct log_file){.fd = memfd_create("log", MFD_CLOEXEC)};
}

static struct log_stream open_stream(const char *name) {
  return (struct log_stream){.carry = malloc(LOG_LINE), .name = name};
}

/* What the file holds, without the times: "stdout F text\n"... */
static char *content(struct log_file *file) {
  off_t size = lseek(file->fd, 0, SEEK_END);
  char *text = calloc(1, (size_t)size + 1), *out = text;
  EXPECT(pread(file->fd, text, (size_t)size, 0) == size);
  for (char *line = text; *line != 0;) {
    char *end = strchr(line, '\n');
    EXPECT(end != NULL && end - line >= LOG_PREFIX);
    EXPECT(memcmp(line, "2016-10-06T00:0", 15) == 0 && memcmp(line + 19, ".669794202Z ", 12) == 0);
    size_t length = (size_t)(end - line) + 1 - 31;
    memmove(out, line + 31, length);
    out += length;
    line = end + 1;
  }
  *out = 0;
  return text;
}

static void feed(struct log_file *file, struct log_stream *stream, const char *text) {
  char *copy = strdup(text); /* so that the sanitizer sees reads past the end */
  log_data(file, stream, copy, strlen(text), now);
  free(copy);
}

static void done(struct log_file *file, struct log_stream *stream) {
  close(file->fd);
  free(stream->carry);
}

#endif
