// How a run is laid out before it starts: what is evaluated on, what its steps cost here, and how
// many of them there are.
#pragma once
#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "train/budget.h"
#include "train/config.h"
#include "train/evaluate.h"
#include "train/learner.h"
#include "train/stages.h"

namespace skipway {

/// The images that a run is evaluated on: --val-split of the training images, which are taken out
/// of `dataset`, or its test part. Errors: kData when there is none.
Split take_evaluation_split(const Config& config, Dataset& dataset);

EvaluateOptions evaluate_options(const Config& config, at::ScalarType precision, bool tta);

/// What was measured of a run to come [s].
struct Costs {
  std::vector<double> steps_s;  // one a stage
  double evaluation_s = 0;      // of the one at the end
};

/// Takes some seconds, and leaves the learner as it was. Stages before `first` are over: they count
/// as `first` does and are not measured.
Costs measure_costs(Learner& learner, const std::vector<Stage>& stages, size_t first, int64_t step,
                    const Split& evaluation_split, const EvaluateOptions& options);

/// Steps of the run, from --epochs or --minutes; a step costs about as much as it has pixels.
Budget make_budget(const Config& config, const std::vector<Stage>& stages, int64_t steps_per_epoch);

/// The same with what was measured, for a run in `stage`.
void use_costs(Budget& budget, const Costs& costs, size_t stage);

}  // namespace skipway
