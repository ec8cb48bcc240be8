#include "train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "model/device.h"
#include "record/checkpoint.h"
#include "train/freeze.h"
#include "train/plan.h"
#include "train/same_run.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

// The first steps of a process compile oneDNN's kernels and fault memory in.
constexpr int64_t kWarmupSteps = 2;
constexpr int64_t kTensorBoardEvery = 10;  // steps
constexpr double kMostForMeasuring = 0.5;  // of the training that is left

constexpr int64_t kMaxRollbacks = 3;  // of a run
constexpr double kRollbackFactor = 0.5;
// A mean loss that is so many times that of guessing does not come back by itself. One bad batch
// does not move the mean so far.
constexpr double kDivergedAt = 10;
constexpr double kMeanWeight = 0.1;  // of a step in the mean
// A GPU works ahead of the program: to look at its numbers is to wait for it.
constexpr int64_t kStepsUnread = 10;

double mean_with(double mean, double loss) { return (1 - kMeanWeight) * mean + kMeanWeight * loss; }

// A NaN has a sign, which says nothing.
std::string shown(double value) { return std::isnan(value) ? "nan" : fmt::format("{:.4g}", value); }

[[noreturn]] void fail_reading_progress(const std::string& run, std::string_view reason) {
  fail(ErrorKind::kCheckpoint, "train",
       "expected a checkpoint of this version, got progress in {} that could not be read: {}", run,
       reason);
}

nlohmann::json progress_of(const Checkpoint& checkpoint, const std::string& run) {
  const auto progress = checkpoint.metadata.find("progress");
  if (progress == checkpoint.metadata.end())
    fail(ErrorKind::kCheckpoint, "train",
         "expected a checkpoint with the key \"progress\", got one without it in {}; it was not "
         "written by a training run, so it cannot be resumed",
         run);
  auto state = parse_json<nlohmann::json>(progress->second);
  if (!state.is_object() || !state.contains("step") || !state.at("step").is_number_integer())
    fail_reading_progress(run, "no step");
  return state;
}

// The model's state as it is now, also after a forward pass, which changes BatchNorm's statistics,
// and until an update.
NamedTensors state_before_forward(const Model& model) {
  NamedTensors state = model.state();
  for (auto& [name, tensor] : state)
    if (!tensor.requires_grad()) tensor = tensor.detach().clone();
  return state;
}

}  // namespace

Trainer::Trainer(const Config& config, std::string config_toml, Dataset dataset, RunFolder run,
                 TrainHooks hooks)
    : config_(config),
      config_toml_(std::move(config_toml)),
      dataset_(std::move(dataset)),
      evaluation_split_(take_evaluation_split(config_, dataset_)),
      run_(std::move(run)),
      hooks_(std::move(hooks)),
      learner_(config_, dataset_),
      schedule_(schedule_options(config_, config_.epochs)),
      stages_(stages(config_, model().spec().image_size, config_.epochs)),
      budget_(make_budget(config_, stages_, learner_.batches.steps_per_epoch())),
      tensorboard_(run_.tensorboard()),
      total_steps_(budget_.total_steps(0, 0, 0)) {
  progress_.passes = config_.epochs;
  progress_.mean_loss = loss_of_guessing();
  if (!budget_.by_time()) warn_of_flaws();  // else once the length is known
}

void Trainer::warn_of_flaws() const {
  const double length = budget_.by_time() ? epochs(total_steps_) : config_.epochs;
  for (const std::string& warning : schedule_warnings(schedule_, length, budget_.by_time()))
    log_warning("{}", warning);
  for (const std::string& warning : augment_warnings(augmentation(), model().spec().image_size))
    log_warning("{}", warning);
}

AugmentOptions Trainer::augmentation() const {
  return augment_options(config_, progress_.passes, model().spec().image_size);
}

TrainResult Trainer::run() {
  saved_at_s_ = run_wall_s();
  if (budget_.by_time()) plan();
  if (progress_.step == 0 && progress_.rollbacks == 0) {
    record_beginning();
    save();  // what the first epochs can go back to
  }
  train_to_the_end();
  const bool saved = save().empty();
  if (!stop_signal())
    if (std::optional<TrainResult> done = conclude()) return *std::move(done);
  TrainResult so_far = result({});
  so_far.state_is_saved = saved;
  return so_far;
}

