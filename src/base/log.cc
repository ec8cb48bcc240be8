#include "base/log.h"

#include <map>
#include <mutex>

namespace skipway {
namespace {

struct Sinks {
  std::mutex mutex;
  std::map<int, LogSink> by_handle;
  int next_handle = 1;
};

Sinks& sinks() {
  static Sinks instance;
  return instance;
}

}  // namespace

int add_log_sink(LogSink sink) {
  std::lock_guard lock(sinks().mutex);
  sinks().by_handle.emplace(sinks().next_handle, std::move(sink));
  return sinks().next_handle++;
}

void remove_log_sink(int handle) {
  std::lock_guard lock(sinks().mutex);
  sinks().by_handle.erase(handle);
}

void log_line(LogLevel level, std::string_view line) {
  std::lock_guard lock(sinks().mutex);
  for (auto& [handle, sink] : sinks().by_handle) sink(level, line);
}

}  // namespace skipway
