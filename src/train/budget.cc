#include "train/budget.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace skipway {

Budget Budget::of_steps(int64_t steps) {
  Budget budget;
  budget.fixed_steps_ = steps;
  return budget;
}

Budget Budget::of_seconds(double seconds) {
  Budget budget;
  budget.seconds_ = seconds;
  return budget;
}

void Budget::observe_step(double step_s) {
  recent_.push_back(step_s);
  if (recent_.size() > kWindow) recent_.pop_front();
}

double Budget::step_s() const {
  if (recent_.empty()) return 0;
  return std::accumulate(recent_.begin(), recent_.end(), 0.0) / static_cast<double>(recent_.size());
}

int64_t Budget::total_steps(int64_t step, double now_s) const {
  if (!by_time()) return fixed_steps_;
  if (recent_.empty()) return std::numeric_limits<int64_t>::max();
  const double left_s = seconds_ - now_s - reserve_s_ - reserve_steps_ * step_s();
  // Half a step more or less is the best that whole steps can do.
  return step + std::max<int64_t>(0, static_cast<int64_t>(left_s / step_s() + 0.5));
}

}  // namespace skipway
