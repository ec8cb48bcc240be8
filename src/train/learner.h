// What a training step needs: a model, the rule that changes it, and the batches it learns from;
// and how long one takes. Knows no schedule and no run folder.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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
struct LossAndNorm {
  double loss = 0;  // mean over the batch [nats]
  double norm = 0;  // of all gradients together, before --clip-grad-norm
};

/// Those of several steps from what Learner::backward_unread() gave; waits for the device once.
std::vector<LossAndNorm> read_losses(const std::vector<at::Tensor>& numbers);

class Learner {
 public:
  static constexpr size_t kMeasuredEvaluations = 3;

  /// Learns from the training part of `dataset`. With --deterministic LibTorch refuses, from here
  /// on and in all of the process, operations that are not. Errors: kUsage and kDevice when
  /// configuration, data and machine do not go together.
  Learner(const Config& config, const Dataset& dataset);

  /// Forward and backward pass of a batch: the gradients of its mean loss, clipped, are then the
  /// parameters'. At most micro_batch images go through at once; their gradients are added up, each
  /// part weighted by its images, which is the same but for rounding, except that BatchNorm sees
  /// the statistics of a part. Out of memory, micro_batch is halved. Errors: kMemory when one image
  /// is too many.
  LossAndNorm backward(const Batch& batch) { return read_losses({backward_unread(batch)})[0]; }
  /// The same without waiting for the device, on which loss and norm [2] stay.
  at::Tensor backward_unread(const Batch& batch);
  /// Changes the weights by their gradients, as Optimizer::step.
  void update(double lr, const at::Tensor& skip = {});
  /// BatchNorm's statistics become the mean of those of the batches at `step` and after it, each
  /// weighted by its images, of whole size and `images` together or more; 0: they stay. Running
  /// ones lag behind the weights, and an average of weights has none of its own.
  /// Stops between two batches where it is `cancelled`.
  void retake_batch_norm(int64_t step, int64_t images, const std::function<bool()>& cancelled = {});
  /// What of a full batch's time a step takes on average: an epoch's last batch may be a small one.
  double share_of_full_step() const {
    return batches.mean_images_per_step() / static_cast<double>(batches.images_per_step());
  }
  /// Seconds of an average step of `stage`: settled() of full ones, after one that chooses kernels;
  /// or that one, when it takes over `most_s`. Those together take `enough_s` (> 0), and are three
  /// or more unless that took five times as long; or a step more. Weights, statistics and the
  /// optimizer's state are afterwards what they were. Once `cancelled`, no further step is made.
  double measure_step_s(const Stage& stage, int64_t step, double most_s, double enough_s,
                        const std::function<bool()>& cancelled = {});
  /// Seconds to evaluate on one view of `split`: the median of kMeasuredEvaluations of its first
  /// batch.
  double measure_evaluation_s(const Split& split, const EvaluateOptions& options);
  /// What goes through the model at once: at most micro_batch images each.
  std::vector<Batch> parts_of(const Batch& batch) const;

  /// Who computes the convolutions, as KernelChoice::in_use(); "torch" on a GPU.
  std::string kernel() const { return device.is_cpu() ? model->kernels().in_use() : "torch"; }

  at::Device device;
  at::ScalarType precision;
  std::unique_ptr<Model> model;
  Optimizer optimizer;
  Ema ema;
  Batches batches;
  int64_t micro_batch;  // images at once, at most

 private:
  at::Tensor forward_loss(const Batch& batch);
  at::Tensor backward_in_parts(const Batch& batch);

  double label_smoothing_, batch_norm_momentum_;
};

}  // namespace skipway
