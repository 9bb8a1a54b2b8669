/*
 * Tests of logs that lose output, run under the address and undefined behaviour sanitizers by
 * monitor-native.test.ts. Each prints its name; a failed expectation ends the program.
 */
#define _GNU_SOURCE
#include "logs.h"

/* What a log says where `bytes` are missing. */
static const char *gap(const char *stream, size_t bytes, const char *why) {
  static char text[128];
  snprintf(text, sizeof text, "%s F [crib: %zu bytes of output are missing here: %s]\n", stream,
           bytes, why);
  return text;
}

static const char unwritten[] = "they could not be written";
static const char removed[] = "the log file was removed";
static const char limited[] = "more than the log's limit per second";

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
    char *text = content(&file), expected[256] = "";
    for (size_t i = 1; i <= kept; i++)
      sprintf(expected + strlen(expected), "stdout F line %zu\n", i);
    strcat(expected, gap("stdout", (4 - kept) * 7, unwritten));
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
  char *rest = text + 9 + LOG_LINE + 1;
  const char *missing = gap("stdout", 2 * LOG_LINE + 3, unwritten);
  EXPECT(strncmp(rest, "stdout F \n", 10) == 0);
  EXPECT(strncmp(rest + 10, missing, strlen(missing)) == 0);
  EXPECT(strcmp(rest + 10 + strlen(missing), "stdout F next\n") == 0);
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
  EXPECT(file.error == ENOSPC);
  free(line);
  done(&file, &out);
}

/* A tty whose other end is closed fails every write so. */
static int broken_file(void) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  EXPECT(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  EXPECT(slave >= 0 && close(master) == 0);
  return slave;
}

static void a_broken_disk_is_counted_and_the_log_goes_on_after_it(void) {
  struct log_file file = {.fd = broken_file()};
  struct log_stream out = open_stream("stdout"), err = open_stream("stderr");
  feed(&file, &out, "one\ntwo\nthr");
  feed(&file, &err, "oops\n");
  EXPECT(file.error == EIO && file.dropped_bytes == 13);
  log_switch(&file, memfd_create("log", MFD_CLOEXEC));
  feed(&file, &out, "ee\nfour\n");
  EXPECT(file.error == 0);
  log_end(&file, &out, now);
  log_end(&file, &err, now);
  char *text = content(&file), expected[256] = "";
  strcat(expected, gap("stdout", 8, unwritten));
  strcat(expected, "stdout F three\nstdout F four\n");
  strcat(expected, gap("stderr", 5, unwritten));
  EXPECT(strcmp(text, expected) == 0);
  free(text);
  free(err.carry);
  done(&file, &out);
}

static void a_removed_file_is_noticed_once_a_second_and_made_up_for(void) {
  struct timespec later = {now.tv_sec + 1, now.tv_nsec};
  struct log_file file = open_limited(); /* a file without a name */
  struct log_stream out = open_stream("stdout");
  file.looked_at = now.tv_sec;
  feed(&file, &out, "lost 1\n");
  EXPECT(!log_removed(&file, &out, now) && !file.gone);
  EXPECT(log_removed(&file, &out, later) && file.gone && file.dropped_bytes == 7);
  EXPECT(!log_removed(&file, &out, later));
  feed(&file, &out, "lost 22\n");
  EXPECT(file.dropped_bytes == 15 && file.error != 0);
  EXPECT(lseek(file.fd, 0, SEEK_END) == LOG_PREFIX + 7);
  log_switch(&file, memfd_create("log", MFD_CLOEXEC));
  feed(&file, &out, "back\n");
  char *text = content(&file), expected[256] = "";
  strcat(expected, gap("stdout", 15, removed));
  strcat(expected, "stdout F back\n");
  EXPECT(strcmp(text, expected) == 0);
  free(text);
  done(&file, &out);
}

static void a_limit_drops_whole_lines_and_says_so_in_the_next_second(void) {
  struct log_file file = open_file();
  struct log_stream out = open_stream("stdout"), err = open_stream("stderr");
  file.limit = 20;
  feed(&file, &out, "line 01\nline 02\nline 03\nline 04\n");
  feed(&file, &err, "oh\n");
  feed(&file, &out, "line 05\nline");
  EXPECT(file.dropped_bytes == 19 && file.error == 0);
  now.tv_sec++;
  feed(&file, &out, " 06\n");
  feed(&file, &err, "oh no\n");
  feed(&file, &out, "line 07\nline 08\n");
  log_end(&file, &out, now);
  log_end(&file, &err, now);
  now.tv_sec--;
  char *text = content(&file), expected[512] = "stdout F line 01\n"
                                               "stdout F line 02\nstdout F line 03\n";
  strcat(expected, gap("stdout", 16, limited));
  strcat(expected, "stdout F line 06\n");
  strcat(expected, gap("stderr", 3, limited));
  strcat(expected, "stderr F oh no\nstdout F line 07\n");
  strcat(expected, gap("stdout", 8, limited));
  EXPECT(strcmp(text, expected) == 0);
  free(text);
  free(err.carry);
  done(&file, &out);
}

