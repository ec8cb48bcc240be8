#include "cli/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace skipway {
namespace {

// In a process of its own: the signal twice, so long after each other, and an exit code that says
// how often the handler was called.
void raise_twice(int signal, std::chrono::milliseconds apart) {
  static volatile sig_atomic_t calls;
  calls = 0;
  handle_stop_signals([](int) { calls = calls + 1; });
  raise(signal);
  std::this_thread::sleep_for(apart);
  raise(signal);
  _exit(10 + calls);
}

TEST(StopSignals, TheSecondOfASignalEndsUnlessItCameWithTheFirst) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  using std::chrono::milliseconds;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EXIT(raise_twice(signal, milliseconds(1)), testing::ExitedWithCode(11), "");
    if (signal == SIGHUP)
      EXPECT_EXIT(raise_twice(signal, milliseconds(1100)), testing::ExitedWithCode(11), "");
    else
      EXPECT_EXIT(raise_twice(signal, milliseconds(1100)), testing::KilledBySignal(signal), "");
  }
}

}  // namespace
}  // namespace skipway
