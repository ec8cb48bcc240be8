// The learning-rate range test (Smith, arXiv:1506.01186): the rate grows from step to step, and the
// loss says where learning begins and where it breaks. Prints and writes nothing.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "train/learner.h"

namespace skipway {

struct LrFindOptions {
  double from = 1e-3, to = 3;  // rates of the first and of the last step
  int64_t steps = 100;
  std::function<void(int64_t done)> on_step;  // may be empty
};

struct LrPoint {
  double lr = 0;
  double loss = 0;      // of the batch [nats]
  double smoothed = 0;  // exponential mean, the first steps' lack of history set right [nats]
};

struct LrFindResult {
  std::vector<LrPoint> points;  // of equal distance in log(lr)
  // Rate where the smoothed loss falls fastest over log(lr); none: it never falls, or the points
  // are too few to tell.
  std::optional<double> steepest;
  double lowest = 0;      // rate of the smallest smoothed loss
  bool diverged = false;  // stopped before `to`: four times the smallest loss, or not finite
};

/// Trains `learner` on rising rates; it is of no other use afterwards. All groups of parameters
/// keep the proportions of their rates. Errors: kDiverged when the first step is not finite.
LrFindResult lr_find(Learner& learner, const LrFindOptions& options);

/// What there is to say of the points of such a run.
LrFindResult summarise(std::vector<LrPoint> points);

}  // namespace skipway
