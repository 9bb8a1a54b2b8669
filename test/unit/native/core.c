/*
 * Tests of the monitor's pure parts, run under the address and undefined behaviour sanitizers by
 * monitor-native.test.ts. Each prints its name; a failed expectation ends the program.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../../src/native/log.h"
#include "../../../src/native/protocol.h"
#include "../../../src/native/reaped.h"

#define EXPECT(condition)                                                                          \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, #condition);                              \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

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
    EXPECT(memcmp(line, "2016-10-06T00:07:09.669794202Z ", 31) == 0);
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

static void times_are_those_of_the_c_library(void) {
  srand(3);
  for (int round = 0; round < 100000; round++) {
    char prefix[LOG_PREFIX + 1] = "", expected[64], date[32];
    struct timespec when = {(time_t)rand() * (rand() % 60), rand() % 1000000000};
    if (round < 40000) when.tv_sec = round * 86400L - (round > 0);
    if (when.tv_sec > 253402300799) continue; /* the year 10000 */
    struct tm tm;
    gmtime_r(&when.tv_sec, &tm);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(expected, sizeof expected, "%s.%09ldZ stderr P ", date, when.tv_nsec);
    log_prefix(prefix, when, "stderr", 'P');
    EXPECT(strcmp(prefix, expected) == 0);
  }
}

static void lines_are_joined_across_reads(void) {
  struct log_file file = open_file();
  struct log_stream out = open_stream("stdout"), err = open_stream("stderr");
  feed(&file, &out, "one\ntw");
  feed(&file, &err, "oops");
  feed(&file, &out, "o\n\nthr");
  feed(&file, &out, "ee");
  feed(&file, &err, "\n");
  log_end(&file, &out, now);
  log_end(&file, &err, now);
  char *text = content(&file);
  EXPECT(strcmp(text, "stdout F one\nstdout F two\nstdout F \nstderr F oops\nstdout F three\n") ==
         0);
  free(text);
  free(err.carry);
  done(&file, &out);
}

/* A line of `length` bytes, in reads of `step` bytes, becomes pieces that make it up. */
static void line_of(size_t length, size_t step, bool newline) {
  struct log_file file = open_file();
  struct log_stream out = open_stream("stdout");
  char *line = malloc(length + 1);
  for (size_t i = 0; i < length; i++) line[i] = (char)('a' + i % 26);
  line[length] = '\n';
  size_t total = length + (newline ? 1 : 0);
  for (size_t at = 0; at < total; at += step)
    log_data(&file, &out, line + at, total - at < step ? total - at : step, now);
  log_end(&file, &out, now);
  char *text = content(&file), *at = text;
  size_t seen = 0, records = 0;
  while (*at != 0) {
    char *end = strchr(at, '\n');
    size_t piece = (size_t)(end - at) - 9;
    EXPECT(piece <= LOG_LINE && seen + piece <= length);
    EXPECT(memcmp(at + 9, line + seen, piece) == 0);
    seen += piece;
    EXPECT(at[7] == (seen == length ? 'F' : 'P'));
    EXPECT(seen == length || piece == LOG_LINE);
    records++;
    at = end + 1;
  }
  EXPECT(seen == length);
  EXPECT(records == (length == 0 ? newline : (length + LOG_LINE - 1) / LOG_LINE));
  free(text);
  free(line);
  done(&file, &out);
}

static void long_lines_are_cut_at_16_kib(void) {
  size_t lengths[] = {0, 1, LOG_LINE - 1, LOG_LINE, LOG_LINE + 1, 3 * LOG_LINE, 3 * LOG_LINE + 5};
  size_t steps[] = {1, 7, 4096, LOG_LINE, LOG_LINE + 1, 65536};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    for (size_t j = 0; j < sizeof steps / sizeof *steps; j++)
      for (int newline = 0; newline < 2; newline++) line_of(lengths[i], steps[j], newline);
}

