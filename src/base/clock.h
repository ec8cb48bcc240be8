// Wall-clock time in seconds: since the process began, and between two points; the
// median of what was measured.
#pragma once
#include <chrono>
#include <vector>

namespace skipway {

/// Seconds since the operating system started this process [s], so that a time budget includes
/// loading libraries. Not included: the set-up by ./skipway, which says in SKIPWAY_SETUP_S how long
/// it took before the same process became the program. The first call takes that variable out of
/// the environment.
double process_wall_s();

/// Measures seconds since its construction or the last reset.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void reset() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// The middle one of measured values, of an even count the upper; 0 where there are none.
double median(std::vector<double> values);

/// The mean of the times [s] of what is done again and again, but for those at the beginning that
/// the next one beats by a twentieth, which still take memory from the system, and those of more
/// than one and a half times the median, in which something else ran. 0 where there are none.
double settled(const std::vector<double>& times_s);

}  // namespace skipway
