/*
 * A fuzzer of the monitor's protocol: the whole monitor in one process, its loop driven by a wrapped
 * epoll_wait, with invented processes and an invented clock, below a root of its own. Run under the
 * address and undefined behaviour sanitizers by monitor-fuzz.test.ts:
 *
 *   fuzz DIRECTORY SECONDS SEED
 *
 * A client is honest (each of its requests must get exactly one reply), or a liar that sends damaged
 * frames. Rounds follow each other, each with a seed of its own, which a failure names.
 */
#define _GNU_SOURCE
#define main monitor_main
#include "../../../src/native/main.c"
#undef main

#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include "../../../src/native/container.h"
#include "expect.h"
#include "fuzz-clients.h"

enum { STEPS = 3000 }; /* of one round */
static int steps_left;

static void step(void) {
  struct client_end *end = &clients[below(CLIENTS)];
  unsigned choice = below(100);
  if (end->fd < 0) {
    /* Each new one cuts off the one before. */
    if (!client_connected() || below(400) == 0) call(end, below(2));
  } else if (choice < 30) {
    send_request(end);
  } else if (choice < 60) {
    push(end, below(8) ? 1 + below(2000) : BUFFER);
  } else if (choice < 90) {
    if (!end->lazy || below(200) == 0) take(end);
  } else if (choice == 90) {
    hang_up(end);
  }
  for (unsigned acts = below(4); acts > 0; acts--) act_wire(&wires[below(WIRES)]);
  for (unsigned lives = below(4); lives > 0; lives--) live();
  if (below(20) == 0) clock_ms += below(800);
}

int __real_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout);
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
  if (steps_left-- <= 0) monitor.stopping = true;
  if (steps_left > 0) step();
  reap(); /* nobody sends a SIGCHLD for an invented process */
  int count = __real_epoll_wait(epoll, events, most, 0);
  if (count == 0 && timeout > 0 && below(40) == 0) clock_ms += (uint64_t)timeout;
  return count;
}

static void run(int steps) {
  for (steps_left = steps; steps_left > 0;) {
    monitor.stopping = false;
    loop();
  }
  monitor.stopping = false;
}

/* Ends what still runs, and gives the monitor as many turns as it may need, with nobody acting. */
static void settle(struct client_end *end) {
  for (int turn = 0; turn < 400; turn++) {
    /* A dial's end may be waited for. */
    for (int i = 0; turn == 200 && i < WIRES; i++) drop_wire(&wires[i]);
    for (int i = 0; i < PROCESSES; i++)
      if (fakes[i].pid != 0) end_fake(&fakes[i], 0);
    if (end->fd >= 0) push(end, BUFFER);
    steps_left = 0;
    monitor.stopping = false;
    loop();
    if (end->fd >= 0) take(end);
    clock_ms += 50;
  }
  monitor.stopping = false;
}

/* Several containers may write to one log: its records are whole all the same. */
static void check_logs(void) {
  static char text[64 << 20];
  char path[32];
  for (unsigned id = 0; id < IDS; id++) {
    snprintf(path, sizeof path, "/logs/c%u", id);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd), unlink(path);
    EXPECT(length >= 0 && length < (ssize_t)sizeof text - 1);
    text[length] = 0;
    for (char *line = text, *stop; *line != 0; line = stop + 1) {
      stop = strchr(line, '\n');
      EXPECT(stop != NULL && stop - line >= LOG_PREFIX && stop - line <= LOG_PREFIX + LOG_LINE);
      EXPECT(memcmp(line, "20", 2) == 0 && memcmp(line + 29, "Z std", 5) == 0);
      EXPECT(memcmp(line + 37, " P ", 3) == 0 || memcmp(line + 37, " F ", 3) == 0);
    }
  }
}

static int open_files(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

/* An honest client gets all of its replies, and can bring the monitor back to where it began. */
static void tidy_up(struct client_end *end, int files) {
  for (int i = 0; i < CLIENTS; i++) {
    if (clients[i].fd >= 0) settle(&clients[i]);
    EXPECT(clients[i].fd < 0 || clients[i].liar || clients[i].waits == 0);
    hang_up(&clients[i]);
  }
  call(end, false);
  for (int i = 0; i < 60; i++) send_request(end);
  settle(end);
  EXPECT(end->fd >= 0 && end->waits == 0);
  for (struct container *it = containers; it < containers + MAX_CONTAINERS; it++) {
    if (it->id[0] == 0) continue;
    struct writer writer = begin(end, FORGET);
    write_string(&writer, it->id);
    finish(end, &writer);
    await(end, FORGET);
  }
  settle(end);
  EXPECT(end->waits == 0);
  for (struct container *it = containers; it < containers + MAX_CONTAINERS; it++)
    EXPECT(it->id[0] == 0);
  hang_up(end);
  for (int i = 0; i < WIRES; i++) drop_wire(&wires[i]);
  settle(end);
  EXPECT(open_files() == files);
  check_logs();
}

/* Its own root, so that no path that is made up can do harm. */
static void move_in(const char *directory) {
  struct options options = {.id = "fuzz", .directory = directory};
  char error[700] = "";
  umask(022);
  EXPECT(open_all(&options, error, sizeof error));
  if (client_listen(error, sizeof error) != 0) fprintf(stderr, "%s\n", error), exit(1);
  devices = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (geteuid() != 0) EXPECT(unshare(CLONE_NEWUSER) == 0);
  EXPECT(chroot(directory) == 0 && chdir("/") == 0);
  EXPECT(mkdir("/logs", 0755) == 0 && mkdir("/pids", 0755) == 0);
  FILE *oom = fopen("/oom", "w");
  EXPECT(oom != NULL && fprintf(oom, "oom_kill 0\n") > 0 && fclose(oom) == 0);
}

int main(int argc, char **argv) {
  EXPECT(argc == 4);
  struct timespec now;
  signal(SIGPIPE, SIG_IGN);
  move_in(argv[1]);
  for (int i = 0; i < CLIENTS; i++)
    clients[i] = (struct client_end){.fd = -1, .out = malloc(BUFFER), .in = malloc(BUFFER)};
  for (int i = 0; i < WIRES; i++) wires[i].fd = -1;
  int files = open_files(), rounds = 0;
  uint64_t seed = strtoull(argv[3], NULL, 10);
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  time_t end = now.tv_sec + atoi(argv[2]);
  do {
    printf("seed %" PRIu64 "\n", seed), fflush(stdout);
    random_state = seed++;
    run(STEPS);
    tidy_up(&clients[0], files);
    rounds++;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  } while (now.tv_sec < end);
  printf("%d rounds\n", rounds);
  for (int i = 0; i < CLIENTS; i++) free(clients[i].out), free(clients[i].in);
  return 0;
}
