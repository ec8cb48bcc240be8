// What tests of every module share: a temporary folder, the log's lines, the error that an action
// ends with. Not used by the program.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

namespace skipway {

/// Sanitizers reserve more address space than any limit leaves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// For whole runs, which need the same kernels each time, so none that are measured. Sanitizers
/// slow down Skipway's own, of which the tests of kernels and models are enough; not LibTorch's.
constexpr const char* kTestKernel = kSanitized ? "torch" : "winograd";

/// A new folder below testing::TempDir(), removed with all it holds at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = testing::TempDir() + "skipway-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  /// Writes a file and the folders above it; returns its path.
  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }

 private:
  fs::path path_;
};

/// Keeps the log's lines, warnings with "warning: " before them.
class LogLines {
 public:
  LogLines()
      : handle_(add_log_sink([this](LogLevel level, std::string_view line) {
          text_ += (level == LogLevel::kWarning ? "warning: " : "") + std::string(line) + "\n";
        })) {}
  ~LogLines() { remove_log_sink(handle_); }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  const std::string& text() const { return text_; }
  void clear() { text_.clear(); }

 private:
  std::string text_;
  int handle_;
};

/// The Error that `action` ends with; none fails the test.
template <typename Action>
Error error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "");
}

}  // namespace skipway
