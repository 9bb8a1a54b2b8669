/* The fuzzer's world: chance, a clock, and processes that only exist here. Included once, by fuzz.c. */
#ifndef CRIB_TEST_FUZZ_WORLD_H
#define CRIB_TEST_FUZZ_WORLD_H

enum {
  PROCESSES = 512,
  FIRST_PID = 5000000, /* no real one is as high */
};

static uint64_t random_state, clock_ms = 1000;

static unsigned below(unsigned limit) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(random_state >> 33) % limit;
}

struct fake {
  pid_t pid; /* 0: a free slot */
  bool runtime, ended;
  int status, out, err;
  char pid_file[64], console[64];
};
static struct fake fakes[PROCESSES];
static pid_t next_pid = FIRST_PID;

static struct fake *find_fake(pid_t pid) {
  for (int i = 0; i < PROCESSES; i++)
    if (fakes[i].pid == pid) return &fakes[i];
  return NULL;
}

static struct fake *add_fake(bool runtime, int out, int err) {
  struct fake *fake = find_fake(0);
  EXPECT(fake != NULL);
  *fake = (struct fake){.pid = next_pid++, .runtime = runtime, .out = dup(out), .err = dup(err)};
  EXPECT(fake->out >= 0 && fake->err >= 0);
  fcntl(fake->out, F_SETFL, O_NONBLOCK);
  return fake;
}

static void end_fake(struct fake *fake, int status) {
  if (fake->ended) return;
  fake->ended = true;
  fake->status = status;
  close(fake->out);
  close(fake->err);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  uint64_t ms = clock_ms + (clock == CLOCK_REALTIME ? 1700000000000 : 0);
  *now = (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000 + 1};
  return 0;
}

int __real_kill(pid_t pid, int signal_number);
int __wrap_kill(pid_t pid, int signal_number) {
  struct fake *fake = find_fake(pid);
  EXPECT(pid >= FIRST_PID);
  if (fake == NULL) {
    errno = ESRCH;
    return -1;
  }
  if (signal_number == SIGKILL || (signal_number == SIGTERM && below(2))) {
    end_fake(fake, signal_number);
  }
  return 0;
}

pid_t __wrap_waitpid(pid_t pid, int *status, int options) {
  EXPECT(options == WNOHANG);
  for (int i = 0; i < PROCESSES; i++) {
    struct fake *fake = &fakes[i];
    if (fake->pid == 0 || (pid > 0 && fake->pid != pid)) continue;
    if (!fake->ended && pid > 0) return 0;
    if (!fake->ended) continue;
    pid_t ended = fake->pid;
    *status = fake->status;
    fake->pid = 0;
    return ended;
  }
  errno = ECHILD;
  return -1;
}

/* Whoever is told of an exit finds its record on disk. */
void __real_client_send(struct writer *writer);
void __wrap_client_send(struct writer *writer) {
  char path[160];
  struct reader reader = {writer->bytes + 4, writer->bytes + writer->length, false};
  if (!writer->full && read_u16(&reader) == EXIT) {
    reader.at = writer->bytes + FRAME_HEADER;
    snprintf(path, sizeof path, "/exits/%s", read_string(&reader));
    EXPECT(!reader.bad && access(path, R_OK) == 0);
  }
  __real_client_send(writer);
}

/* The pid file is the argument after "--pid-file", as in a real command line. */
pid_t __wrap_spawn(const struct process *process, char *error, size_t size) {
  if (below(20) == 0) {
    snprintf(error, size, "execve: an invented failure");
    return 0;
  }
  struct fake *fake = add_fake(true, process->out, process->err);
  for (char *const *at = process->argv; at[0] != NULL && at[1] != NULL; at++)
    if (strcmp(at[0], "--pid-file") == 0)
      snprintf(fake->pid_file, sizeof fake->pid_file, "%s", at[1]);
    else if (strcmp(at[0], "--console-socket") == 0)
      snprintf(fake->console, sizeof fake->console, "%s", at[1]);
  return fake->pid;
}

static int connect_port(int fd);
int __real_connect(int fd, const struct sockaddr *address, socklen_t size);

static int devices = -1; /* the host's /dev */

/* As a runtime sends the terminal's master to its console socket; or something else, or nothing. */
static void send_terminal(const char *name) {
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {0};
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int masters[2], count = below(8) ? 1 : (int)below(3);
  snprintf(address.sun_path, sizeof address.sun_path, "/%s", name);
  for (int i = 0; i < count; i++) {
    masters[i] = openat(devices, below(20) ? "ptmx" : "null", O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT(masters[i] >= 0);
    ioctl(masters[i], TIOCSPTLCK, &(int){0});
  }
  struct iovec part = {"/dev/pts/0", 10};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    *rights = (struct cmsghdr){CMSG_LEN((size_t)count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(rights), masters, (size_t)count * sizeof(int));
  }
  if (__real_connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && below(20))
    sendmsg(fd, &message, MSG_NOSIGNAL);
  for (int i = 0; i < count; i++) close(masters[i]);
  close(fd);
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size) {
  if (address->sa_family == AF_UNIX) return __real_connect(fd, address, size);
  return connect_port(fd);
}

/* A runtime ends: well, with a process of its own left behind, or not. */
static void end_runtime(struct fake *fake) {
  if (fake->console[0] != 0 && below(8)) send_terminal(fake->console);
  if (below(5) > 0 && fake->pid_file[0] != 0) {
    struct fake *init = add_fake(false, fake->out, fake->err);
    FILE *file = fopen(fake->pid_file, "w");
    if (file != NULL) fprintf(file, "%d", init->pid), fclose(file);
    if (below(4) == 0) end_fake(init, (int)below(256) << 8);
    end_fake(fake, below(8) == 0 ? 1 << 8 : 0);
  } else {
    end_fake(fake, (int)below(3) << 8);
  }
}

static void write_output(const struct fake *fake) {
  static char text[40000];
  size_t length = below(4) ? below(100) : below(sizeof text);
  for (size_t i = 0; i < length; i++) text[i] = below(30) ? 'o' : '\n';
  ssize_t written = write(fake->out, text, length);
  (void)written;
}

static void live(void) {
  struct fake *fake = &fakes[below(PROCESSES)];
  /* Slots are taken from the start. */
  for (int tries = 0; tries < 8 && fake->pid == 0; tries++) fake = &fakes[below(32)];
  if (fake->pid == 0 || fake->ended) return;
  if (below(3))
    write_output(fake);
  else if (fake->runtime)
    end_runtime(fake);
  else if (below(8) == 0) {
    if (below(6) == 0) add_fake(false, fake->out, fake->err); /* a child that holds its output */
    end_fake(fake, below(3) ? (int)below(256) << 8 : (int)below(31) + 1);
  }
  if (below(20) == 0) end_fake(add_fake(false, 1, 2), 0); /* somebody's orphan */
}

#endif
