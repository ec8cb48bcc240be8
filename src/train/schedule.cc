// The arithmetic of the schedules, each in torch's closed form.
#include "train/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "base/error.h"

namespace skipway {
namespace {

// torch.optim.lr_scheduler.OneCycleLR's defaults.
constexpr double kDivFactor = 25;
constexpr double kFinalDivFactor = 1e4;
constexpr double kPctStart = 0.3;

// torch.optim.lr_scheduler.ReduceLROnPlateau's defaults.
constexpr double kThreshold = 1e-4;
constexpr double kSmallestDecay = 1e-8;

constexpr std::array<std::pair<const char*, ScheduleKind>, 6> kNames{
    {{"linear", ScheduleKind::kLinear},
     {"cosine", ScheduleKind::kCosine},
     {"step", ScheduleKind::kStep},
     {"multistep", ScheduleKind::kMultistep},
     {"onecycle", ScheduleKind::kOneCycle},
     {"plateau", ScheduleKind::kPlateau}}};

// Share of `whole` that `part` is, in [0, 1]; an empty whole is done.
double share(double part, double whole) {
  return whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 1.0;
}

double line(double from, double to, double t) { return from + (to - from) * t; }

double half_cosine(double from, double to, double t) {
  return line(to, from, (1 + std::cos(std::numbers::pi * t)) / 2);
}

double one_cycle(const ScheduleOptions& options, double progress, double total, double step) {
  const double pct_start = options.warmup_fraction > 0 ? options.warmup_fraction : kPctStart;
  const double start = options.lr / kDivFactor;
  const double peak_at = pct_start * total - step;
  if (progress < peak_at) return half_cosine(start, options.lr, progress / peak_at);
  return half_cosine(options.lr, start / kFinalDivFactor,
                     share(progress - peak_at, total - step - peak_at));
}

}  // namespace

double warmup_share(const ScheduleOptions& options, double progress_epochs, double total_epochs) {
  const double warmup = options.warmup_fraction * total_epochs;
  return progress_epochs < warmup ? progress_epochs / warmup : 1.0;
}

double learning_rate(const ScheduleOptions& options, double progress_epochs, double total_epochs,
                     double epochs_per_step) {
  const double progress = options.per_epoch ? std::floor(progress_epochs) : progress_epochs;
  const double warmup = options.warmup_fraction * total_epochs;
  const double after_warmup = std::max(0.0, progress - warmup);
  const double lr = options.lr, final_lr = options.lr * options.final_fraction;
  const double rise = warmup_share(options, progress_epochs, total_epochs);

  switch (options.kind) {
    case ScheduleKind::kLinear:
      if (rise < 1) return line(lr * options.warmup_start, lr, rise);
      return line(lr, final_lr, share(after_warmup, total_epochs - warmup));
    case ScheduleKind::kCosine:
      if (rise < 1) return lr * rise;
      return half_cosine(lr, final_lr,
                         options.t_max_epochs > 0 ? after_warmup / options.t_max_epochs
                                                  : share(after_warmup, total_epochs - warmup));
    case ScheduleKind::kStep:
      return lr * rise * std::pow(options.gamma, std::floor(progress / options.step_epochs));
    case ScheduleKind::kMultistep: {
      const auto passed = std::count_if(options.milestones.begin(), options.milestones.end(),
                                        [&](double milestone) { return milestone <= progress; });
      return lr * rise * std::pow(options.gamma, static_cast<double>(passed));
    }
    case ScheduleKind::kOneCycle:
      return one_cycle(options, progress, total_epochs, options.per_epoch ? 1.0 : epochs_per_step);
    case ScheduleKind::kPlateau:
      break;
  }
  fail(ErrorKind::kInternal, "schedule",
       "expected a schedule that is a function of the step, got plateau; call "
       "plateau_learning_rate");
}

double plateau_learning_rate(const ScheduleOptions& options,
                             const std::vector<double>& accuracies) {
  double lr = options.lr, best = -std::numeric_limits<double>::infinity();
  int64_t bad = 0;
  for (double accuracy : accuracies) {
    if (accuracy > best * (1 + kThreshold)) {
      best = accuracy;
      bad = 0;
    } else if (++bad > options.patience) {
      const double decayed = lr * options.gamma;
      if (lr - decayed > kSmallestDecay) lr = decayed;
      bad = 0;
    }
  }
  return lr;
}

ScheduleKind parse_schedule(const std::string& name) {
  for (const auto& [known, kind] : kNames)
    if (name == known) return kind;
  fail(ErrorKind::kUsage, "schedule",
       "expected linear, cosine, step, multistep, onecycle or plateau, got \"{}\" at --schedule",
       name);
}

std::vector<std::string> schedule_warnings(const ScheduleOptions& o, double length, bool by_time) {
  std::vector<std::string> warnings;
  const double fall = length * (1 - o.warmup_fraction);
  if (o.kind == ScheduleKind::kCosine && o.t_max_epochs > 0) {
    const double last = learning_rate(o, length, length);
    if (last > kStillHigh * o.lr)
      warnings.push_back(fmt::format(
          "the cosine schedule has --t-max {:g} but the run has {:.4g} epochs for it: the rate {} "
          "{:.3g}, which costs several points of accuracy; --t-max {:g} ends at --final-lr",
          o.t_max_epochs, fall,
          o.t_max_epochs < fall ? "rises again and ends at" : "never anneals and stops at", last,
          by_time ? 0 : fall));  // 0: at the end, whenever that is
  }
  const bool by_step = o.kind == ScheduleKind::kStep;
  if (!by_step && o.kind != ScheduleKind::kMultistep) return warnings;
  const double first_decay = by_step ? o.step_epochs : *std::ranges::min_element(o.milestones);
  if (first_decay >= length)
    warnings.push_back(fmt::format(
        "the {} schedule first decays at epoch {:g} but the run has {:.4g} epochs: the rate stays "
        "at its peak, which costs several points of accuracy; give earlier {}",
        by_step ? "step" : "multistep", first_decay, length,
        by_step ? "--step-epochs" : "--milestones"));
  return warnings;
}

}  // namespace skipway
