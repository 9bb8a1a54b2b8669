#define _GNU_SOURCE
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* The records of one call, written together. */
struct batch {
  struct log_file *file;
  struct log_stream *stream;
  char full[LOG_PREFIX], partial[LOG_PREFIX];
  int used;
  uint64_t telling; /* missing bytes of which the notice in it tells */
};

/* Outside of the stack: the monitor gives these pages back when it is idle. */
static struct iovec pieces[LOG_BATCH];
static char newline[1] = "\n";
static char notice[160];

static const char unwritten[] = "they could not be written";
static const char unlinked[] = "the log file was removed";
static const char unlimited[] = "more than the log's limit per second";

static void digits(char *out, int width, long value) {
  for (int i = width - 1; i >= 0; i--, value /= 10) out[i] = (char)('0' + value % 10);
}

/* The proleptic Gregorian date of a day since 1970, in years that begin in March: the leap day is
 * then a year's last, and month lengths follow (153 m + 2) / 5. */
static void date(long day, long *year, long *month, long *day_of_month) {
  long from_0000 = day + 719468; /* days since 0000-03-01 */
  long era = from_0000 / 146097, day_of_era = from_0000 % 146097;
  long year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  long day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  long march_month = (5 * day_of_year + 2) / 153;
  *day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
  *month = march_month < 10 ? march_month + 3 : march_month - 9;
  *year = era * 400 + year_of_era + (*month <= 2);
}

void log_prefix(char *out, struct timespec now, const char *stream, char tag) {
  long year, month, day, second = (long)(now.tv_sec % 86400);
  date((long)(now.tv_sec / 86400), &year, &month, &day);
  memcpy(out, "0000-00-00T00:00:00.000000000Z ", 31);
  digits(out, 4, year);
  digits(out + 5, 2, month);
  digits(out + 8, 2, day);
  digits(out + 11, 2, second / 3600);
  digits(out + 14, 2, second / 60 % 60);
  digits(out + 17, 2, second % 60);
  digits(out + 20, 9, now.tv_nsec);
  memcpy(out + 31, stream, 6);
  out[37] = ' ';
  out[38] = tag;
  out[39] = ' ';
}

static bool starts_record(const struct batch *batch, const struct iovec *piece) {
  return piece->iov_base == batch->full || piece->iov_base == batch->partial;
}

static void lose(struct log_file *file, struct log_stream *stream, size_t bytes, const char *why) {
  file->dropped_bytes += bytes;
  stream->untold += bytes;
  stream->why = why;
}

/*
 * A write ended after `written` bytes for good. Cuts the file back to the last whole record, counts
 * what is lost, and lets the stream begin again at its next line.
 */
static void give_up(struct batch *batch, size_t written) {
  size_t offset = 0, record = 0;
  bool whole = true;
  struct log_stream *stream = batch->stream;
  for (int i = 0; i < batch->used; i++) {
    struct iovec *piece = &pieces[i];
    if (starts_record(batch, piece)) {
      size_t end = offset + piece->iov_len;
      for (int j = i + 1; j < batch->used && !starts_record(batch, &pieces[j]); j++)
        end += pieces[j].iov_len;
      whole = end <= written;
      if (whole) stream->partial_open = piece->iov_base == batch->partial;
      if (!whole) stream->skipping = piece->iov_base == batch->partial;
      if (offset <= written) record = whole ? end : offset;
    } else if (piece->iov_base == notice) {
      if (!whole) stream->untold += batch->telling;
    } else if (!whole && piece->iov_base != newline) {
      lose(batch->file, stream, piece->iov_len, batch->file->gone ? unlinked : unwritten);
      batch->file->fresh -= piece->iov_len;
    }
    offset += piece->iov_len;
  }
  if (written <= record) return;
  off_t size = lseek(batch->file->fd, 0, SEEK_END);
  off_t cut = (off_t)(written - record);
  if (size < cut || ftruncate(batch->file->fd, size - cut) != 0) batch->file->torn = true;
}

static void flush(struct batch *batch) {
  size_t total = 0, written = 0;
  struct log_file *file = batch->file;
  for (int i = 0; i < batch->used; i++) total += pieces[i].iov_len;
  if (total == 0) return;
  errno = 0;
  if (file->torn && !file->gone && write(file->fd, newline, 1) == 1) file->torn = false;
  int first = 0;
  size_t consumed = 0; /* of the first piece */
  while (written < total && !file->torn && !file->gone) {
    struct iovec head = pieces[first];
    pieces[first].iov_base = (char *)head.iov_base + consumed;
    pieces[first].iov_len -= consumed;
    ssize_t count = writev(file->fd, pieces + first, batch->used - first);
    pieces[first] = head;
    if (count <= 0) break;
    written += (size_t)count;
    consumed += (size_t)count;
    while (first < batch->used && consumed >= pieces[first].iov_len)
      consumed -= pieces[first++].iov_len;
  }
  file->error = written == total ? 0 : errno != 0 ? errno : EIO;
  if (written < total) {
    give_up(batch, written);
  } else {
    for (int i = batch->used - 1; i >= 0; i--) {
      if (!starts_record(batch, &pieces[i])) continue;
      batch->stream->partial_open = pieces[i].iov_base == batch->partial;
      break;
    }
  }
  batch->used = 0;
  batch->telling = 0;
}