// Unless it is stopped before.
void Trainer::train_to_the_end() {
  while (!stop_signal()) {
    if (epoch_is_unrecorded()) {
      const auto evaluation = evaluate_if_due();
      // It may have been cut short; a resumed run does it again.
      if (!(evaluation && stop_signal())) end_epoch(evaluation);
    } else if (!finished()) {
      train_steps();
    } else {
      break;
    }
  }
}

// The evaluation and the files that end the run; none where it is stopped before them.
std::optional<TrainResult> Trainer::conclude() {
  const EmaScope average(learner_.ema);
  // As in the last step, also where that was another process's.
  freeze_at(epochs(progress_.step - 1), config_, *learner_.model);
  learner_.retake_batch_norm(progress_.step,
                             images_for_batch_norm(config_, learner_, progress_.passes),
                             [this] { return stop_signal() != 0; });
  if (stop_signal()) return std::nullopt;
  const Evaluation last = evaluate_now(views_of(config_));
  if (stop_signal()) return std::nullopt;
  if (!std::isfinite(last.loss)) {
    run_.append_metrics(gave_up_line(bad_step(progress_.step, {last.loss, NAN}), "evaluation"));
    fail(ErrorKind::kDiverged, "train",
         "expected a finite loss in the evaluation, got {} after step {}; the last good state is "
         "in {}; lower --lr",
         last.loss, progress_.step, run_.last().string());
  }
  end_epoch(last);
  const std::string weights_sha256 = save_model(run_, model());
  TrainResult done = result(last);
  done.stop_signal = 0;  // a signal that comes now is too late to stop anything
  done.weights_sha256 = weights_sha256;
  run_.append_metrics(end_line(done));
  return done;
}

void Trainer::record_beginning() {
  const ModelSpec& spec = model().spec();
  const Normalisation of_data = configured_normalisation(config_)
                                    ? channel_statistics(dataset_.train.images)
                                    : spec.normalisation;
  // A resumed run no longer knows of weights that it began with.
  if (earlier_wall_s_ == 0 && config_.weights.empty() &&
      !normalisation_fits(spec.normalisation, of_data))
    log_warning(
        "mean {:.3f} and std {:.3f} are those of other images: these have {:.3f} and {:.3f}; "
        "--mean auto --std auto takes them",
        fmt::join(spec.normalisation.mean, ","), fmt::join(spec.normalisation.std, ","),
        fmt::join(of_data.mean, ","), fmt::join(of_data.std, ","));
  write_file_atomic(run_.metrics_jsonl(), "");  // of a start that was killed before its first save
  nlohmann::ordered_json line = begin_line(config_, learner_, of_data, progress_.passes);
  if (dataset_.test_from_train) line["test_names_sha256"] = names_sha256(dataset_.test);
  run_.append_metrics(line);
}

// A step on a CPU; on a GPU some, between which nothing waits for it. The last of them changes the
// weights only when all have been looked at. Those before it look at themselves on the device: from
// the first that is not finite on, none changes anything.
void Trainer::train_steps() {
  const Stopwatch watch;
  enter_stage();
  const bool is_save_due = run_wall_s() - saved_at_s_ > hooks_.save_every_s;
  const NamedTensors before = is_save_due ? state_before_forward(model()) : NamedTensors();
  const int64_t first = progress_.step, last = first + (is_save_due ? 1 : steps_unread()) - 1;
  std::vector<at::Tensor> numbers;
  std::vector<double> rates;
  at::Tensor skip;
  for (int64_t step = first; step <= last; ++step) {
    numbers.push_back(learner_.backward_unread(batch_of(step)));
    rates.push_back(learning_rate_at(step));
    if (step == last) break;
    const at::Tensor broken = at::isfinite(numbers.back()).all().logical_not().to(at::kFloat);
    skip = skip.defined() ? at::maximum(skip, broken) : broken;
    update(step, skip);
  }
  const std::vector<LossAndNorm> seen = read_losses(numbers);
  double mean_loss = progress_.mean_loss;
  for (size_t i = 0; i < seen.size(); ++i) {
    mean_loss = mean_with(mean_loss, seen[i].loss);
    if (has_diverged(seen[i], mean_loss))
      return roll_back(
          bad_step(first + static_cast<int64_t>(i), seen[i]),
          fmt::format("loss {}, gradient norm {}", shown(seen[i].loss), shown(seen[i].norm)));
  }
  double saving_s = 0;
  if (is_save_due) {  // weights whose loss has just been seen: the update may spoil them
    const Stopwatch saving;
    const std::string not_finite = save(before);
    if (!not_finite.empty())
      return roll_back(bad_step(last, seen.back()),
                       fmt::format("{} that is not finite", not_finite));
    saving_s = saving.seconds();
  }
  update(last, {});
  const double step_s = (watch.seconds() - saving_s) / static_cast<double>(seen.size());
  for (size_t i = 0; i < seen.size(); ++i) record_step(seen[i], rates[i], step_s);
}

