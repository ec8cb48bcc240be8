// What the readers of weights say when a file is not as expected: the message, and which file.
#pragma once
#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace skipway {

/// Raises `kind` about one file; `module` as fail() takes it.
class Complaint {
 public:
  Complaint(ErrorKind kind, std::string_view module, const std::filesystem::path& path)
      : kind_(kind), module_(module), path_(path.string()) {}

  template <typename... Args>
  [[noreturn]] void operator()(fmt::format_string<Args...> format, Args&&... args) const {
    fail(kind_, module_, "{} in {}", fmt::format(format, std::forward<Args>(args)...), path_);
  }

 private:
  ErrorKind kind_;
  std::string_view module_;
  std::string path_;
};

}  // namespace skipway
