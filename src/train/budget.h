// How many steps a run has: fixed by --epochs, or laid out over --minutes and corrected by the
// clock. Knows no model and reads no clock.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace skipway {

/// Steps that cost alike, up to a share of all steps.
struct BudgetPart {
  double end = 1;   // share of the run's steps
  double cost = 1;  // of a step, in a unit that all parts have in common
};

class Budget {
 public:
  /// A run of a fixed number of steps.
  static Budget of_steps(int64_t steps, std::vector<BudgetPart> parts = {{}});
  /// A run that ends after `seconds`. Both clocks of this class are seconds of the whole run:
  /// loading, training, evaluating, and earlier parts of a resumed run.
  static Budget of_seconds(double seconds, std::vector<BudgetPart> parts = {{}});

  bool by_time() const { return seconds_ > 0; }
  /// Of recent steps [s], by which the length of the run is judged: an eighth of the time that is
  /// left at `now_s`, so that a busy minute early in a long run changes little, and the last ones
  /// follow the clock.
  double window_s(double now_s) const {
    if (!by_time()) return 30;
    return std::clamp((seconds_ - now_s) / 8, std::min(30., seconds_ / 30), 300.);
  }
  /// Better known costs of a step, one a part.
  void set_costs(const std::vector<double>& costs);
  /// The first `steps` of a run cost `factor` times what later ones of their part do.
  void set_early_steps(double steps, double factor) {
    early_steps_ = steps;
    early_factor_ = factor;
  }
  /// Tells the time of a training step [s] that ended at `now_s`. The first steps of a process,
  /// which are slower, are better left out.
  void observe_step(int64_t step, size_t part, double step_s, double now_s);
  /// What comes after training: `cost` in the unit of the steps', because evaluation slows down
  /// with the machine as training does, and seconds.
  void set_reserve(double cost, double seconds) {
    reserve_cost_ = cost;
    reserve_s_ = seconds;
  }
  /// The first of them measured anew [s], at the speed of the recent steps.
  void observe_reserve(double seconds) { reserve_cost_ = seconds / seconds_of_cost(); }
  /// Steps of the run in all, as it looks after `step` steps, in `part`, at `now_s`. At least
  /// `step`. Before the first observation: INT64_MAX.
  int64_t total_steps(int64_t step, size_t part, double now_s) const;
  /// Time of a step, after the recent ones [s]; 0 before the first observation.
  double step_s(int64_t step, size_t part) const {
    return parts_[part].cost * early_factor(step) * seconds_of_cost();
  }
  /// Until the end of a run of `total` steps, what comes after training included [s].
  double left_s(int64_t step, size_t part, int64_t total) const;
  /// The part of left_s() that comes after training [s].
  double reserve_left_s() const { return seconds_of_cost() * reserve_cost_ + reserve_s_; }

 private:
  double early_factor(int64_t step) const {
    return static_cast<double>(step) < early_steps_ ? early_factor_ : 1;
  }
  double seconds_of_cost() const;  // mean of the recent steps
  double cost_left(double step, size_t part, double total) const;

  // How many recent steps count: those of window_s(), and so many. Enough that seconds in which
  // something else ran do not look like the run's end, few enough to notice that a core was taken
  // away.
  static constexpr size_t kFewest = 8, kMost = 5000;

  struct Observed {
    double seconds, of_cost;  // of the step, and of a unit of cost
  };

  double seconds_ = 0;
  int64_t fixed_steps_ = 0;
  std::vector<BudgetPart> parts_;
  double early_steps_ = 0;
  double early_factor_ = 1;
  double reserve_cost_ = 0;
  double reserve_s_ = 0;
  std::deque<Observed> recent_;
  double recent_s_ = 0;  // of all of them
};

}  // namespace skipway
