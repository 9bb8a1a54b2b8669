/*
 * Unmounts for the daemon, which would keep everybody waiting meanwhile: until every processor has let go
 * of the mounts (RCU), and while others change theirs.
 *
 *   crib-monitor unmount [lazy] PATH...
 *
 * Each until nothing is mounted there; where nothing is, or nothing at all, that is fine. One that is busy
 * is tried again for a second. Then, or at once with "lazy", it goes with its last user. Tells stderr of
 * those that were busy and of what failed, and for this ends with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>

#include "monitor.h"

enum { TRIES = 20, PAUSE_MS = 50 };

static bool unmount_path(const char *path, int flags) {
  for (int tries = 0;;) {
    if (umount2(path, UMOUNT_NOFOLLOW | flags) == 0) continue;
    if (errno == EINVAL || errno == ENOENT) return true;
    if (errno != EBUSY || flags != 0) return tell_failure("unmount", path);
    if (++tries < TRIES) {
      poll(NULL, 0, PAUSE_MS);
    } else {
      tell_failure("detach", path);
      flags = MNT_DETACH;
    }
  }
}

int unmount_main(char **argv) {
  int flags = 0, status = 0;
  if (argv[0] != NULL && strcmp(argv[0], "lazy") == 0) argv++, flags = MNT_DETACH;
  for (; *argv != NULL; argv++)
    if (!unmount_path(*argv, flags)) status = 1;
  return status;
}
