/* Terminals: the OCI runtime makes them, and sends their masters through a socket of ours. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "monitor.h"

int terminal_listen(const char *directory, const char *name, char *error, size_t size) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int at = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  /* Through /proc, because the directory's own path may be longer than sun_path. */
  int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", at, name);
  bool fits = length < (int)sizeof address.sun_path && name[0] != 0 && strchr(name, '/') == NULL;
  if (!fits) errno = EINVAL;
  mode_t mask = umask(0177);
  bool bound = fits && at >= 0 && fd >= 0 && (unlinkat(at, name, 0) == 0 || errno == ENOENT) &&
               bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0;
  umask(mask);
  if (!bound) {
    snprintf(error, size, "console socket %s in %s: %s", name, directory, strerror(errno));
    unwatch_close(&fd);
  }
  unwatch_close(&at);
  return fd;
}

/* The first descriptor of a message; the others are closed. -1: there is none. */
static int received(struct msghdr *message) {
  int first = -1;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL;
       part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (first < 0)
        first = fd;
      else
        close(fd);
    }
  }
  return first;
}

/* Both are queued when the runtime has ended well: its connection, and the message. */
int terminal_receive(int *listener) {
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))];
  char text[4096]; /* the terminal's name: of no interest */
  struct iovec part = {text, sizeof text};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct termios settings;
  int connection = accept4(*listener, NULL, NULL, SOCK_CLOEXEC);
  int master = -1;
  if (connection >= 0 && recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) >= 0)
    master = received(&message);
  unwatch_close(&connection);
  unwatch_close(listener);
  /* Line ends as Kubernetes' clients expect them, whatever the runtime prefers. */
  if (master >= 0 && tcgetattr(master, &settings) == 0) {
    settings.c_oflag |= ONLCR;
    tcsetattr(master, TCSANOW, &settings);
    if (fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK) == 0) return master;
  }
  unwatch_close(&master);
  return -1;
}

void terminal_resize(int master, struct terminal_size size) {
  struct winsize cells = {.ws_row = size.rows, .ws_col = size.columns};
  if (master >= 0 && size.columns > 0) ioctl(master, TIOCSWINSZ, &cells);
}

int terminal_peer(int master) { return ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC); }
