// Messages of the program while it runs. Lines go to the sinks that main and the run folder add;
// nothing else prints.
#pragma once
#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace skipway {

enum class LogLevel { kInfo, kWarning };

using LogSink = std::function<void(LogLevel, std::string_view line)>;

/// Adds a sink and returns a handle that removes it.
int add_log_sink(LogSink sink);
void remove_log_sink(int handle);
void log_line(LogLevel level, std::string_view line);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace skipway