int64_t Trainer::steps_unread() const {
  int64_t steps = hooks_.steps_unread;
  if (steps == 0) steps = learner_.device.is_cpu() ? 1 : kStepsUnread;
  const int64_t per_epoch = learner_.batches.steps_per_epoch();
  return std::min({steps, per_epoch - progress_.step % per_epoch, total_steps_ - progress_.step});
}

Batch Trainer::batch_of(int64_t step) {
  return learner_.batches.at_step(step, stages_[progress_.stage].side);
}

void Trainer::update(int64_t step, const at::Tensor& skip) {
  learner_.update(learning_rate_at(step), skip);
  learner_.ema.update(step + 1, total_steps_);
}

bool Trainer::has_diverged(const LossAndNorm& seen, double mean_loss) const {
  return !std::isfinite(seen.loss) || !std::isfinite(seen.norm) ||
         mean_loss > kDivergedAt * loss_of_guessing();
}

BadStep Trainer::bad_step(int64_t step, const LossAndNorm& seen) const {
  return {.step = step,
          .epoch = epochs(step),
          .loss = seen.loss,
          .grad_norm = seen.norm,
          .lr = learning_rate_at(step),
          .lr_factor = progress_.lr_factor,
          .rollbacks = progress_.rollbacks};
}

void Trainer::roll_back(BadStep bad, const std::string& found) {
  if (bad.rollbacks >= kMaxRollbacks) give_up(bad, found);
  ++bad.rollbacks;
  bad.lr_factor *= kRollbackFactor;
  const double train_wall_s = progress_.train_wall_s;
  learner_.optimizer.clear_gradients();
  go_to(state_before(bad.step));
  progress_.rolled_back_to = progress_.step;
  progress_.train_wall_s = train_wall_s;  // it was spent
  progress_.rollbacks = bad.rollbacks;
  progress_.lr_factor = bad.lr_factor;
  log_warning(
      "{} at step {} with rate {:.4g}: back to step {}, with {:g} times the rate from here on "
      "(rollback {} of {})",
      found, bad.step, bad.lr, progress_.step, bad.lr_factor, bad.rollbacks, kMaxRollbacks);
  run_.append_metrics(rollback_line(bad, progress_.step, found));
  save();
}

// A stop may have kept weights whose loss nobody had seen, and a loss that grows may have been kept
// on its way: what gave the step that diverged, or has been gone back to, is not gone back to
// again.
Checkpoint Trainer::state_before(int64_t step) const {
  Checkpoint last = load_checkpoint(run_);
  const int64_t saved_step = progress_of(last, run_.path().string()).at("step");
  if (saved_step != step && saved_step != progress_.rolled_back_to) return last;
  std::optional<Checkpoint> previous = load_previous_checkpoint(run_);
  return previous ? *std::move(previous) : std::move(last);
}

void Trainer::give_up(const BadStep& bad, const std::string& found) {
  std::string first;
  try {
    first = fmt::format("{}; the batch is in {}, ", describe(record_trouble(bad)),
                        run_.trouble().string());
  } catch (const std::exception& error) {  // must not hide why the run ends
    log_warning("no {}: {}", run_.trouble().string(), error.what());
  }
  fail(ErrorKind::kDiverged, "train",
       "expected a loss that stays finite and falls, got {} at step {} (epoch {:.2f}, rate "
       "{:.4g}), after {} rollbacks; {}the last good state is in {}. Clip with --clip-grad-norm 1, "
       "see with `skipway data check` whether mean "
       "and std fit the images, lower --lr",
       found, bad.step, bad.epoch, bad.lr, bad.rollbacks, first, run_.last().string());
}

