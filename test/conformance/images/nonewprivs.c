/* Says as whom it runs. The image has it set-user-ID root: without no_new_privs that is root. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %d\n", (int)geteuid());
  return 0;
}
