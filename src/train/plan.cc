#include "train/plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace skipway {
namespace {

constexpr double kSaveReserve_s = 1.5;  // last checkpoint, model and report

}  // namespace

Split take_evaluation_split(const Config& config, Dataset& dataset) {
  if (config.val_split > 0) return split_validation(dataset, config.val_split, config.seed);
  if (dataset.test.size() == 0) {
    fail(ErrorKind::kData, "train",
         "expected a test part in {}, got none; give --val-split N to set training images aside",
         dataset.source);
  }
  return dataset.test;
}

EvaluateOptions evaluate_options(const Config& config, at::ScalarType precision, bool tta) {
  EvaluateOptions options;
  options.precision = precision;
  options.batch = config.eval_batch;
  options.tta = tta;
  options.shift = config.tta_shift;
  return options;
}

Costs measure_costs(Learner& learner, const std::vector<Stage>& stages, size_t first, int64_t step,
                    const Split& evaluation_split, const EvaluateOptions& options) {
  Costs costs;
  for (size_t i = first; i < stages.size(); ++i)
    costs.steps_s.push_back(learner.measure_step_s(stages[i], step));
  costs.steps_s.insert(costs.steps_s.begin(), first, costs.steps_s.front());
  costs.evaluation_s = learner.measure_evaluation_s(evaluation_split, options);
  return costs;
}

Budget make_budget(const Config& config, const std::vector<Stage>& stages,
                   int64_t steps_per_epoch) {
  std::vector<BudgetPart> parts;
  for (const Stage& s : stages)
    parts.push_back({s.end, static_cast<double>(s.side * s.side) * (s.shallow ? 0.6 : 1)});
  if (config.minutes > 0) return Budget::of_seconds(config.minutes * 60, parts);
  return Budget::of_steps(
      std::max<int64_t>(1, std::llround(config.epochs * static_cast<double>(steps_per_epoch))),
      parts);
}

void use_costs(Budget& budget, const Costs& costs, size_t stage) {
  budget.set_costs(costs.steps_s);  // seconds, for as long as the machine stays as fast
  budget.set_reserve(costs.evaluation_s, kSaveReserve_s);
  budget.observe_step(stage, costs.steps_s[stage]);
}

}  // namespace skipway