Breakdown Trainer::record_trouble(const BadStep& bad) {
  run_.append_metrics(gave_up_line(bad, "training"));
  const Batch batch = batch_of(bad.step);
  Breakdown breakdown;
  for (const Batch& part : learner_.parts_of(batch)) {  // for all at once memory may not suffice
    breakdown = find_breakdown(*learner_.model, learner_.batches.input(part), part.labels,
                               learner_.precision);
    if (!breakdown.where.empty()) break;
  }
  nlohmann::ordered_json facts = {{"schema", "skipway.trouble/1"}};
  facts.update(to_json(bad));
  write_trouble(run_, std::move(facts), breakdown, batch, dataset_);
  return breakdown;
}

double Trainer::loss_of_guessing() const {
  return std::log(static_cast<double>(std::max<int64_t>(2, model().spec().num_classes)));
}

void Trainer::record_step(const LossAndNorm& seen, double lr, double step_s) {
  const int64_t images = learner_.batches.images_before(progress_.step + 1) -
                         learner_.batches.images_before(progress_.step);
  if (progress_.step % learner_.batches.steps_per_epoch() == 0)
    progress_.epoch_loss_sum = progress_.epoch_norm_sum = 0, progress_.epoch_images = 0;
  progress_.epoch_loss_sum += seen.loss * static_cast<double>(images);
  progress_.epoch_norm_sum += seen.norm * static_cast<double>(images);
  progress_.epoch_images += images;
  progress_.mean_loss = mean_with(progress_.mean_loss, seen.loss);
  progress_.lr = lr;
  progress_.train_wall_s += step_s;
  ++progress_.step;

  if (steps_of_process_ == 0) {  // the first step chose them
    const std::string counts = model().kernels().counts();
    log_info("kernel: {}{}", learner_.kernel(),
             counts.empty() ? "" : fmt::format("; shapes of convolutions: {}", counts));
  }
  // A short last batch of an epoch says little about the time of the others.
  const bool is_full = images == learner_.batches.images_per_step();
  if (is_full) step_images_per_s_.push_back(static_cast<double>(images) / step_s);
  // Of a run by time steps were measured before.
  if (++steps_of_process_ > kWarmupSteps || budget_.by_time()) {
    if (is_full)
      budget_.observe_step(progress_.step - 1, progress_.stage,
                           step_s * learner_.share_of_full_step(), run_wall_s());
    lay_out();
    stage_total_ = steady_length(stage_total_, static_cast<double>(total_steps_),
                                 step_s / (2 * budget_.window_s(run_wall_s())));
    measure_evaluation_again();
  }
  const StepReport report = step_report();
  if (progress_.step % kTensorBoardEvery == 0) {
    tensorboard_.add_scalar("train/loss_of_batch", seen.loss, progress_.step);
    tensorboard_.add_scalar("train/grad_norm", seen.norm, progress_.step);
    tensorboard_.add_scalar("train/lr", report.lr, progress_.step);
    tensorboard_.add_scalar("train/images_per_s", report.images_per_s, progress_.step);
  }
  if (hooks_.on_step) hooks_.on_step(report);
}

// Steps and evaluations to come, by the clock.
void Trainer::lay_out() {
  const RunLength length = length_of_run(config_, budget_, learner_.batches.steps_per_epoch(),
                                         test_s_, progress_.step, progress_.stage, run_wall_s());
  total_steps_ = length.steps;
  tests_left_ = length.tests;
}

void Trainer::take_views(int64_t views) {
  const int64_t asked = views_of(config_);
  if (views >= asked) return;
  log_warning(
      "the evaluation takes {} in place of {} views of each image: {:g} minutes are too few", views,
      asked, config_.minutes);
  config_.tta = views > 1;
  config_.tta_shift = views > 2;
}

