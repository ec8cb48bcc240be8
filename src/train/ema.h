// An exponential moving average of a model's weights and statistics, which is evaluated and saved
// in their place.
#pragma once
#include "base/tensors.h"

namespace skipway {

class Ema {
 public:
  /// `state`: what is averaged; it is read and, by exchange(), written. `decay` per step, in [0,
  /// 1); 0: no average is kept and every call does nothing.
  Ema(const NamedTensors& state, double decay);

  /// After step number `step` (from 1). Every few steps it takes the state in; the average is
  /// young at first and then follows more closely.
  void update(int64_t step);
  /// The average becomes the state, and the state is kept in the average's place. Twice: nothing.
  void exchange();
  /// By the names of what is averaged; what a checkpoint keeps.
  NamedTensors state() const;
  /// Errors: kCheckpoint for missing tensors or other shapes.
  void load_state(const NamedTensors& state, const std::string& where);

 private:
  double decay_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> live_, averages_;
};

/// Keeps the average in the place of the state for as long as it lives.
class EmaScope {
 public:
  explicit EmaScope(Ema& ema) : ema_(ema) { ema_.exchange(); }
  ~EmaScope() { ema_.exchange(); }
  EmaScope(const EmaScope&) = delete;
  EmaScope& operator=(const EmaScope&) = delete;

 private:
  Ema& ema_;
};

}  // namespace skipway
