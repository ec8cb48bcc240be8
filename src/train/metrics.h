// What a run says of itself: after a step, an epoch, trouble, and at its end; and what of that
// stands in a line of metrics.jsonl. Not when it is said; see trainer.h.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "record/run_folder.h"
#include "train/evaluate.h"
#include "train/learner.h"

namespace skipway {

/// What is known after a step, for whoever watches.
struct StepReport {
  int64_t step = 0;         // steps done
  int64_t total_steps = 0;  // as planned now
  double epoch = 0;         // epochs done
  double total_epochs = 0;
  double loss = 0;          // mean over the epoch so far [nats]
  double grad_norm = 0;     // mean over the epoch so far, before --clip-grad-norm
  double lr = 0;            // of this step
  double images_per_s = 0;  // recent
  double eta_s = 0;         // until the end; in a run by epochs, without the last evaluation
};

/// What is known at the end of an epoch, and of the run.
struct EpochReport {
  StepReport step;
  int64_t images = 0;  // trained on so far
  double train_wall_s = 0, wall_s = 0;
  std::optional<Evaluation> evaluation;
};

/// A step, or the evaluation after it, whose numbers a run cannot go on with.
struct BadStep {
  int64_t step = 0;  // steps done before it
  double epoch = 0;
  double loss = 0, grad_norm = 0;  // null in JSON where they are not finite or of no meaning
  double lr = 0, lr_factor = 1;    // of the step; of the scheduled rate from now on
  int64_t rollbacks = 0;           // of the run, this one included
};

struct TrainResult {
  int stop_signal = 0;         // not 0: stopped early; `last` is then empty
  bool state_is_saved = true;  // of the last step; else of an earlier one
  std::string run;
  std::string model, dataset, recipe, split;  // split: "test" or "validation"
  double epochs = 0;
  int64_t images = 0;
  double wall_s =
      0;  // of the process (and of those before a resume), loading and evaluation included
  double train_wall_s = 0;  // of the training steps
  double images_per_s = 0;  // median over the steps of the last process that made any
  Evaluation last;
  double best = 0;  // highest accuracy of any evaluation of the run (plain)
  double best_epoch = 0;
  std::vector<std::string> classes;
  std::string device, precision, kernel;
  std::map<std::string, std::string> kernels;  // as KernelChoice::chosen()
  int64_t threads = 0;
  int64_t peak_rss_bytes = 0;
  std::string weights_sha256;
};

/// The object that `train --json` prints.
nlohmann::ordered_json to_json(const TrainResult& result);

/// What trouble.json and the lines below say of such a step.
nlohmann::ordered_json to_json(const BadStep& bad);

// Lines of metrics.jsonl; "event" says which.

/// "begin", the first: what config.toml leaves to the data, the machine and the length. `of_data`
/// has the mean and standard deviation of the training images.
nlohmann::ordered_json begin_line(const Config& config, const Learner& learner,
                                  const Normalisation& of_data, double passes);
nlohmann::ordered_json epoch_line(const EpochReport& report);
/// The run goes on from step `to_step`. `found`: what is wrong with the step, in words.
nlohmann::ordered_json rollback_line(const BadStep& bad, int64_t to_step, const std::string& found);
/// `during`: "training" or "evaluation".
nlohmann::ordered_json gave_up_line(const BadStep& bad, const char* during);
/// "end": the result and what the report draws beside it.
nlohmann::ordered_json end_line(const TrainResult& result);

/// Takes out what a run that goes on from a checkpoint will write again: all but its beginning, its
/// rollbacks and its epochs up to `recorded_step`.
void forget_metrics_after(const RunFolder& run, int64_t recorded_step);

}  // namespace skipway
