#include "train/lr_find.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace skipway {
namespace {

constexpr double kSmoothing = 0.9;     // weight of the past in the mean
constexpr double kDivergedAt = 4;      // times the smallest smoothed loss
constexpr size_t kSlopeOver = 5;       // steps to either side
constexpr double kSkippedStart = 0.1;  // share of the points whose mean is young

}  // namespace

LrFindResult lr_find(Learner& learner, const LrFindOptions& options) {
  std::vector<LrPoint> points;
  double mean = 0, smallest = 0;
  bool diverged = false;
  for (int64_t step = 0; step < options.steps && !diverged; ++step) {
    const double share =
        options.steps > 1 ? static_cast<double>(step) / static_cast<double>(options.steps - 1) : 0;
    const double lr = options.from * std::pow(options.to / options.from, share);
    const auto [value, norm] = learner.backward(learner.batches.at_step(step));
    diverged = !std::isfinite(value) || !std::isfinite(norm);
    if (diverged) break;
    learner.update(lr);
    mean = kSmoothing * mean + (1 - kSmoothing) * value;
    const double smoothed = mean / (1 - std::pow(kSmoothing, static_cast<double>(step + 1)));
    smallest = step == 0 ? smoothed : std::min(smallest, smoothed);
    points.push_back({lr, value, smoothed});
    diverged = smoothed > kDivergedAt * smallest;
    if (options.on_step) options.on_step(step + 1);
  }
  if (points.empty())
    fail(ErrorKind::kDiverged, "lr-find",
         "expected a finite loss and gradient at the first step, got none, whatever the rate; see "
         "with `skipway data check` whether mean and std fit the images, and look at --mean and "
         "--std");
  LrFindResult result = summarise(std::move(points));
  result.diverged = diverged;
  return result;
}

LrFindResult summarise(std::vector<LrPoint> points) {
  LrFindResult result;
  result.points = std::move(points);
  const auto& p = result.points;
  const auto from = static_cast<size_t>(kSkippedStart * static_cast<double>(p.size()));
  double smallest = 0, slope = 0;
  for (size_t i = from; i < p.size(); ++i) {
    if (i == from || p[i].smoothed < smallest) smallest = p[i].smoothed, result.lowest = p[i].lr;
    if (i < from + kSlopeOver || i + kSlopeOver >= p.size()) continue;
    const double here = p[i + kSlopeOver].smoothed - p[i - kSlopeOver].smoothed;
    if (here < slope) slope = here, result.steepest = p[i].lr;
  }
  return result;
}

}  // namespace skipway