// How long the evaluation takes beside a step was measured when the run began, in a moment that may
// have been a good or a bad one. Shortly before the end it is measured again, unless that would
// take much of what is left.
void Trainer::measure_evaluation_again() {
  const double reserve_s = budget_.reserve_left_s();
  const double left_s = budget_.left_s(progress_.step, progress_.stage, total_steps_);
  if (!budget_.by_time() || evaluation_measured_again_ || left_s > 1.5 * reserve_s) return;
  evaluation_measured_again_ = true;
  const auto images = static_cast<double>(evaluation_split_.size()),
             at_once = static_cast<double>(evaluate_options(config_, learner_, /*views=*/1).batch),
             batch = std::min(at_once, images);
  const double measuring_s = Learner::kMeasuredEvaluations * batch / images * reserve_s /
                             static_cast<double>(views_of(config_));
  if (measuring_s > kMostForMeasuring * (left_s - reserve_s)) return;
  const double test_s = measure_test_s(config_, learner_, evaluation_split_);
  take_views(affordable_views(config_, test_s, 60 * config_.minutes - run_wall_s()));
  budget_.observe_reserve(last_evaluation_s(config_, learner_, views_of(config_), progress_.passes,
                                            test_s, budget_.step_s(INT64_MAX, stages_.size() - 1)));
  lay_out();
}

void Trainer::enter_stage() {
  const double total = std::max(stage_total_, static_cast<double>(total_steps_));
  const double done = static_cast<double>(progress_.step) / total;
  progress_.stage = stage_at(stages_, done, progress_.stage);
  learner_.model->set_shallow(stages_[progress_.stage].shallow);
  freeze_at(epochs(progress_.step), config_, *learner_.model);
}

// Lays the run out over its minutes.
void Trainer::plan() {
  Plan plan = make_plan(config_, learner_, evaluation_split_, run_wall_s(), progress_.passes,
                        progress_.stage, progress_.step, [this] { return stop_signal() != 0; });
  if (stop_signal()) return;
  progress_.passes = plan.passes;
  schedule_ = schedule_options(config_, progress_.passes);
  stages_ = std::move(plan.stages);
  budget_ = plan.budget;
  test_s_ = plan.test_s;
  take_views(plan.views);
  lay_out();
  require_steps(config_, plan, total_steps_, run_wall_s());
  warn_of_flaws();
  const double muon_lr = optimizer_options(config_, progress_.passes).muon_lr;
  log_info("plan: time for {:.2g} passes over whole images, peak rate {:g}{}", progress_.passes,
           schedule_.lr, muon_lr > 0 ? fmt::format(", filters' {:g}", schedule_.lr * muon_lr) : "");
  const int64_t crop_pad = augmentation().crop_pad;
  log_info("plan: augmentation {}{}", augment_words(config_, progress_.passes),
           crop_pad > 0 ? fmt::format(" (crops by {} pixels)", crop_pad) : "");
  for (size_t i = progress_.stage; i < stages_.size(); ++i) {
    log_info("plan: {} x {} pixels{} to epoch {:.2f}, steps of {:.3f} s", stages_[i].side,
             stages_[i].side, stages_[i].shallow ? ", first blocks" : "",
             stages_[i].end * epochs(total_steps_), plan.steps_s[i]);
  }
  if (plan.early_step_s > 0)
    log_info("plan: the first {:g} epochs in steps of {:.3f} s", early_epochs(config_),
             plan.early_step_s);
  log_info("plan: {:.2f} epochs, {} steps, then {:.0f} s of evaluation; corrected by the clock",
           epochs(total_steps_), total_steps_, plan.evaluation_s);
}

std::optional<Evaluation> Trainer::evaluate_if_due() {
  if (config_.test_every <= 0) return std::nullopt;
  const auto evaluations = [&](double epoch) {
    return std::floor(epoch / config_.test_every + 1e-9);
  };
  const double epoch = epochs(progress_.step);
  if (evaluations(epoch) == evaluations(epoch - 1)) return std::nullopt;
  if (budget_.by_time()) {
    const double left_s = 60 * config_.minutes - run_wall_s() - budget_.reserve_left_s();
    if (left_s < test_s_) {
      log_info("no evaluation after epoch {:g}: {:.0f} s of training are left, it takes {:.0f} s",
               epoch, std::max(0., left_s), test_s_);
      return std::nullopt;
    }
  }
  const Stopwatch watch;
  const EmaScope average(learner_.ema);
  const Evaluation evaluation = evaluate_now(/*views=*/1);
  if (stop_signal()) return evaluation;
  test_s_ = watch.seconds();
  lay_out();
  return evaluation;
}

