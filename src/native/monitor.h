/* What the parts of the monitor share: its tables, its loop, its connection. */
#ifndef CRIB_MONITOR_H
#define CRIB_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "log.h"
#include "protocol.h"
#include "reaped.h"

/* What has large buffers and is called once: inlined, its frame would stay under the loop's for ever. */
#define NOINLINE __attribute__((noinline))

enum {
  MAX_CONTAINERS = 256,
  MAX_EXECS = 256,
  MAX_ID = 128,
  READ_SIZE = 65536,
  OUT_SIZE = 384 << 10,
  /* Kept free for replies and events: a list and an exit of every container, a reply to every
     exec and stream. Output of execs and further requests wait for room beyond it. */
  OUT_RESERVE = 256 << 10,
};

/* Epoll's data: what became ready, packed into 64 bits. No pointer, so none can be stale. */
enum watch_kind {
  WATCH_SIGNALS = 1,
  WATCH_LISTENER,
  WATCH_CLIENT,
  WATCH_LOG,
  WATCH_EXEC,
  WATCH_OOM,
  WATCH_INPUT,
  WATCH_STREAM
};

/* The whole of the monitor's state that outlives a loop turn. */
struct monitor {
  const char *id; /* the pod's */
  int directory;  /* fd */
  int exits;      /* fd of <directory>/exits */
  int epoll, signals;
  int spare;   /* fd to give up when there are no more, for a moment */
  pid_t pause; /* pid 1 of the pod's PID namespace, 0: none */
  bool stopping;
};
extern struct monitor monitor;

/* Large buffers, apart from the rest: their pages are given back when the monitor is idle. The
 * alignment is the largest page size, so that no page holds anything else. */
struct scratch {
  _Alignas(65536) char read[READ_SIZE];
  unsigned char in[FRAME_HEADER + FRAME_LIMIT];
  unsigned char out[OUT_SIZE];
  char *argv[8192], *env[8192];
};
extern struct scratch scratch;

/* main.c */
uint64_t now_ms(void);  /* monotonic */
uint64_t wall_ns(void); /* since 1970 */
struct timespec wall_time(void);
void watch(int fd, uint32_t events, enum watch_kind kind, unsigned stream, unsigned index);
void unwatch_close(int *fd); /* closes *fd, sets it to -1 */
/* Writes a line to <directory>/monitor.log; every 64 KiB it becomes monitor.log.1. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* spawn.c */
struct process {
  char *const *argv, *const *env;
  const char *cwd;
  int in, out, err; /* fd 0, 1 and 2; nothing else is inherited */
};
/* A pipe for stdin (0), stdout or stderr; ours is non-blocking. False and a text on failure. */
bool open_pipe(int which, int *ours, int *theirs, char *error, size_t size);
/* Starts a program in its own process group. 0 and a text in `error` when it could not be executed. */
pid_t spawn(const struct process *process, char *error, size_t size);
/* Kills `pid`, an unreaped child, with its children, its process group and its session. */
void kill_family(pid_t pid);
/* The same for many: looking for relatives goes through all processes of the node. */
void kill_families(const pid_t *pids, size_t count);
/* The number in a pid file, 0 when there is none. Removes the file. */
pid_t take_pid_file(const char *path);
/* Whether `pid` is a child of ours that still runs. When it has ended, fills `ending`, true when known. */
enum child_state { CHILD_RUNS, CHILD_ENDED, CHILD_UNKNOWN };
enum child_state find_child(pid_t pid, struct ending *ending);
int exit_code(int status);   /* 128 + signal when signalled */
int exit_signal(int status); /* 0 when it exited */

/* containers.c */
void container_create(struct reader *reader, uint32_t request);
void container_kill(struct reader *reader, uint32_t request);
void container_reopen_log(struct reader *reader, uint32_t request);
void container_forget(struct reader *reader, uint32_t request);
void containers_list(uint32_t request);
void container_stream_ready(unsigned index, unsigned stream);
void container_oom_ready(unsigned index);
bool containers_reaped(const struct ending *ending);            /* true when it was theirs */
bool containers_busy(void);                                     /* a runtime is at work */
void containers_tick(uint64_t now, uint64_t *next);             /* deadlines; lowers *next */
void container_resize(struct reader *reader, uint32_t request); /* or of an exec */
void containers_abandon(void); /* the connection is gone: nobody waits for a CREATE any more */
void containers_idle(void);    /* gives unused pages back */

