/* One container, for the three files that handle it: containers.c has the table and the requests,
 * container_io.c its pipes and its log, container_exit.c its end. */
#ifndef CRIB_CONTAINER_H
#define CRIB_CONTAINER_H

#include "monitor.h"

struct container {
  char id[MAX_ID + 1]; /* "": a free slot */
  enum container_state state;
  uint32_t request; /* the CREATE to answer */
  uint32_t cancel;  /* the FORGET that came while it was created */
  pid_t runtime, pid;
  uint64_t deadline, drain_until; /* now_ms, 0: none */
  uint32_t drain_ms;
  bool deadline_passed;
  bool complete, recorded;    /* all that will be in its log is there; its exit is on disk */
  uint64_t retry_at, tell_at; /* of recording; when its exit is told also without a record */
  bool tty, has_stdin, stdin_once;
  bool held[2];           /* a stream that is not watched, because an attached client is behind */
  uint64_t hold_until;    /* now_ms, 0: none is held */
  uint64_t debt, debt_at; /* for having been held: in 1/HOLD_SHARE ms, as of then (now_ms) */
  int attached;           /* streams of clients */
  int input;              /* write end of its stdin, or its terminal's master; -1: none */
  int streams[2];         /* a terminal is [0] */
  int console;            /* where the runtime sends the terminal, while it is created */
  int peer; /* the terminal's other side, held open: no process need have it open all the time */
  struct terminal_size size;
  struct log_file log;
  time_t loss_told_at;
  struct log_stream lines[2];
  int oom;                        /* fd, -1: none */
  uint64_t oom_kills;             /* that its own cgroup has told of */
  uint64_t oom_parent, oom_known; /* at its creation: the parent cgroup's count, kills_known */
  int oom_notice; /* eventfd, -1: none; what it has told, and whether the cgroup was there then */
  uint64_t oom_notices;
  bool oom_noticed;
  bool oom_vanished, oom_killed;
  bool killed; /* by a request, so that SIGKILL needs no other cause */
  int code, signal;
  uint64_t finished_at;
  char paths[3][512]; /* log, pid file, oom file */
};
enum { LOG_PATH, PID_PATH, OOM_PATH };
/* How long output waits for attached clients: at once, and one in so many of the time. */
enum { HOLD_MOST_MS = 2000, HOLD_SHARE = 8 };

/* A slot's index is its place in here. Two fill a page: from its start on, a usual pod takes one. */
extern _Alignas(4096) struct container containers[MAX_CONTAINERS];

/* containers.c: the container that a request names, or NULL, and the error is sent. */
struct container *container_named(struct reader *reader, uint32_t request);

/* container_io.c */
int container_open_log(const char *path, char *error, size_t size); /* -1 and a text */
/* Makes the pipes; the runtime's ends go to `ends`, [0] stays -1 without stdin. */
bool container_open_stdio(struct container *it, int ends[3], char *error, size_t size);
/* Takes the terminal that the runtime has sent; false when it sent none. */
bool container_open_terminal(struct container *it);
void container_watch(struct container *it);  /* its output, and its input */
void container_resume(struct container *it); /* watches again what was held */
/* One read of a stream into the log; false at its end or when nothing is there. */
bool container_pump(struct container *it, unsigned stream);
/* Logs what is in its pipes now: more than they can hold, but not for ever. */
void container_drain(struct container *it);
void container_close_stream(struct container *it, unsigned stream);

/* container_exit.c */
void container_open_oom(struct container *it);
void container_ended(struct container *it, const struct ending *ending);
void container_complete(struct container *it); /* its log is: the exit can be told */
/* Records the exit, and tells it, unless the record must be tried again first: at retry_at. */
void container_tell_exit(struct container *it);
void container_write_record(struct writer *writer, const struct container *it);

#endif
