// Averages of a model's weights and statistics, which are evaluated and saved in their place: an
// exponential moving average that only looks on, and lookahead, which the weights follow.
#pragma once
#include "base/tensors.h"

namespace skipway {

class Ema {
 public:
  /// `state`: what is averaged; it is read and, by exchange() and lookahead, written. `decay` per
  /// step, in [0, 1). `lookahead`: the decay is 0.95, weakened at first (below), and the weights go
  /// to the average each time; Zhang et al., arXiv:1907.08610, as airbench has it. With neither no
  /// average is kept and every call does nothing.
  Ema(const NamedTensors& state, double decay, bool lookahead = false);

  /// After step number `step` (from 1) of `total`. Every few steps it takes the state in; before
  /// the first time it is the state. The average is young at first: its decay is less then, with
  /// lookahead by the cube of the run's share that is done.
  void update(int64_t step, int64_t total);
  /// The average becomes the state, and the state is kept in the average's place. Twice: nothing.
  /// Takes no memory.
  void exchange();
  /// By the names of what is averaged; what a checkpoint keeps.
  NamedTensors state() const;
  /// Errors: kCheckpoint for missing tensors or other shapes.
  void load_state(const NamedTensors& state, const std::string& where);

 private:
  double decay_;
  bool lookahead_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> live_, averages_;
  at::Tensor spare_;  // as large as the largest of them
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