Evaluation Trainer::evaluate_now(int64_t views) {
  EvaluateOptions options = evaluate_options(config_, learner_, views);
  options.cancelled = [this] { return stop_signal() != 0; };
  options.progress = [this](int64_t done) {
    if (hooks_.on_evaluate) hooks_.on_evaluate(done, evaluation_split_.size());
  };
  return evaluate(*learner_.model, evaluation_split_, options);
}

void Trainer::end_epoch(std::optional<Evaluation> evaluation) {
  EpochReport report{.step = step_report(),
                     .images = learner_.batches.images_before(progress_.step),
                     .train_wall_s = progress_.train_wall_s,
                     .wall_s = run_wall_s(),
                     .evaluation = std::move(evaluation)};
  if (report.step.images_per_s == 0)
    report.step.images_per_s = images_per_s();  // too few steps to leave some out
  tensorboard_.add_scalar("train/loss", report.step.loss, progress_.step);
  if (report.evaluation) {
    const double accuracy = report.evaluation->accuracy;
    progress_.accuracies.push_back(accuracy);
    if (accuracy > progress_.best)
      progress_.best = accuracy, progress_.best_epoch = report.step.epoch;
    tensorboard_.add_scalar("test/loss", report.evaluation->loss, progress_.step);
    tensorboard_.add_scalar("test/accuracy", accuracy, progress_.step);
  }
  run_.append_metrics(epoch_line(report));
  tensorboard_.flush();
  progress_.recorded_step = progress_.step;
  if (hooks_.on_epoch) hooks_.on_epoch(report);
}

std::string Trainer::save(const NamedTensors& model_state) {
  saved_at_s_ = run_wall_s();
  // A step may have made the weights too large for their type; the next loss shows it. What was
  // kept before is better.
  for (const auto& [name, tensor] : model_state) {
    if (at::isfinite(tensor).all().item<bool>()) continue;
    log_warning("the state after step {} is not kept: {} is not finite; what was kept before stays",
                progress_.step, name);
    return name;
  }
  Checkpoint checkpoint;
  checkpoint.model = model_state;
  checkpoint.optimizer = learner_.optimizer.state();
  checkpoint.ema = learner_.ema.state();
  checkpoint.metadata = to_metadata(model().spec());
  checkpoint.metadata["config"] = config_toml_;
  nlohmann::json state = progress_;
  state.update({{"images_per_s", images_per_s()},
                {"total_steps", total_steps_},
                {"wall_s", run_wall_s()},
                {"micro_batch", learner_.micro_batch},
                {"views", views_of(config_)},
                {"train_images", learner_.batches.image_count()},
                {"train_labels_sha256", labels_sha256(dataset_)},
                {"kernels", model().kernels().chosen()}});
  checkpoint.metadata["progress"] = state.dump();
  // Of two of the same step, one is enough: what is previous may be what the run needs.
  save_checkpoint(run_, checkpoint, /*keeps_last=*/saved_step_ != progress_.step);
  saved_step_ = progress_.step;
  return "";
}

void Trainer::restore() {
  const Checkpoint checkpoint = load_checkpoint(run_);
  require_settings(checkpoint);
  const nlohmann::json state = go_to(checkpoint);
  try {
    earlier_wall_s_ = state.at("wall_s");
    take_views(state.value("views", views_of(config_)));
    learner_.model->kernels().restore(
        state.at("kernels").get<std::map<std::string, std::string>>());
  } catch (const nlohmann::json::exception& error) {
    fail_reading_progress(run_.path().string(), error.what());
  }
}

void Trainer::require_settings(const Checkpoint& checkpoint) const {
  const auto begun = checkpoint.metadata.find("config");
  if (begun == checkpoint.metadata.end()) return;
  const std::string changed = changed_setting(begun->second, config_toml_);
  if (!changed.empty())
    fail(ErrorKind::kCheckpoint, "train",
         "expected the settings that the run began with, got another `{}` in {}; set it back, or "
         "begin a new run with it",
         changed, run_.config_toml().string());
}

