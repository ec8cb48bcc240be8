// What a training step needs: a model, the rule that changes it, and the batches it learns from.
// Knows no schedule, no clock and no files.
#pragma once
#include <cstdint>
#include <memory>

#include "data/batches.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/config.h"
#include "train/ema.h"
#include "train/evaluate.h"
#include "train/optimizer.h"
#include "train/stages.h"

namespace skipway {

/// What a training step is judged by before it changes the weights.
struct Gradient {
  double loss = 0;  // mean over the batch [nats]
  double norm = 0;  // of all gradients together, before --clip-grad-norm
};

class Learner {
 public:
  /// Learns from the training part of `dataset`. Errors: kUsage and kDevice when configuration,
  /// data and machine do not go together.
  Learner(const Config& config, const Dataset& dataset);

  /// Forward and backward pass of a batch: the gradients of its mean loss, clipped, are then the
  /// parameters'. Waits for the device once, for both numbers.
  Gradient backward(const Batch& batch);
  /// Seconds of a step of `stage`: the shorter of two, or one of over a second, after one that
  /// chooses kernels. Weights, statistics and the optimizer's state are afterwards what they were.
  double measure_step_s(const Stage& stage, int64_t step);
  /// Seconds to evaluate on `split`, from one batch.
  double measure_evaluation_s(const Split& split, const EvaluateOptions& options);

  at::Device device;
  at::ScalarType precision;
  std::unique_ptr<Model> model;
  Optimizer optimizer;
  Ema ema;
  Batches batches;

 private:
  at::Tensor forward_loss(const Batch& batch);

  double label_smoothing_;
};

}  // namespace skipway
