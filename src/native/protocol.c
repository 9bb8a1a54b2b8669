/* Frames and fields over bytes: no I/O, no memory of its own. */
#include "protocol.h"

#include <string.h>

static uint32_t get32(const unsigned char *at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint16_t get16(const unsigned char *at) { return (uint16_t)(at[0] | at[1] << 8); }

long frame_parse(unsigned char *bytes, size_t length, struct frame *frame) {
  if (length < FRAME_HEADER) return 0;
  uint32_t payload = get32(bytes);
  if (payload > FRAME_LIMIT || get16(bytes + 6) != 0) return -1;
  if (length - FRAME_HEADER < payload) return 0;
  *frame = (struct frame){get16(bytes + 4), get32(bytes + 8), bytes + FRAME_HEADER, payload};
  return FRAME_HEADER + (long)payload;
}

uint16_t frame_begins(const unsigned char *bytes, size_t length) {
  return length < FRAME_HEADER ? 0 : get16(bytes + 4);
}

static unsigned char *take(struct reader *reader, size_t count) {
  if (reader->bad || (size_t)(reader->end - reader->at) < count) {
    reader->bad = true;
    return NULL;
  }
  unsigned char *taken = reader->at;
  reader->at += count;
  return taken;
}

uint16_t read_u16(struct reader *reader) {
  unsigned char *at = take(reader, 2);
  return at == NULL ? 0 : get16(at);
}

uint32_t read_u32(struct reader *reader) {
  unsigned char *at = take(reader, 4);
  return at == NULL ? 0 : get32(at);
}

uint32_t read_later_u32(struct reader *reader) {
  return reader->at == reader->end ? 0 : read_u32(reader);
}

char *read_string(struct reader *reader) {
  static char empty[1];
  uint32_t length = read_u32(reader);
  unsigned char *at = take(reader, (size_t)length + 1);
  if (at == NULL || at[length] != 0 || memchr(at, 0, length) != NULL) {
    reader->bad = true;
    empty[0] = 0;
    return empty;
  }
  return (char *)at;
}

size_t read_list(struct reader *reader, char **vector, size_t capacity) {
  uint32_t count = read_u32(reader);
  size_t used = 0;
  if (count >= capacity) reader->bad = true;
  while (used < count && !reader->bad) vector[used++] = read_string(reader);
  if (reader->bad) used = 0;
  vector[used] = NULL;
  return used;
}

static void put(struct writer *writer, const void *bytes, size_t count) {
  if (writer->full || writer->capacity - writer->length < count) {
    writer->full = true;
    return;
  }
  memcpy(writer->bytes + writer->length, bytes, count);
  writer->length += count;
}

void write_u16(struct writer *writer, uint16_t value) {
  put(writer, (unsigned char[]){value & 255, value >> 8}, 2);
}

void write_u32(struct writer *writer, uint32_t value) {
  put(writer, (unsigned char[]){value & 255, value >> 8 & 255, value >> 16 & 255, value >> 24}, 4);
}

void write_u64(struct writer *writer, uint64_t value) {
  write_u32(writer, (uint32_t)value);
  write_u32(writer, (uint32_t)(value >> 32));
}

void write_string(struct writer *writer, const char *value) {
  size_t length = strlen(value);
  write_u32(writer, (uint32_t)length);
  put(writer, value, length + 1);
}

void write_header(struct writer *writer, uint16_t type, uint32_t request) {
  write_u32(writer, 0);
  write_u16(writer, type);
  write_u16(writer, 0);
  write_u32(writer, request);
}

void write_end(struct writer *writer) {
  if (writer->full) return;
  size_t end = writer->length;
  writer->length = 0;
  write_u32(writer, (uint32_t)(end - FRAME_HEADER));
  writer->length = end;
}
