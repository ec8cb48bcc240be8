#include "cli/signals.h"

#include <signal.h>
#include <time.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>

namespace skipway {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<void (*)(int)> handler_of_first{nullptr};
std::array<std::atomic<int64_t>, NSIG> first_ns{};  // when each signal came first; 0: not yet
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

void take(int signal) {
  constexpr int64_t kSame_ns = 1'000'000'000;
  std::atomic<int64_t>& first = first_ns.at(static_cast<size_t>(signal));
  if (first == 0) {
    first = now_ns();
    handler_of_first.load()(signal);
  } else if (signal != SIGHUP && now_ns() - first >= kSame_ns) {
    ::signal(signal, SIG_DFL);
    raise(signal);
  }
}

}  // namespace

void handle_stop_signals(void (*handler)(int signal)) {
  handler_of_first = handler;
  struct sigaction action {};
  action.sa_handler = take;
  action.sa_flags = SA_RESTART;  // a file that is being written is written to its end
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction found {};
    sigaction(signal, nullptr, &found);
    if (found.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

}  // namespace skipway