nlohmann::json Trainer::go_to(const Checkpoint& checkpoint) {
  const std::string where = run_.path().string();
  nlohmann::json state = progress_of(checkpoint, where);
  try {
    if (state.at("train_images") != learner_.batches.image_count()) {
      fail(ErrorKind::kCheckpoint, "train",
           "expected the {} training images that the run in {} began with, got {} from {}; set "
           "`data` in its config.toml to where they are",
           state.at("train_images").dump(), where, learner_.batches.image_count(), dataset_.source);
    }
    if (state.at("train_labels_sha256") != labels_sha256(dataset_)) {
      fail(ErrorKind::kCheckpoint, "train",
           "expected the classes and labels that the run in {} began with, got others from {}; set "
           "`data` in its config.toml to where they are",
           where, dataset_.source);
    }
    progress_ = state.get<Progress>();
    progress_.stage = std::min(progress_.stage, stages_.size() - 1);
    total_steps_ = std::min<int64_t>(total_steps_, state.at("total_steps"));
    learner_.micro_batch = std::min<int64_t>(learner_.micro_batch, state.at("micro_batch"));
  } catch (const nlohmann::json::exception& error) {
    fail_reading_progress(where, error.what());
  }
  learner_.model->load_state(checkpoint.model, where);
  learner_.optimizer.load_state(checkpoint.optimizer, where);
  learner_.ema.load_state(checkpoint.ema, where);
  forget_metrics_after(run_, progress_.recorded_step);
  tensorboard_.forget_from(std::max(progress_.recorded_step + 1, progress_.step));
  saved_step_ = progress_.step;
  return state;
}

StepReport Trainer::step_report() const {
  StepReport report;
  report.step = progress_.step;
  report.total_steps = total_steps_;
  report.epoch = epochs(progress_.step);
  report.total_epochs = epochs(total_steps_);
  if (progress_.epoch_images > 0) {
    const auto images = static_cast<double>(progress_.epoch_images);
    report.loss = progress_.epoch_loss_sum / images;
    report.grad_norm = progress_.epoch_norm_sum / images;
  }
  report.lr = progress_.lr;
  const double step_s = budget_.step_s(progress_.step - 1, progress_.stage);
  if (step_s > 0) {
    report.images_per_s = learner_.batches.mean_images_per_step() / step_s;
    report.eta_s = budget_.left_s(progress_.step, progress_.stage, total_steps_) +
                   static_cast<double>(tests_left_) * test_s_;
  }
  return report;
}

TrainResult Trainer::result(const Evaluation& last) const {
  TrainResult result;
  result.stop_signal = stop_signal();
  result.run = run_.path().string();
  result.model = model().spec().name;
  result.dataset = dataset_.name;
  result.recipe = config_.recipe;
  result.split = config_.val_split > 0 ? "validation" : "test";
  result.epochs = epochs(progress_.step);
  result.images = learner_.batches.images_before(progress_.step);
  result.wall_s = run_wall_s();
  result.train_wall_s = progress_.train_wall_s;
  result.images_per_s = images_per_s();
  result.last = last;
  result.best = progress_.best;
  result.best_epoch = progress_.best_epoch;
  result.classes = dataset_.classes;
  result.device = learner_.device.str();
  result.precision = precision_name(learner_.precision);
  result.kernel = learner_.kernel();
  result.kernels = model().kernels().chosen();
  result.threads = at::get_num_threads();
  result.peak_rss_bytes = peak_rss_bytes();
  return result;
}

double Trainer::images_per_s() const {
  // The first steps are slower; where there are no others, they are all that is known.
  std::vector<double> steps = step_images_per_s_;
  if (steps.size() > kWarmupSteps) steps.erase(steps.begin(), steps.begin() + kWarmupSteps);
  return steps.empty() ? progress_.images_per_s : median(std::move(steps));
}

double Trainer::learning_rate_at(int64_t step) const {
  const double planned =
      schedule_.kind == ScheduleKind::kPlateau
          ? plateau_learning_rate(schedule_, progress_.accuracies) *
                warmup_share(schedule_, epochs(step), epochs(total_steps_))
          : learning_rate(schedule_, epochs(step), epochs(total_steps_), epochs(1));
  return progress_.lr_factor * planned;
}

double Trainer::epochs(int64_t steps) const {
  return static_cast<double>(steps) / static_cast<double>(learner_.batches.steps_per_epoch());
}

double Trainer::run_wall_s() const { return earlier_wall_s_ + process_wall_s(); }

}  // namespace skipway
