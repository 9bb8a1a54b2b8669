#include "reaped.h"

#include <string.h>

void reaped_add(struct reaped *reaped, struct ending ending) {
  reaped->endings[reaped->next] = ending;
  reaped->next = (reaped->next + 1) % REAPED_CAPACITY;
}

bool reaped_claim(struct reaped *reaped, pid_t pid, struct ending *ending) {
  for (unsigned back = 1; back <= REAPED_CAPACITY; back++) {
    struct ending *candidate =
        &reaped->endings[(reaped->next + REAPED_CAPACITY - back) % REAPED_CAPACITY];
    if (candidate->pid != pid || pid <= 0) continue;
    *ending = *candidate;
    candidate->pid = 0;
    return true;
  }
  return false;
}

void reaped_clear(struct reaped *reaped) {
  if (reaped->next == 0 && reaped->endings[0].pid == 0) return;
  memset(reaped, 0, sizeof *reaped);
}
