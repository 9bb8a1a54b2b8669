/*
 * Tests of the monitor's frames and of its ring of endings, run under the address and undefined
 * behaviour sanitizers by monitor-native.test.ts. Each prints its name; a failed expectation ends the
 * program.
 */
#define _GNU_SOURCE
#include <string.h>

#include "../../../src/native/protocol.h"
#include "../../../src/native/reaped.h"
#include "expect.h"

static void the_ring_gives_each_ending_once_newest_first(void) {
  struct ending ending;
  EXPECT(!reaped_claim(0, &ending));
  EXPECT(!reaped_claim(5, &ending));
  reaped_add((struct ending){5, 1, 1});
  reaped_add((struct ending){6, 2, 2});
  reaped_add((struct ending){5, 3, 3});
  EXPECT(reaped_claim(5, &ending) && ending.status == 3);
  EXPECT(reaped_claim(5, &ending) && ending.status == 1);
  EXPECT(!reaped_claim(5, &ending));
  for (int i = 0; i < 3 * REAPED_CAPACITY; i++) reaped_add((struct ending){100 + i, i, 0});
  EXPECT(!reaped_claim(6, &ending));
  EXPECT(!reaped_claim(100 + 2 * REAPED_CAPACITY - 1, &ending));
  EXPECT(reaped_claim(100 + 2 * REAPED_CAPACITY, &ending));
  EXPECT(reaped_claim(100 + 3 * REAPED_CAPACITY - 1, &ending));
  reaped_clear();
  EXPECT(!reaped_claim(100 + 3 * REAPED_CAPACITY - 2, &ending));
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

static void a_field_that_an_older_daemon_does_not_send_is_zero(void) {
  unsigned char four[] = {1, 2, 3, 4};
  struct reader reader = {four, four, false};
  EXPECT(read_later_u32(&reader) == 0 && !reader.bad);
  reader = (struct reader){four, four + 4, false};
  EXPECT(read_later_u32(&reader) == 0x04030201 && !reader.bad);
  reader = (struct reader){four, four + 3, false};
  EXPECT(read_later_u32(&reader) == 0 && reader.bad);
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
  RUN(the_ring_gives_each_ending_once_newest_first);
  RUN(what_is_written_can_be_read);
  RUN(a_field_that_an_older_daemon_does_not_send_is_zero);
  RUN(a_frame_that_does_not_fit_is_never_half_written);
  RUN(bad_fields_are_bad);
  RUN(arbitrary_bytes_are_survived);
  return 0;
}
