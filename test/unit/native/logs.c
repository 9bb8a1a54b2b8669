/*
 * Tests of the log writer, run under the address and undefined behaviour sanitizers by
 * monitor-native.test.ts. Each prints its name; a failed expectation ends the program.
 */
#define _GNU_SOURCE
#include "logs.h"

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

static void a_discarded_log_needs_no_carry(void) {
  struct log_file file = {.fd = -1};
  struct log_stream out = {.name = "stdout"};
  feed(&file, &out, "nobody reads this");
  log_end(&file, &out, now);
  EXPECT(file.dropped_bytes == 0);
}

int main(void) {
  RUN(times_are_those_of_the_c_library);
  RUN(lines_are_joined_across_reads);
  RUN(long_lines_are_cut_at_16_kib);
  RUN(many_short_lines_fill_several_batches);
  RUN(a_discarded_log_needs_no_carry);
  return 0;
}
