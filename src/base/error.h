// The one exception type of Skipway; its kind becomes the exit code of the program.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace skipway {

/// What went wrong, in the terms of the person who has to act on it. The value is the exit code.
enum class ErrorKind {
  kInternal = 1,    // a bug in Skipway
  kUsage = 2,       // a flag, a value or a combination that cannot be
  kData = 3,        // data missing or corrupt
  kDevice = 4,      // environment or device
  kMemory = 5,      // out of memory with nothing smaller left
  kDiverged = 6,    // the loss is not finite
  kCheckpoint = 7,  // weights or checkpoint do not fit
  kCheck = 8,       // a check that was asked for failed
  kDisk = 9,        // disk full, or no permission
};

/// Message form: `[module] expected X, got Y at WHERE; hint`.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

/// Throws Error(kind, "[module] " + formatted message).
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, std::string_view module, fmt::format_string<Args...> format,
                       Args&&... args) {
  throw Error(kind,
              fmt::format("[{}] {}", module, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace skipway
