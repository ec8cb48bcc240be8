// Runs the program as a person or a script would, and collects what it did. Not for unit tests.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace skipway {

struct ProgramOptions {
  std::map<std::string, std::string> environment;  // added to a clean one of HOME and PATH
  std::filesystem::path working_directory = ".";
  std::string input;                    // of stdin
  std::optional<int> terminal_columns;  // stderr (and stdin, stdout) is a terminal this wide
  double time_limit_s = 60;             // then SIGKILL
  // When stderr holds `text`, `signal` is sent, once.
  struct {
    std::string text;
    int signal = 0;
  } signal_at;
};

struct ProgramResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  bool timed_out = false;
  std::string out;  // stdout; with a terminal all that it showed
  std::string err;  // stderr; with a terminal empty
};

/// Runs build/…/skipway with `args`. Errors: std::runtime_error when it cannot be started.
ProgramResult run_program(const std::vector<std::string>& args, const ProgramOptions& options = {});

/// A folder below testing::TempDir() that lives as long as this.
class TestFolder {
 public:
  explicit TestFolder(const std::string& name);
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace skipway