/* terminal.c */
struct terminal_size {
  uint16_t columns, rows; /* 0: not known */
};
/* Listens for a terminal on a socket in `directory`; -1 and a text. */
int terminal_listen(const char *directory, const char *name, char *error, size_t size);
/* The master that the runtime sent, -1 when it sent none; closes the listener. */
int terminal_receive(int *listener);
void terminal_resize(int master, struct terminal_size size);
int terminal_peer(int master); /* a descriptor of the other side, -1 on failure */

/* execs.c */
void exec_start(struct reader *reader, uint32_t request);
void exec_resize(uint32_t exec_request, struct terminal_size size, uint32_t request);
void exec_cancel(struct reader *reader, uint32_t request);
void exec_hold(struct reader *reader, uint32_t request);
void exec_drop(struct reader *reader, uint32_t request);
void exec_output_ended(unsigned index); /* of one of its streams */
void exec_stream_ready(unsigned index, unsigned stream);
bool execs_reaped(const struct ending *ending);
bool execs_busy(void);
void execs_tick(uint64_t now, uint64_t *next);
void execs_resume(void);  /* there is room for output again */
void execs_abandon(void); /* the connection is gone: kill those that have no streams */
void execs_idle(void);    /* gives unused pages back */

/* streams.c */
struct stream;
void stream_open(int fd); /* a connection that has not said yet what it is */
/* The stream with that number, from now on reserved; NULL when there is none. */
struct stream *stream_claim(uint32_t number);
void stream_ready(unsigned index);
void streams_turn(void); /* moves what there was too much of for one turn */
void streams_tick(uint64_t now, uint64_t *next);
void streams_pump(unsigned exec);    /* moves what is there, in both directions */
bool streams_stalled(unsigned exec); /* a client does not read the output that is there */
void streams_finish(unsigned exec);  /* those of an exec that is over */
void streams_abandon(void);          /* the control connection is gone */
void streams_idle(void);             /* gives unused pages back */

/* attach.c */
void container_attach(struct reader *reader, uint32_t request);
bool attach_has_room(unsigned container, unsigned output); /* nobody is behind */
void attach_cut(unsigned container);                       /* those who are behind */
void attach_output(unsigned container, unsigned output, const char *bytes, size_t length);
void attach_output_ended(unsigned container, unsigned output);
void attach_ended(unsigned container); /* the container has exited */
void attach_input_ready(unsigned container);

/* dial.c */
void dial_start(struct reader *reader, uint32_t request);
void dial_end(struct reader *reader, uint32_t request);

/* client.c */
int client_listen(char *error, size_t size);
void client_accept(void);
void client_take(int fd); /* the newest daemon is the right one */
void client_ready(uint32_t events);
bool client_connected(void);
bool client_has_room(size_t bytes); /* beyond the reserve */
bool client_quiet(void);            /* nothing is buffered */
bool client_dirty(void);            /* something was queued since the last client_turn */
void client_turn(void); /* handles requests, sends what is queued, resumes what waited for room */
/* Begins a frame in the outgoing queue; write its fields, then client_send. */
struct writer client_frame(uint16_t type, uint32_t request);
void client_send(struct writer *writer);
void client_reply(enum frame_type type, uint32_t request); /* an empty one */
__attribute__((format(printf, 3, 4))) void client_error(uint32_t request, enum error_code code,
                                                        const char *format, ...);
/* Reads from `fd` straight into an EXEC_OUTPUT frame; read(2)'s result. */
ssize_t client_output(uint32_t request, int fd, unsigned stream);
void client_farewell(void); /* sends what is queued, for a second at most, and closes */

/* setup.c: called once, single steps that either work or say why not. */
struct options {
  const char *id, *directory;
  const char *net, *ipc, *uts, *pid; /* where to pin; NULL: the host's */
  const char *hostname, *oom_score_adj;
  char **sysctls; /* "name=value", NULL at the end */
  char **cgroups; /* NULL-terminated: files that take "0" */
};
bool join_cgroups(const struct options *options, char *error, size_t size);
bool setup_namespaces(const struct options *options, char *error, size_t size);
void setup_undo(const struct options *options); /* unpins what setup_namespaces pinned */

/* pause.c */
pid_t pause_start(const char *id, char *error, size_t size);
int pause_main(void);

/* confine.c: runs another program; returns an exit status where it does not come to that. */
int confine_main(char **argv);
bool tell_failure(const char *step, const char *name); /* of errno, to stderr; returns false */

/* unmount.c */
int unmount_main(char **argv);

#endif
