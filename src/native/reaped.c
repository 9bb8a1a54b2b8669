#define _GNU_SOURCE
#include "reaped.h"

#include <sys/mman.h>

/* Aligned to the largest page size: the pages of an empty ring are given back. */
static struct { _Alignas(65536) struct ending endings[REAPED_CAPACITY]; } ring;
static unsigned count; /* that were ever added: the last is at count - 1, modulo the capacity */

void reaped_add(struct ending ending) { ring.endings[count++ % REAPED_CAPACITY] = ending; }

bool reaped_claim(pid_t pid, struct ending *ending) {
  unsigned kept = count < REAPED_CAPACITY ? count : REAPED_CAPACITY;
  for (unsigned back = 1; back <= kept && pid > 0; back++) {
    struct ending *candidate = &ring.endings[(count - back) % REAPED_CAPACITY];
    if (candidate->pid != pid) continue;
    *ending = *candidate;
    candidate->pid = 0;
    return true;
  }
  return false;
}

void reaped_clear(void) { count = 0; }

void reaped_idle(void) {
  if (count == 0) madvise(&ring, sizeof ring, MADV_DONTNEED);
}
