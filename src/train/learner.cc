#include "train/learner.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "model/airbench.h"
#include "model/device.h"
#include "train/initialise.h"

namespace skipway {
namespace {

constexpr double kLongStep_s = 1;  // is not measured twice

ModelSpec model_spec(const Config& config, const Dataset& dataset) {
  ModelSpec spec;
  spec.name = config.model;
  spec.image_size = dataset.image_size;
  spec.stem = resolve_stem(config.stem, dataset.image_size);
  spec.attention = config.attention;
  spec.num_classes = static_cast<int64_t>(dataset.classes.size());
  spec.classes = dataset.classes;
  const auto configured = configured_normalisation(config);
  spec.normalisation = configured ? *configured : channel_statistics(dataset.train.images);
  return spec;
}

std::unique_ptr<Model> new_model(const Config& config, const Dataset& dataset, at::Device device) {
  std::unique_ptr<Model> model = make_model(model_spec(config, dataset), config.seed, device);
  model->kernels() = KernelChoice(config.kernel);
  model->set_batch_norm_momentum(config.batch_norm_momentum);
  if (config.zero_gamma) zero_gamma(*model);
  if (config.model == kAirbench94 || (config.whiten_stem && model->spec().stem == "cifar"))
    whiten_stem(*model, dataset.train.images);
  return model;
}

Split on_device(Split split, at::Device device) {
  split.images = split.images.to(device);
  split.labels = split.labels.to(device);
  return split;
}

}  // namespace

Learner::Learner(const Config& config, const Dataset& dataset)
    : device(resolve_device(config.device)),
      precision(resolve_precision(config.precision, device, config.kernel)),
      model(new_model(config, dataset, device)),
      optimizer(model->parameters(), optimizer_options(config)),
      ema(model->state(), config.ema, config.lookahead),
      batches(on_device(dataset.train, device), config.batch,
              augment_options(config, rule_for(config.epochs)), model->spec().normalisation,
              config.seed, precision),
      label_smoothing_(config.label_smoothing) {}

at::Tensor Learner::forward_loss(const Batch& batch) {
  const PrecisionScope scope(device, precision);
  const at::Tensor logits = model->forward(batch.images, true);
  const auto loss = [&](const at::Tensor& labels, at::Reduction::Reduction reduction) {
    return at::cross_entropy_loss(logits, labels, {}, reduction, -100, label_smoothing_);
  };
  if (!batch.own_share.defined()) return loss(batch.labels, at::Reduction::Mean);
  // Cross entropy is linear in its targets: the same as that of the mixed ones.
  return at::lerp(loss(batch.other_labels, at::Reduction::None),
                  loss(batch.labels, at::Reduction::None), batch.own_share)
      .mean();
}

Gradient Learner::backward(const Batch& batch) {
  const at::Tensor loss = forward_loss(batch);
  loss.backward();
  const at::Tensor both = at::stack({loss.detach(), optimizer.clip_gradients()}).cpu();
  return {both[0].item<double>(), both[1].item<double>()};
}

double Learner::measure_step_s(const Stage& stage, int64_t step) {
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  for (const NamedTensors& state : {model->state(), optimizer.state()})
    for (const auto& [name, tensor] : state) kept.emplace_back(tensor, tensor.detach().clone());
  model->set_shallow(stage.shallow);
  double shortest_s = 0;
  for (int i = 0; i < 3; ++i) {
    const Stopwatch watch;
    backward(batches.at_step(step, stage.side));
    optimizer.step(/*lr=*/0);
    shortest_s = i < 2 ? watch.seconds() : std::min(shortest_s, watch.seconds());
    if (i == 1 && shortest_s > kLongStep_s) break;
  }
  const at::NoGradGuard no_grad;
  for (auto& [tensor, values] : kept) tensor.copy_(values);
  return shortest_s;
}

double Learner::measure_evaluation_s(const Split& split, const EvaluateOptions& options) {
  const int64_t count = std::min(options.batch, split.size());
  EvaluateOptions plain = options;
  plain.tta = false, plain.progress = nullptr;
  const at::Tensor images = split.images.narrow(0, 0, count);
  predict_logits(*model, images, plain);  // the first call is slower, as the first steps are
  const Stopwatch watch;
  predict_logits(*model, images, plain);
  const double batches_of_split = static_cast<double>(split.size()) / static_cast<double>(count);
  return watch.seconds() * batches_of_split * static_cast<double>(options.views());
}

}  // namespace skipway
