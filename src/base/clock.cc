#include "base/clock.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace skipway {
namespace {

// Field 22 of /proc/self/stat: start time in clock ticks since boot. 0 where there is no /proc.
double process_start_since_boot_s() {
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  const size_t after_name = text.rfind(')');
  if (after_name == std::string::npos) return 0;
  std::istringstream fields(text.substr(after_name + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// What ./skipway took to build the program before it became it. The variable goes, because it does
// not hold for the processes that this one starts.
double take_setup_s() {
  const char* text = std::getenv("SKIPWAY_SETUP_S");
  const double seconds = text != nullptr ? std::atof(text) : 0;
  unsetenv("SKIPWAY_SETUP_S");
  return seconds;
}

double since_boot_s() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

double process_wall_s() {
  static const double start = process_start_since_boot_s() + take_setup_s();
  return since_boot_s() - start;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double settled(const std::vector<double>& times_s) {
  const auto first =
      std::adjacent_find(times_s.begin(), times_s.end(),
                         [](double time_s, double next_s) { return next_s > 0.95 * time_s; });
  const bool none = first == times_s.end() && !times_s.empty();
  const std::vector<double> rest(none ? std::prev(first) : first, times_s.end());
  const double most_s = 1.5 * median(rest);
  double sum_s = 0, count = 0;
  for (const double time_s : rest)
    if (time_s <= most_s) sum_s += time_s, ++count;
  return count > 0 ? sum_s / count : 0;
}

}  // namespace skipway
