// How methods that do the same are told apart by their time.
#pragma once
#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "base/clock.h"

namespace skipway {

/// A choice by this margin, so that the noise of a measurement does not choose: the same run on the
/// same machine should take the same.
constexpr double kMargin = 0.85;

/// Of each of `runs` its shortest time [s], after one that touches memory for the first time and
/// lets oneDNN compile; in rounds over all of them, so that what disturbs one for a while does not
/// choose. What is far behind in the first round is not in the next.
inline std::vector<double> shortest_s(const std::vector<std::function<void()>>& runs, int rounds) {
  std::vector<double> seconds(runs.size(), std::numeric_limits<double>::infinity());
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < runs.size(); ++i) {
      if (round == 0)
        runs[i]();
      else if (seconds[i] > 2 * std::ranges::min(seconds))
        continue;
      const Stopwatch watch;
      runs[i]();
      seconds[i] = std::min(seconds[i], watch.seconds());
    }
  return seconds;
}

}  // namespace skipway
