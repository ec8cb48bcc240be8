// Learning-rate schedules as pure functions of the step. "plateau" alone needs the evaluations so
// far.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace skipway {

enum class ScheduleKind { kLinear, kCosine, kStep, kMultistep, kOneCycle, kPlateau };

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::kLinear;
  double lr = 0.1;             // the peak
  double warmup_fraction = 0;  // share of the run in which lr rises linearly from
                               // lr * warmup_start (linear) or 0 (others); onecycle: pct_start, 0
                               // meaning 0.3
  double warmup_start = 0.04;
  double final_fraction = 0;  // linear and cosine end at lr * final_fraction
  double t_max_epochs = 0;    // cosine: epochs of half a period after the warm-up, then it rises
                              // again; 0: what is left of the run
  double step_epochs = 30;    // step: decay every this many epochs
  std::vector<double> milestones{};  // multistep: epochs
  double gamma = 0.1;                // step, multistep, plateau
  int64_t patience = 10;             // plateau: evaluations without improvement
  bool per_epoch =
      false;  // true: the rate changes only between epochs, as torch's epoch-wise schedulers do
};

/// Share of the peak rate above which a run has not annealed at its end.
constexpr double kStillHigh = 0.3;

/// Share of the rate that the warm-up lets through, step by step whatever `per_epoch`; in [0, 1].
double warmup_share(const ScheduleOptions& options, double progress_epochs, double total_epochs);

/// Rate of a step. `progress_epochs` = epochs done before this step (fraction allowed),
/// `total_epochs` = the run's length [epochs], which may change from call to call;
/// `epochs_per_step` = length of a step [epochs], which onecycle needs to end at the last step (not
/// after it) as torch does. Decays of step and multistep count from the start of the run, warm-up
/// or not. Agrees with torch.optim.lr_scheduler's CosineAnnealingLR, StepLR, MultiStepLR,
/// OneCycleLR (cos, momentum fixed) and LinearLR at every step. Errors: kInternal for plateau.
double learning_rate(const ScheduleOptions& options, double progress_epochs, double total_epochs,
                     double epochs_per_step = 0);

/// What leaves the rate high at the end of a run of `length` epochs, a line each; `by_time`: that
/// length is not known beforehand.
std::vector<std::string> schedule_warnings(const ScheduleOptions& options, double length,
                                           bool by_time);

/// ReduceLROnPlateau (mode max, threshold 1e-4 relative) over the accuracies so far -> the rate
/// from now on, before warmup_share().
double plateau_learning_rate(const ScheduleOptions& options, const std::vector<double>& accuracies);

/// Errors: kUsage that lists the names.
ScheduleKind parse_schedule(const std::string& name);

}  // namespace skipway
