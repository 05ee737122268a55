/* Holds a pod's namespaces open and reaps its orphans. Also the init process of the cluster's machines. */
#include <signal.h>
#include <sys/wait.h>

int main(void) {
  sigset_t set;
  int got;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, 0);
  while (sigwait(&set, &got) == 0 && got == SIGCHLD)
    while (waitpid(-1, 0, WNOHANG) > 0)
      ;
  return 0;
}
