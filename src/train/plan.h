// How a run is laid out before it starts: what is evaluated on, what its steps cost here, and how
// many of them there are.
#pragma once
#include <cstdint>
#include <functional>
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

EvaluateOptions evaluate_options(const Config& config, const Learner& learner, int64_t views);

/// Steps of the run, from --epochs or --minutes; a step costs about as much as it has pixels.
Budget make_budget(const Config& config, const std::vector<Stage>& stages, int64_t steps_per_epoch);

/// Time of an evaluation of one view, as --test-every asks for [s], measured with one of its
/// batches.
double measure_test_s(const Config& config, Learner& learner, const Split& evaluation_split);

/// Views of each image that --tta and --tta-shift ask for.
int64_t views_of(const Config& config);

/// Views of each image in the evaluation that ends the run: those of --tta and --tta-shift, or as
/// many of them as take at most `most_s`, where one takes `test_s`; 1 at least.
int64_t affordable_views(const Config& config, double test_s, double most_s);

/// Training images from which a run of so many passes takes BatchNorm's statistics at its end; not
/// more than there are.
int64_t images_for_batch_norm(const Config& config, const Learner& learner, double passes);

/// Time of the evaluation that ends the run [s]. That of BatchNorm's new statistics follows from a
/// step of whole images.
double last_evaluation_s(const Config& config, const Learner& learner, int64_t views, double passes,
                         double test_s, double step_s);

struct RunLength {
  int64_t steps = 0;  // in all
  int64_t tests = 0;  // evaluations still to come, by --test-every; not the last one
};

/// How long the run will be, as it looks after `step` steps, in `stage`, at `now_s`, with
/// evaluations of `test_s` each on the way.
RunLength length_of_run(const Config& config, const Budget& budget, int64_t steps_per_epoch,
                        double test_s, int64_t step, size_t stage, double now_s);

struct Plan {
  double passes = 0;  // over the images at full size that the time of the run is enough for
  std::vector<Stage> stages;
  std::vector<double> steps_s;  // one a stage
  int64_t views = 1;            // of each image, at the end: fewer than asked for in a short run
  double evaluation_s = 0;      // of the one at the end, BatchNorm's new statistics included
  double test_s = 0;            // of each one during the run; 0 without --test-every
  double early_step_s = 0;      // in early_epochs() of its first stage, where there are any
  Budget budget;
};

/// Measures a step of each stage and the evaluation, and lays the run out. Takes some seconds, and
/// leaves the learner's weights as they were; its augmentation becomes that of such a run, and
/// frozen is what is so at its end.
/// `begun_s`: what of its time the run has spent so far. `passes`: as an earlier plan found it,
/// whose views are those of `config`; 0: to be found, both. Stages before `stage` are over: they
/// count as `stage` does and are not measured. Once `cancelled` it measures no more, and the plan
/// is of no use.
Plan make_plan(const Config& config, Learner& learner, const Split& evaluation_split,
               double begun_s, double passes = 0, size_t stage = 0, int64_t step = 0,
               const std::function<bool()>& cancelled = {});

/// Measures the steps of a run of minutes anew, for some seconds each, as the run itself cannot
/// afford to: the first steps of a process are slower than those to come.
void measure_longer(const Config& config, Learner& learner, Plan& plan);

/// How a run that follows the plan will end.
struct Forecast {
  int64_t steps = 0;
  int64_t tests = 0;  // evaluations during the run, by --test-every; not the last one
  double wall_s = 0;
};

/// `begun_s`: when its first step begins, in seconds of the run.
Forecast forecast(const Config& config, const Plan& plan, int64_t steps_per_epoch, double begun_s);

/// Errors: kUsage where the run has no step. `spent_s`: of its minutes, before the first step.
void require_steps(const Config& config, const Plan& plan, int64_t steps, double spent_s);

}  // namespace skipway