static void many_short_lines_fill_several_batches(void) {
  struct log_file file = open_file();
  struct log_stream out = open_stream("stdout");
  char *text = malloc(65536);
  memset(text, '\n', 65536);
  log_data(&file, &out, text, 65536, now);
  EXPECT(lseek(file.fd, 0, SEEK_END) == 65536 * (LOG_PREFIX + 1));
  free(text);
  done(&file, &out);
}

static void limit_file_size(rlim_t bytes) {
  struct rlimit limit = {bytes, RLIM_INFINITY};
  EXPECT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* memfds ignore RLIMIT_FSIZE: a real file stands for the full disk. */
static struct log_file open_limited(void) {
  char path[] = "/tmp/crib-log-XXXXXX";
  struct log_file file = {.fd = mkstemp(path)};
  unlink(path);
  fcntl(file.fd, F_SETFL, O_APPEND);
  return file;
}

static void a_full_disk_keeps_whole_records_and_counts_the_rest(void) {
  for (rlim_t room = 0; room < 4 * (LOG_PREFIX + 7); room++) {
    struct log_file file = open_limited();
    struct log_stream out = open_stream("stdout");
    limit_file_size(room);
    feed(&file, &out, "line 1\nline 2\nline 3\nline 4\nhalf");
    limit_file_size(RLIM_INFINITY);
    size_t kept = room / (LOG_PREFIX + 7);
    EXPECT(file.dropped_bytes == (4 - kept) * 7);
    feed(&file, &out, " of it\n");
    char *text = content(&file), expected[128] = "";
    for (size_t i = 1; i <= kept; i++)
      sprintf(expected + strlen(expected), "stdout F line %zu\n", i);
    strcat(expected, "stdout F half of it\n");
    EXPECT(strcmp(text, expected) == 0);
    free(text);
    done(&file, &out);
  }
}

static void a_lost_piece_takes_the_rest_of_its_line_along(void) {
  struct log_file file = open_limited();
  struct log_stream out = open_stream("stdout");
  char *line = malloc(3 * LOG_LINE + 3);
  memset(line, 'x', 3 * LOG_LINE + 2);
  line[3 * LOG_LINE + 2] = '\n';
  limit_file_size(LOG_PREFIX + LOG_LINE + 1 + 100); /* one piece and a bit */
  log_data(&file, &out, line, LOG_LINE + 10, now);
  log_data(&file, &out, line + LOG_LINE + 10, LOG_LINE + 10, now);
  EXPECT(out.skipping && out.partial_open);
  limit_file_size(RLIM_INFINITY);
  log_data(&file, &out, line + 2 * LOG_LINE + 20, LOG_LINE - 17, now);
  EXPECT(!out.skipping);
  feed(&file, &out, "next\n");
  log_end(&file, &out, now);
  char *text = content(&file);
  EXPECT(strncmp(text, "stdout P xxx", 12) == 0);
  /* The piece that was written is closed, so that no reader joins the next line to it. */
  EXPECT(strcmp(text + 9 + LOG_LINE + 1, "stdout F \nstdout F next\n") == 0);
  EXPECT(file.dropped_bytes == 2 * LOG_LINE + 3);
  free(text);
  free(line);
  done(&file, &out);
}

static void a_stream_that_ends_on_a_full_disk_is_closed(void) {
  struct log_file file = {.fd = open("/dev/full", O_WRONLY | O_CLOEXEC)};
  struct log_stream out = open_stream("stdout");
  char *line = calloc(1, 2 * LOG_LINE);
  log_data(&file, &out, line, 2 * LOG_LINE, now);
  log_end(&file, &out, now);
  EXPECT(file.dropped_bytes == 2 * LOG_LINE && out.carried == 0);
  free(line);
  done(&file, &out);
}

/* Random writes against random limits: the file holds whole records of whole pieces only. */
static void whatever_the_disk_does_records_stay_whole(void) {
  srand(7);
  char *data = malloc(70000);
  for (int round = 0; round < 300; round++) {
    struct log_file file = open_limited();
    struct log_stream out = open_stream("stdout"), err = open_stream("stderr");
    for (int i = 0; i < 12; i++) {
      size_t length = (size_t)(rand() % (i % 3 == 0 ? 70000 : 300));
      for (size_t j = 0; j < length; j++) data[j] = rand() % 997 == 0 ? '\n' : 'y';
      off_t size = lseek(file.fd, 0, SEEK_END);
      limit_file_size(rand() % 2 ? RLIM_INFINITY : (rlim_t)(size + rand() % 40000));
      log_data(&file, i % 2 ? &out : &err, data, length, now);
    }
    limit_file_size(RLIM_INFINITY);
    log_end(&file, &out, now);
    log_end(&file, &err, now);
    char *text = content(&file);
    bool partial[2] = {false, false};
    for (char *line = text; *line != 0; line = strchr(line, '\n') + 1) {
      EXPECT(line[7] == 'P' || line[7] == 'F');
      partial[strncmp(line, "stderr", 6) == 0] = line[7] == 'P';
    }
    EXPECT(!partial[0] && !partial[1]);
    EXPECT(!file.torn);
    free(text);
    free(err.carry);
    done(&file, &out);
  }
  free(data);
}

static void a_discarded_log_needs_no_carry(void) {
  struct log_file file = {.fd = -1};
  struct log_stream out = {.name = "stdout"};
  feed(&file, &out, "nobody reads this");
  log_end(&file, &out, now);
  EXPECT(file.dropped_bytes == 0);
}

static void the_ring_gives_each_ending_once_newest_first(void) {
  static struct reaped reaped;
  struct ending ending;
  EXPECT(!reaped_claim(&reaped, 0, &ending));
  EXPECT(!reaped_claim(&reaped, 5, &ending));
  reaped_add(&reaped, (struct ending){5, 1, 1});
  reaped_add(&reaped, (struct ending){6, 2, 2});
  reaped_add(&reaped, (struct ending){5, 3, 3});
  EXPECT(reaped_claim(&reaped, 5, &ending) && ending.status == 3);
  EXPECT(reaped_claim(&reaped, 5, &ending) && ending.status == 1);
  EXPECT(!reaped_claim(&reaped, 5, &ending));
  for (int i = 0; i < 3 * REAPED_CAPACITY; i++) reaped_add(&reaped, (struct ending){100 + i, i, 0});
  EXPECT(!reaped_claim(&reaped, 6, &ending));
  EXPECT(!reaped_claim(&reaped, 100 + 2 * REAPED_CAPACITY - 1, &ending));
  EXPECT(reaped_claim(&reaped, 100 + 2 * REAPED_CAPACITY, &ending));
  EXPECT(reaped_claim(&reaped, 100 + 3 * REAPED_CAPACITY - 1, &ending));
  reaped_clear(&reaped);
  EXPECT(!reaped_claim(&reaped, 100 + 3 * REAPED_CAPACITY - 2, &ending));
}

static void what_is_written_can_be_read(void) {
  unsigned char bytes[128];
  struct writer writer = {.bytes = bytes, .capacity = sizeof bytes};
  write_header(&writer, CREATE, 77);
  write_u16(&writer, 0xabcd);
  write_u32(&writer, 0xdeadbeef);
  write_u64(&writer, 0x0123456789abcdef);
  write_string(&writer, "hello");
  write_string(&writer, "");
  write_end(&writer);
  struct frame frame;
  for (size_t length = 0; length < writer.length; length++)
    EXPECT(frame_parse(bytes, length, &frame) == 0);
  EXPECT(frame_parse(bytes, writer.length, &frame) == (long)writer.length);
  EXPECT(frame.type == CREATE && frame.request == 77);
  struct reader reader = {frame.payload, frame.payload + frame.length, false};
  EXPECT(read_u16(&reader) == 0xabcd && read_u32(&reader) == 0xdeadbeef);
  EXPECT(read_u32(&reader) == 0x89abcdef && read_u32(&reader) == 0x01234567);
  EXPECT(strcmp(read_string(&reader), "hello") == 0 && strcmp(read_string(&reader), "") == 0);
  EXPECT(!reader.bad && reader.at == reader.end);
  EXPECT(read_u32(&reader) == 0 && reader.bad);
}

static void a_frame_that_does_not_fit_is_never_half_written(void) {
  unsigned char bytes[64];
  for (size_t capacity = 0; capacity < 40; capacity++) {
    struct writer writer = {.bytes = bytes, .capacity = capacity};
    write_header(&writer, LIST, 1);
    write_string(&writer, "0123456789");
    write_end(&writer);
    EXPECT(writer.full == (capacity < FRAME_HEADER + 15));
    EXPECT(writer.length <= capacity);
  }
}

static void bad_fields_are_bad(void) {
  char *vector[4];
  unsigned char inner_nul[] = {3, 0, 0, 0, 'a', 0, 'b', 0}, no_nul[] = {1, 0, 0, 0, 'a', 'b'},
                huge[] = {0xff, 0xff, 0xff, 0xff, 'a', 0}, many[] = {4, 0, 0, 0};
  struct reader reader = {inner_nul, inner_nul + sizeof inner_nul, false};
  EXPECT(strcmp(read_string(&reader), "") == 0 && reader.bad);
  reader = (struct reader){no_nul, no_nul + sizeof no_nul, false};
  EXPECT(strcmp(read_string(&reader), "") == 0 && reader.bad);
  reader = (struct reader){huge, huge + sizeof huge, false};
  EXPECT(strcmp(read_string(&reader), "") == 0 && reader.bad);
  reader = (struct reader){many, many + sizeof many, false};
  EXPECT(read_list(&reader, vector, 4) == 0 && reader.bad && vector[0] == NULL);
}

/* Arbitrary bytes as frames, their payloads as every kind of field. */
static void arbitrary_bytes_are_survived(void) {
  srand(11);
  for (int round = 0; round < 200000; round++) {
    size_t length = (size_t)(rand() % 80);
    unsigned char *bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++) bytes[i] = rand() % 3 ? 0 : (unsigned char)rand();
    struct frame frame;
    long size = frame_parse(bytes, length, &frame);
    EXPECT(size <= (long)length);
    if (size > 0) {
      char *vector[8];
      struct reader reader = {frame.payload, frame.payload + frame.length, false};
      while (!reader.bad && reader.at < reader.end) {
        switch (rand() % 3) {
          case 0: read_u32(&reader); break;
          case 1: EXPECT(strlen(read_string(&reader)) <= frame.length); break;
          default: EXPECT(read_list(&reader, vector, 8) < 8);
        }
      }
    }
    free(bytes);
  }
}

int main(void) {
  signal(SIGXFSZ, SIG_IGN);
#define RUN(test) test(), puts(#test)
  RUN(times_are_those_of_the_c_library);
  RUN(lines_are_joined_across_reads);
  RUN(long_lines_are_cut_at_16_kib);
  RUN(many_short_lines_fill_several_batches);
  RUN(a_full_disk_keeps_whole_records_and_counts_the_rest);
  RUN(a_lost_piece_takes_the_rest_of_its_line_along);
  RUN(a_stream_that_ends_on_a_full_disk_is_closed);
  RUN(whatever_the_disk_does_records_stay_whole);
  RUN(a_discarded_log_needs_no_carry);
  RUN(the_ring_gives_each_ending_once_newest_first);
  RUN(what_is_written_can_be_read);
  RUN(a_frame_that_does_not_fit_is_never_half_written);
  RUN(bad_fields_are_bad);
  RUN(arbitrary_bytes_are_survived);
  return 0;
}
