// The training run: from a data set and a Config to better weights, a run folder and a result.
// Prints nothing.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/model.h"
#include "record/checkpoint.h"
#include "record/run_folder.h"
#include "record/tensorboard.h"
#include "train/budget.h"
#include "train/config.h"
#include "train/evaluate.h"
#include "train/learner.h"
#include "train/metrics.h"
#include "train/schedule.h"
#include "train/trouble.h"

namespace skipway {

struct TrainHooks {
  std::function<void(const StepReport&)> on_step;  // each may be empty
  std::function<void(const EpochReport&)> on_epoch;
  std::function<void(int64_t done, int64_t all)> on_evaluate;  // images
  std::function<int()> stop_signal;                            // not 0: save and stop
  int64_t steps_unread = 0;  // between two looks at the loss; 0: as the device likes it
  // A checkpoint of ResNet-18 takes some 0.3 s to write: once in two minutes it costs a quarter of
  // a percent.
  double save_every_s = 120;
};

class Trainer {
 public:
  /// `config_toml` is what a checkpoint keeps of the configuration. Validation images are taken out
  /// of `dataset` here. Errors: kUsage, kData, kDevice when configuration, data and machine do not
  /// go together.
  Trainer(const Config& config, std::string config_toml, Dataset dataset, RunFolder run,
          TrainHooks hooks);

  /// Goes back to the state of the run folder's last checkpoint. Errors: kCheckpoint, also when the
  /// settings (where data is, device and threads apart) or the data's labels are not the run's.
  void restore();

  /// Trains to the end, evaluates, writes the run folder. A loss or gradient that is not finite, or
  /// a loss far above guessing (on a GPU after some steps), is seen before it reaches the weights:
  /// the run then goes back to its last checkpoint (a few minutes at most) and on at half the rate,
  /// three times; after that it writes the folder `trouble`. Errors: kUsage when the minutes are
  /// too few for a step; kDiverged (the last good state stays saved), kDisk.
  TrainResult run();

  const Model& model() const { return *learner_.model; }
  const Dataset& dataset() const { return dataset_; }
  const Learner& learner() const { return learner_; }

 private:
  void warn_of_flaws() const;
  AugmentOptions augmentation() const;
  void train_to_the_end();
  std::optional<TrainResult> conclude();
  void record_beginning();
  void train_steps();
  int64_t steps_unread() const;
  Batch batch_of(int64_t step);
  void update(int64_t step, const at::Tensor& skip);
  bool has_diverged(const LossAndNorm& seen, double mean_loss) const;
  BadStep bad_step(int64_t step, const LossAndNorm& seen) const;
  // `found`: what is wrong with the step, in words.
  void roll_back(BadStep bad, const std::string& found);
  Checkpoint state_before(int64_t step) const;
  [[noreturn]] void give_up(const BadStep& bad, const std::string& found);
  Breakdown record_trouble(const BadStep& bad);
  void record_step(const LossAndNorm& seen, double lr, double step_s);
  void end_epoch(std::optional<Evaluation> evaluation);
  void plan();
  void lay_out();
  void take_views(int64_t views);
  void measure_evaluation_again();
  void enter_stage();
  Evaluation evaluate_now(int64_t views);
  std::optional<Evaluation> evaluate_if_due();
  // What is not finite, so that nothing was kept; empty: it was.
  std::string save(const NamedTensors& model_state);
  std::string save() { return save(model().state()); }
  void require_settings(const Checkpoint& checkpoint) const;
  nlohmann::json go_to(const Checkpoint& checkpoint);
  TrainResult result(const Evaluation& last) const;

  StepReport step_report() const;
  double learning_rate_at(int64_t step) const;
  double loss_of_guessing() const;  // [nats]
  double images_per_s() const;      // median over the steps
  double epochs(int64_t steps) const;
  double run_wall_s() const;
  int stop_signal() const { return hooks_.stop_signal ? hooks_.stop_signal() : 0; }
  bool at_epoch_end() const { return progress_.step % learner_.batches.steps_per_epoch() == 0; }
  bool epoch_is_unrecorded() const {
    return at_epoch_end() && progress_.recorded_step < progress_.step && !finished();
  }
  bool finished() const { return progress_.step >= total_steps_; }

  // What a run is made of.
  Config config_;
  std::string config_toml_;
  Dataset dataset_;
  Split evaluation_split_;
  RunFolder run_;
  TrainHooks hooks_;
  Learner learner_;
  ScheduleOptions schedule_;
  std::vector<Stage> stages_;
  Budget budget_;
  TensorBoardWriter tensorboard_;

  // Where it stands; a checkpoint keeps all of it.
  struct Progress {
    int64_t step = 0;           // steps done
    int64_t recorded_step = 0;  // of the last line in metrics.jsonl
    double epoch_loss_sum = 0;  // of the running epoch, sum over images
    double epoch_norm_sum = 0;  // the same of the gradients' norm
    int64_t epoch_images = 0;
    double mean_loss = 0;  // of the recent steps [nats]
    double lr = 0;         // of the last step
    double lr_factor = 1;  // of the scheduled rate; halved by each rollback
    int64_t rollbacks = 0;
    size_t stage = 0;
    double train_wall_s = 0;
    double images_per_s = 0;         // of the processes before a resume
    std::vector<double> accuracies;  // of every evaluation so far
    double best = 0, best_epoch = 0;
    double passes = 0;            // that the run affords; 0 while it is not known
    int64_t rolled_back_to = -1;  // step
    NLOHMANN_DEFINE_TYPE_INTRUSIVE(Progress, step, recorded_step, epoch_loss_sum, epoch_norm_sum,
                                   epoch_images, mean_loss, lr, lr_factor, rollbacks, stage,
                                   train_wall_s, images_per_s, accuracies, best, best_epoch, passes,
                                   rolled_back_to)
  } progress_;
  int64_t total_steps_;        // as planned now
  double stage_total_ = 0;     // the same, as steady_length() has it
  double earlier_wall_s_ = 0;  // of processes before a resume
  double saved_at_s_ = 0;
  int64_t saved_step_ = -1;                // of last.safetensors, as far as this process knows
  std::vector<double> step_images_per_s_;  // of this process
  int64_t steps_of_process_ = 0;
  bool evaluation_measured_again_ = false;
  double test_s_ = 0;       // of an evaluation during the run
  int64_t tests_left_ = 0;  // of them, until the run ends
};

}  // namespace skipway
