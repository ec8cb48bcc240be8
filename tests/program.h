// Runs the program as a person or a script would, and collects what it did. Not for unit tests.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/for_test.h"

namespace skipway {

struct ProgramOptions {
  std::filesystem::path working_directory = ".";
  /// Added to, or in place of: HOME (the working directory), PATH, TERM=xterm, OMP_NUM_THREADS=1,
  /// GOMP_SPINCOUNT as ./skipway sets it, so that a test sees nothing of the machine's owner.
  /// Nothing else is inherited.
  std::map<std::string, std::string> environment;
  std::string input;                    // of stdin; at most a pipe's buffer, 64 kB
  std::optional<int> terminal_columns;  // all three streams are one terminal this wide
  std::optional<int> stdout_file;       // an open file that takes the place of the pipe
  std::vector<int> closed_streams;      // of 0, 1, 2: not open when the program starts
  std::vector<int> ignored_signals;     // as a script's background has them
  std::string signal_at_text;           // when this has been shown, `signal` is sent, once
  int signal = 0;
  int signal_times = 1;                 // that it is sent, a few milliseconds apart
  std::function<void()> before_signal;  // what is done then, while the program lives; may be empty
};

struct ProgramResult {
  int exit_code = -1;  // -signal when a signal ended it
  std::string out;     // stdout; of a terminal, all that it was sent
  std::string err;     // stderr; empty with a terminal
};

/// Runs the program of this build with `args`, for two minutes at most, then SIGKILL. Errors:
/// std::runtime_error when it cannot be started.
ProgramResult run_program(const std::vector<std::string>& args, const ProgramOptions& options = {});

}  // namespace skipway
