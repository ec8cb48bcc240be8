#include "train/budget.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skipway {

Budget Budget::of_steps(int64_t steps, std::vector<BudgetPart> parts) {
  Budget budget;
  budget.fixed_steps_ = steps;
  budget.parts_ = std::move(parts);
  return budget;
}

Budget Budget::of_seconds(double seconds, std::vector<BudgetPart> parts) {
  Budget budget;
  budget.seconds_ = seconds;
  budget.parts_ = std::move(parts);
  return budget;
}

void Budget::set_costs(const std::vector<double>& costs) {
  for (size_t i = 0; i < parts_.size(); ++i) parts_[i].cost = costs[i];
}

void Budget::observe_step(int64_t step, size_t part, double step_s, double now_s) {
  recent_.push_back({step_s, step_s / (parts_[part].cost * early_factor(step))});
  recent_s_ += step_s;
  const auto enough_behind_first = [&] {
    return recent_.size() > kFewest && recent_s_ - recent_.front().seconds >= window_s(now_s);
  };
  while (recent_.size() > kMost || enough_behind_first()) {
    recent_s_ -= recent_.front().seconds;
    recent_.pop_front();
  }
}

double Budget::seconds_of_cost() const {
  if (recent_.size() < 2) return recent_.empty() ? 0 : recent_.front().of_cost;
  // A pause (Ctrl-Z, a laptop that sleeps) makes one step as long as it is, and says nothing about
  // those to come: the slowest is left out.
  double sum = 0, slowest = 0;
  for (const Observed& step : recent_) {
    sum += step.of_cost;
    slowest = std::max(slowest, step.of_cost);
  }
  return (sum - slowest) / static_cast<double>(recent_.size() - 1);
}

double Budget::cost_left(double step, size_t part, double total) const {
  double cost = 0;
  for (; part < parts_.size(); ++part) {
    const double end = parts_[part].end * total;
    const double early = std::max(0.0, std::min(end, early_steps_) - step);
    cost += (std::max(0.0, end - step) + (early_factor_ - 1) * early) * parts_[part].cost;
    step = std::max(step, end);
  }
  return cost;
}

double Budget::left_s(int64_t step, size_t part, int64_t total) const {
  return seconds_of_cost() *
             cost_left(static_cast<double>(step), part, static_cast<double>(total)) +
         reserve_left_s();
}

int64_t Budget::total_steps(int64_t step, size_t part, double now_s) const {
  if (!by_time()) return fixed_steps_;
  if (recent_.empty()) return std::numeric_limits<int64_t>::max();
  const double affordable = (seconds_ - now_s - reserve_s_) / seconds_of_cost() - reserve_cost_;
  if (affordable <= 0) return step;
  // What is left costs more the longer the run is: halve the interval in which it fits.
  const auto done = static_cast<double>(step);
  double low = done, high = done + 1;
  while (cost_left(done, part, high) < affordable) high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (cost_left(done, part, middle) < affordable ? low : high) = middle;
  }
  // Half a step more or less is the best that whole steps can do.
  return std::max(step, static_cast<int64_t>(std::llround(low)));
}

}  // namespace skipway
