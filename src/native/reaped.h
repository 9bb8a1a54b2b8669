/*
 * Children that ended before anybody knew who they were. The process of a fast `runc exec --detach`
 * is reaped here before runc itself has ended and its pid file can be read.
 */
#ifndef CRIB_REAPED_H
#define CRIB_REAPED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct ending {
  pid_t pid;
  int status;     /* as from waitpid */
  uint64_t at_ns; /* wall clock */
};

/* More than a storm of orphans can make in the time in which a runtime starts a process. */
enum { REAPED_CAPACITY = 8192 };

/* Remembers an ending; the oldest gives way when the ring is full. */
void reaped_add(struct ending ending);
/* Takes out the newest ending of `pid`; false when there is none. */
bool reaped_claim(pid_t pid, struct ending *ending);
/* Forgets all: called when nobody could still claim one, so that a reused pid is never mistaken. */
void reaped_clear(void);
void reaped_idle(void); /* gives unused pages back */

#endif