static void a_limit_cuts_an_endless_line_and_closes_it(void) {
  struct log_file file = open_file();
  struct log_stream out = open_stream("stdout");
  char *line = malloc(LOG_LINE);
  memset(line, 'x', LOG_LINE);
  file.limit = LOG_LINE + 1;
  for (int i = 0; i < 10; i++) log_data(&file, &out, line, LOG_LINE, now);
  now.tv_sec++;
  for (int i = 0; i < 10; i++) log_data(&file, &out, line, LOG_LINE, now);
  feed(&file, &out, "\nnext\n");
  now.tv_sec--;
  char *text = content(&file), expected[256] = "stdout F \n";
  strcat(expected, gap("stdout", 18 * LOG_LINE + 1, limited));
  strcat(expected, "stdout F next\n");
  EXPECT(strcmp(text + 2 * (9 + LOG_LINE + 1), expected) == 0);
  EXPECT(text[7] == 'P' && text[9 + LOG_LINE + 1 + 7] == 'P');
  free(text);
  free(line);
  done(&file, &out);
}

/* One round of random writes against random limits of the disk and of the rate. */
static void write_at_random(struct log_file *file, struct log_stream *out, struct log_stream *err,
                            char *data) {
  if (rand() % 2) file->limit = (uint32_t)(rand() % 60000) + 1;
  for (int i = 0; i < 12; i++) {
    size_t length = (size_t)(rand() % (i % 3 == 0 ? 70000 : 300));
    for (size_t j = 0; j < length; j++) data[j] = rand() % 997 == 0 ? '\n' : 'y';
    off_t size = lseek(file->fd, 0, SEEK_END);
    limit_file_size(rand() % 2 ? RLIM_INFINITY : (rlim_t)(size + rand() % 40000));
    if (rand() % 3 == 0) now.tv_sec++;
    log_data(file, i % 2 ? out : err, data, length, now);
  }
  limit_file_size(RLIM_INFINITY);
  log_end(file, out, now);
  log_end(file, err, now);
  now.tv_sec = 1475712429;
}

/* The file holds whole records of whole pieces only, and tells of every byte that is not in it. */
static void whatever_the_disk_does_records_stay_whole_and_losses_are_told(void) {
  srand(7);
  char *data = malloc(70000);
  for (int round = 0; round < 600; round++) {
    struct log_file file = open_limited();
    struct log_stream out = open_stream("stdout"), err = open_stream("stderr");
    write_at_random(&file, &out, &err, data);
    char *text = content(&file);
    bool partial[2] = {false, false};
    uint64_t told = 0;
    for (char *line = text; *line != 0; line = strchr(line, '\n') + 1) {
      EXPECT(line[7] == 'P' || line[7] == 'F');
      bool is_gap = strncmp(line + 9, "[crib: ", 7) == 0;
      if (is_gap) told += strtoull(line + 16, NULL, 10);
      EXPECT(!is_gap || !partial[strncmp(line, "stderr", 6) == 0]);
      partial[strncmp(line, "stderr", 6) == 0] = line[7] == 'P';
    }
    EXPECT(!partial[0] && !partial[1]);
    EXPECT(!file.torn);
    EXPECT(told == file.dropped_bytes);
    free(text);
    free(err.carry);
    done(&file, &out);
  }
  free(data);
}

int main(void) {
  signal(SIGXFSZ, SIG_IGN);
  RUN(a_full_disk_keeps_whole_records_and_counts_the_rest);
  RUN(a_lost_piece_takes_the_rest_of_its_line_along);
  RUN(a_stream_that_ends_on_a_full_disk_is_closed);
  RUN(a_broken_disk_is_counted_and_the_log_goes_on_after_it);
  RUN(a_removed_file_is_noticed_once_a_second_and_made_up_for);
  RUN(a_limit_drops_whole_lines_and_says_so_in_the_next_second);
  RUN(a_limit_cuts_an_endless_line_and_closes_it);
  RUN(whatever_the_disk_does_records_stay_whole_and_losses_are_told);
  return 0;
}
