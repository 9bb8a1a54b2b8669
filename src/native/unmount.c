/*
 * Unmounts for the daemon, which would keep everybody waiting meanwhile: until every processor has let go
 * of the mounts (RCU), and while others change theirs.
 *
 *   crib-monitor unmount [lazy] PATH...
 *
 * Each until nothing is mounted there; where nothing is, or nothing at all, that is fine. One that is busy
 * is tried again for a second. Then, or at once with "lazy", it goes with its last user. Writes the paths
 * of those that were busy to stdout, one a line, and what failed to stderr, with exit status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "monitor.h"

enum { TRIES = 20, PAUSE_US = 50000 };

/* Returns errno, or 0. */
static int unmount_all(const char *path, int flags) {
  while (umount2(path, UMOUNT_NOFOLLOW | flags) == 0) continue;
  return errno == EINVAL || errno == ENOENT ? 0 : errno;
}

static bool unmount_path(const char *path, bool lazy) {
  int error = lazy ? EBUSY : 0;
  for (int i = 0; i < TRIES && !lazy; i++) {
    if ((error = unmount_all(path, 0)) != EBUSY) break;
    usleep(PAUSE_US);
  }
  if (error == EBUSY) {
    if (!lazy) dprintf(1, "%s\n", path);
    error = unmount_all(path, MNT_DETACH);
  }
  if (error != 0) dprintf(2, "%s: %s\n", path, strerror(error));
  return error == 0;
}

int unmount_main(char **argv) {
  bool lazy = argv[0] != NULL && strcmp(argv[0], "lazy") == 0, done = true;
  for (argv += lazy; *argv != NULL; argv++) done = unmount_path(*argv, lazy) && done;
  return done ? 0 : 1;
}