static void add(struct batch *batch, const void *bytes, size_t length) {
  if (length > 0) pieces[batch->used++] = (struct iovec){(void *)bytes, length};
}

/* Ends a line whose last pieces are lost, so that a reader does not join the next line to it. */
static void close_partial(struct batch *batch) {
  add(batch, batch->full, LOG_PREFIX);
  add(batch, newline, 1);
}

/* Tells the reader, before the next line, that something is missing. */
static void tell(struct batch *batch) {
  struct log_stream *stream = batch->stream;
  int length =
      snprintf(notice, sizeof notice, "[crib: %" PRIu64 " bytes of output are missing here: %s]",
               stream->untold, stream->why);
  add(batch, batch->full, LOG_PREFIX);
  add(batch, notice, (size_t)length);
  add(batch, newline, 1);
  batch->telling = stream->untold;
  stream->untold = 0;
}

/* Takes one record: the carried start of the line, then `length` bytes that may hold the newline. */
static void record(struct batch *batch, bool partial, const char *data, size_t length,
                   bool has_newline) {
  struct log_stream *stream = batch->stream;
  struct log_file *file = batch->file;
  size_t bytes = stream->carried + length;
  if (batch->used + 9 > LOG_BATCH) flush(batch);
  if (stream->skipping) {
    lose(file, stream, bytes, stream->why);
    stream->skipping = partial;
  } else if (file->limit > 0 && file->used >= file->limit) {
    lose(file, stream, bytes, unlimited);
    stream->skipping = partial;
  } else {
    if (batch->used == 0 && stream->partial_open && !stream->mid_line) close_partial(batch);
    if (stream->untold > 0 && !stream->mid_line) tell(batch);
    file->used += bytes;
    file->fresh += bytes;
    add(batch, partial ? batch->partial : batch->full, LOG_PREFIX);
    add(batch, stream->carry, stream->carried);
    add(batch, data, length);
    if (!has_newline) add(batch, newline, 1);
  }
  stream->mid_line = partial;
  stream->carried = 0;
}

static void begin(struct batch *batch, struct log_file *file, struct log_stream *stream,
                  struct timespec now) {
  batch->file = file;
  batch->stream = stream;
  batch->used = 0;
  batch->telling = 0;
  if (file->second != now.tv_sec) file->used = 0;
  file->second = now.tv_sec;
  log_prefix(batch->full, now, stream->name, 'F');
  memcpy(batch->partial, batch->full, LOG_PREFIX);
  batch->partial[38] = 'P';
}

/* Drops the rest of a line whose start is lost. */
static const char *skip(struct batch *batch, const char *at, const char *end) {
  const char *stop = memchr(at, '\n', (size_t)(end - at));
  const char *next = stop == NULL ? end : stop + 1;
  lose(batch->file, batch->stream, (size_t)(next - at), batch->stream->why);
  if (stop != NULL) batch->stream->skipping = batch->stream->mid_line = false;
  return next;
}

void log_data(struct log_file *file, struct log_stream *stream, const char *data, size_t length,
              struct timespec now) {
  if (file->fd < 0) return;
  struct batch batch;
  begin(&batch, file, stream, now);
  const char *at = data, *end = data + length;
  while (at < end) {
    if (stream->skipping) {
      at = skip(&batch, at, end);
      continue;
    }
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t piece = (size_t)((stop == NULL ? end : stop) - at);
    size_t room = LOG_LINE - stream->carried;
    if (piece > room) {
      record(&batch, true, at, room, false);
      at += room;
    } else if (stop != NULL) {
      record(&batch, false, at, piece + 1, true);
      at = stop + 1;
    } else {
      /* The batch may still point into the carry; a failed flush may drop this line's start. */
      flush(&batch);
      if (stream->skipping) continue;
      memcpy(stream->carry + stream->carried, at, piece);
      stream->carried += piece;
      at = end;
    }
  }
  flush(&batch);
}

void log_end(struct log_file *file, struct log_stream *stream, struct timespec now) {
  if (file->fd < 0) return;
  struct batch batch;
  begin(&batch, file, stream, now);
  if (stream->skipping) stream->skipping = stream->mid_line = false;
  if (stream->carried > 0) record(&batch, false, NULL, 0, false);
  flush(&batch);
  if (stream->partial_open) close_partial(&batch);
  if (stream->untold > 0) tell(&batch);
  flush(&batch);
}

bool log_removed(struct log_file *file, struct log_stream *stream, struct timespec now) {
  struct stat stat;
  if (file->fd < 0 || file->looked_at == now.tv_sec) return false;
  file->looked_at = now.tv_sec;
  bool removed = fstat(file->fd, &stat) == 0 && stat.st_nlink == 0;
  if (removed && file->fresh > 0) lose(file, stream, file->fresh, unlinked);
  file->gone = removed;
  file->fresh = 0;
  return removed;
}

void log_switch(struct log_file *file, int fd) {
  if (file->fd >= 0) close(file->fd);
  file->fd = fd;
  file->torn = file->gone = false;
  file->fresh = 0;
}
