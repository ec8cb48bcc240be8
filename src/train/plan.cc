#include "train/plan.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "train/freeze.h"

namespace skipway {
namespace {

constexpr double kSaveReserve_s = 1.5;    // last checkpoint, model and report
constexpr double kForwardShare = 1. / 3;  // of a step's time
constexpr double kMostForTta = 0.5;       // of the time that is left
// A first step that takes more is taken for all of them: one that waits for memory can take four
// times as long as the next, and a wrong ratio of two sides lays out another run.
constexpr double kLongFirstStep_s = 10, kLongFirstStep = 0.03;  // or that share of the minutes
constexpr double kMeasure_s = 5, kMeasure = 0.002;  // of steps of a stage; or that share, if less

bool costs_alike(const Stage& a, const Stage& b) {
  return a.side == b.side && a.shallow == b.shallow;
}

// Evaluations come at ends of epochs; that of the run's end is counted elsewhere.
int64_t tests_during(const Config& config, double epochs) {
  if (config.test_every <= 0) return 0;
  const double last = std::ceil(epochs - 1e-9) - 1;  // end of an epoch before that of the run
  return std::max<int64_t>(0,
                           std::llround(std::floor(last / std::max(1., config.test_every) + 1e-9)));
}

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

EvaluateOptions evaluate_options(const Config& config, const Learner& learner, int64_t views) {
  EvaluateOptions options;
  options.precision = learner.precision;
  options.batch = config.eval_batch > 0 ? config.eval_batch
                                        : evaluation_batch(learner.model->spec().image_size);
  options.views = views;
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

double measure_test_s(const Config& config, Learner& learner, const Split& evaluation_split) {
  return learner.measure_evaluation_s(evaluation_split,
                                      evaluate_options(config, learner, /*views=*/1));
}

int64_t views_of(const Config& config) { return views_of(config.tta, config.tta_shift); }

int64_t affordable_views(const Config& config, double test_s, double most_s) {
  const int64_t all = views_of(config);
  for (const int64_t views : {6, 2})
    if (views <= all && static_cast<double>(views) * test_s <= most_s) return views;
  return 1;
}

int64_t images_for_batch_norm(const Config& config, const Learner& learner, double passes) {
  return std::min(batch_norm_images(config, passes), learner.batches.image_count());
}

double last_evaluation_s(const Config& config, const Learner& learner, int64_t views, double passes,
                         double test_s, double step_s) {
  const auto images = static_cast<double>(images_for_batch_norm(config, learner, passes));
  return static_cast<double>(views) * test_s +
         std::ceil(images / static_cast<double>(config.batch)) * kForwardShare * step_s;
}

RunLength length_of_run(const Config& config, const Budget& budget, int64_t steps_per_epoch,
                        double test_s, int64_t step, size_t stage, double now_s) {
  const auto tests_until = [&](int64_t steps) {
    return tests_during(config, static_cast<double>(steps) / static_cast<double>(steps_per_epoch));
  };
  const int64_t made = tests_until(step + 1);
  const auto with = [&](int64_t tests) {
    return budget.total_steps(step, stage, now_s + static_cast<double>(tests) * test_s);
  };
  const auto due = [&](int64_t tests) { return tests_until(with(tests)) - made; };
  if (!budget.by_time()) return {with(0), due(0)};
  // Each evaluation shortens the training that the next is due in: as many as leave it due.
  int64_t low = 0, high = std::max<int64_t>(0, due(0));
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (due(middle) >= middle)
      low = middle;
    else
      high = middle - 1;
  }
  return {with(low), low};
}

Plan make_plan(const Config& config, Learner& learner, const Split& evaluation_split,
               double begun_s, double passes, size_t stage, int64_t step,
               const std::function<bool()>& cancelled) {
  const Stopwatch watch;
  Plan plan;
  plan.passes = passes > 0 ? passes : config.epochs;
  const int64_t steps_per_epoch = learner.batches.steps_per_epoch();
  step -= step % steps_per_epoch;  // the last batch of an epoch may be a small one
  const double most_s = std::max(kLongFirstStep_s, kLongFirstStep * 60 * config.minutes);
  const double enough_s =
      config.minutes > 0 ? std::min(kMeasure_s, kMeasure * 60 * config.minutes) : kMeasure_s;
  const auto take_stages = [&] {
    plan.stages = stages(config, learner.model->spec().image_size, plan.passes);
  };
  const auto stopped = [&] { return cancelled && cancelled(); };
  const auto measure = [&] {
    plan.steps_s.resize(plan.stages.size());
    for (size_t i = stage; i < plan.stages.size() && !stopped(); ++i)
      plan.steps_s[i] = learner.measure_step_s(plan.stages[i], step, most_s, enough_s, cancelled);
    std::fill_n(plan.steps_s.begin(), stage, plan.steps_s[stage]);
  };
  freeze_at(/*epoch=*/INFINITY, config, *learner.model);
  take_stages();
  measure();  // before the evaluation, which takes the kernels that training chooses
  if (stopped()) return plan;
  const double test_s = measure_test_s(config, learner, evaluation_split);
  const double left_s = 60 * config.minutes - begun_s - watch.seconds();
  plan.views = views_of(config);
  if (plan.passes == 0) {
    plan.views = affordable_views(config, test_s, kMostForTta * left_s);
    plan.passes = std::max(left_s - static_cast<double>(plan.views) * test_s, plan.steps_s.back()) /
                  (plan.steps_s.back() * static_cast<double>(steps_per_epoch));
    // Often other shares of the same stages.
    const std::vector<Stage> measured = plan.stages;
    take_stages();
    if (!std::ranges::equal(plan.stages, measured, costs_alike)) measure();
    if (stopped()) return plan;
  }
  learner.batches.set_augmentation(
      augment_options(config, plan.passes, learner.model->spec().image_size));
  learner.optimizer.set_muon_lr(optimizer_options(config, plan.passes).muon_lr);
  plan.evaluation_s =
      last_evaluation_s(config, learner, plan.views, plan.passes, test_s, plan.steps_s.back());
  if (config.test_every > 0) plan.test_s = test_s;
  plan.budget = make_budget(config, plan.stages, steps_per_epoch);
  plan.budget.set_costs(plan.steps_s);  // seconds, for as long as the machine stays as fast
  plan.budget.set_reserve(plan.evaluation_s, kSaveReserve_s);
  plan.budget.observe_step(step, stage, plan.steps_s[stage], begun_s);
  const double early_steps = early_epochs(config) * static_cast<double>(steps_per_epoch);
  if (static_cast<double>(step) < early_steps) {
    // One after the other: the machine may have been slower when the stages were measured.
    const auto step_s_at = [&](double epoch) {
      freeze_at(epoch, config, *learner.model);
      return learner.measure_step_s(plan.stages[stage], step, most_s, enough_s, cancelled);
    };
    const double early_s = step_s_at(0), later_s = step_s_at(INFINITY);
    plan.early_step_s = plan.steps_s[stage] * early_s / later_s;
    plan.budget.set_early_steps(early_steps, early_s / later_s);
  }
  return plan;
}

void measure_longer(const Config& config, Learner& learner, Plan& plan) {
  freeze_at(/*epoch=*/INFINITY, config, *learner.model);
  const double first_s = plan.steps_s.front();
  for (size_t i = 0; i < plan.stages.size(); ++i)
    plan.steps_s[i] =
        learner.measure_step_s(plan.stages[i], /*step=*/0, kLongFirstStep_s, kMeasure_s);
  plan.early_step_s *= plan.steps_s.front() / first_s;
  plan.budget.set_costs(plan.steps_s);
}

Forecast forecast(const Config& config, const Plan& plan, int64_t steps_per_epoch, double begun_s) {
  const auto [steps, tests] =
      length_of_run(config, plan.budget, steps_per_epoch, plan.test_s, 0, 0, begun_s);
  Forecast run{.steps = steps, .tests = tests, .wall_s = 0};
  run.wall_s = begun_s + static_cast<double>(tests) * plan.test_s + plan.budget.left_s(0, 0, steps);
  return run;
}

void require_steps(const Config& config, const Plan& plan, int64_t steps, double spent_s) {
  if (steps > 0) return;
  const double after_s = plan.budget.left_s(0, 0, 0), step_s = plan.steps_s.front();
  fail(ErrorKind::kUsage, "train",
       "expected time for training, got {:g} at --minutes: loading and planning took {:.1f} s, the "
       "evaluation and the files at the end will take {:.1f} s, a step {:.2f} s; {:.1f} minutes or "
       "more leave time for some steps",
       config.minutes, spent_s, after_s, step_s,
       std::ceil((spent_s + after_s + 10 * step_s) / 6) / 10);
}

}  // namespace skipway
