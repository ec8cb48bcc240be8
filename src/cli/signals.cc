#include "cli/signals.h"

#include <signal.h>

#include <initializer_list>

namespace skipway {

void handle_stop_signals(void (*handler)(int signal)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction found {};
    sigaction(signal, nullptr, &found);
    if (found.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

}  // namespace skipway
