/* One exec, for the two files that handle it: execs.c has the table, the start and the requests,
 * exec_exit.c the end. */
#ifndef CRIB_EXEC_H
#define CRIB_EXEC_H

#include "stream.h"

struct exec {
  bool used, replied, timed_out, runtime_failed;
  uint32_t request;
  pid_t runtime, pid; /* unreaped; 0: not yet, or no more */
  bool ended;         /* `code` and `signal` are final */
  int code, signal;
  uint64_t timeout, drain_until; /* now_ms, 0: none */
  uint32_t drain_ms;
  uint32_t wants;          /* 0: output in frames */
  int streams[2];          /* in frames: read ends of its stdout and stderr, -1: closed */
  bool paused;             /* not watched: held, or the daemon does not keep up */
  bool held;               /* the daemon has asked not to read it for now */
  bool dropped;            /* the daemon wants no more of it */
  unsigned outputs;        /* in streams: those that have not ended */
  struct stream *terminal; /* where its terminal will lead to, until it is there */
  int console, master;     /* where the runtime sends the terminal; the terminal; -1: none */
  struct terminal_size size;
  char pid_file[512];
};

extern struct exec *const execs, *execs_end; /* behind the last slot that is in use */

/* execs.c */
unsigned exec_index(const struct exec *exec);

/* exec_exit.c */
void exec_reply_if_done(struct exec *exec); /* it has ended, and all of its output is sent */
/* Kills it; the reply does not wait for what cannot be killed. */
void exec_expire(struct exec *exec);

#endif
