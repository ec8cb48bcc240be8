#include "train/plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace skipway {
namespace {

constexpr double kSaveReserve_s = 1.5;    // last checkpoint, model and report
constexpr double kForwardShare = 1. / 3;  // of a step's time

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

double measure_last_evaluation_s(const Config& config, Learner& learner,
                                 const Split& evaluation_split, double step_s) {
  const double batch_norm_steps =
      std::ceil(static_cast<double>(config.batch_norm_images) / static_cast<double>(config.batch));
  return learner.measure_evaluation_s(evaluation_split,
                                      evaluate_options(config, learner.precision, config.tta)) +
         batch_norm_steps * kForwardShare * step_s;
}

Plan make_plan(const Config& config, Learner& learner, const Split& evaluation_split, double passes,
               size_t stage, int64_t step) {
  Plan plan;
  plan.passes = passes > 0 ? passes : config.epochs;
  const int64_t steps_per_epoch = learner.batches.steps_per_epoch();
  const auto take_stages = [&] {
    plan.stages = stages(config, learner.model->spec().image_size, rule_for(plan.passes));
  };
  const auto measure = [&] {
    plan.steps_s.resize(plan.stages.size());
    for (size_t i = stage; i < plan.stages.size(); ++i)
      plan.steps_s[i] = learner.measure_step_s(plan.stages[i], step);
    std::fill_n(plan.steps_s.begin(), stage, plan.steps_s[stage]);
  };
  take_stages();
  measure();
  if (plan.passes == 0) {
    plan.passes =
        config.minutes * 60 / (plan.steps_s.back() * static_cast<double>(steps_per_epoch));
    // Other shares of the same stages, unless two of them come to end together.
    take_stages();
    if (plan.stages.size() != plan.steps_s.size()) measure();
  }
  learner.batches.set_augmentation(augment_options(config, rule_for(plan.passes)));
  plan.evaluation_s =
      measure_last_evaluation_s(config, learner, evaluation_split, plan.steps_s.back());
  plan.budget = make_budget(config, plan.stages, steps_per_epoch);
  plan.budget.set_costs(plan.steps_s);  // seconds, for as long as the machine stays as fast
  plan.budget.set_reserve(plan.evaluation_s, kSaveReserve_s);
  plan.budget.observe_step(stage, plan.steps_s[stage]);
  return plan;
}

}  // namespace skipway
