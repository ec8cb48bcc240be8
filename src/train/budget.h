// How many steps a run has: fixed by --epochs, or laid out over --minutes and corrected by the
// clock. Knows no model and reads no clock.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>

namespace skipway {

class Budget {
 public:
  /// A run of a fixed number of steps.
  static Budget of_steps(int64_t steps);
  /// A run whose training must leave `reserve_steps` step times free of `seconds`, for what comes
  /// after it. Both clocks of this class are seconds of the whole run: loading, training,
  /// evaluating, and earlier parts of a resumed run.
  static Budget of_seconds(double seconds);

  bool by_time() const { return seconds_ > 0; }
  /// Tells the time of a training step [s]. The first steps of a process, which are slower, are
  /// better left out.
  void observe_step(double step_s);
  /// What comes after training, in units of a training step: evaluation slows down with the machine
  /// as training does.
  void set_reserve(double steps, double seconds) {
    reserve_steps_ = steps;
    reserve_s_ = seconds;
  }
  /// Steps of the run in all, as it looks after `step` steps at `now_s`. At least `step`. Before
  /// the first observation: INT64_MAX.
  int64_t total_steps(int64_t step, double now_s) const;
  /// Mean time of the recent steps [s]; 0 before the first observation.
  double step_s() const;

 private:
  // Enough to average out single slow steps, short enough to notice within half a minute that a
  // core was taken away.
  static constexpr size_t kWindow = 24;

  double seconds_ = 0;
  int64_t fixed_steps_ = 0;
  double reserve_steps_ = 0;
  double reserve_s_ = 0;
  std::deque<double> recent_;
};

}  // namespace skipway
