#include "train/learner.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "model/airbench.h"
#include "model/device.h"
#include "train/initialise.h"
#include "train/memory.h"
#include "train/pretrained.h"

namespace skipway {
namespace {

constexpr double kStdOfConstantColour = 1. / 255;  // for a colour that never varies

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
  if (!configured)
    for (double& of_channel : spec.normalisation.std)
      of_channel = std::max(of_channel, kStdOfConstantColour);
  return spec;
}

std::unique_ptr<Model> new_model(const Config& config, const Dataset& dataset, at::Device device) {
  std::unique_ptr<Model> model = make_model(model_spec(config, dataset), config.seed, device);
  model->kernels() = KernelChoice(config.kernel);
  model->set_batch_norm_momentum(config.batch_norm_momentum);
  model->set_frozen(/*backbone=*/false, config.freeze_batch_norm);
  if (!config.weights.empty()) {  // they have a stem and gammas of their own
    load_pretrained(*model, read_pretrained(config.weights));
    return model;
  }
  if (config.zero_gamma || config.shallow > 0) zero_gamma(*model, !config.zero_gamma);
  if (is_airbench(config.model) || (config.whiten_stem && model->spec().stem == "cifar"))
    whiten_stem(*model, dataset.train.images);
  return model;
}

Batch part_of(const Batch& batch, int64_t begin, int64_t count) {
  Batch part = batch;
  for (at::Tensor* of_images :
       {&part.pixels, &part.labels, &part.indices, &part.own_share, &part.other_labels})
    if (of_images->defined()) *of_images = of_images->narrow(0, begin, count);
  return part;
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
      optimizer(model->parameters(), optimizer_options(config, config.epochs)),
      ema(model->state(), config.ema, config.lookahead),
      batches(on_device(dataset.train, device), config.batch,
              augment_options(config, config.epochs, dataset.image_size),
              model->spec().normalisation, config.seed, precision),
      micro_batch(skipway::micro_batch(config)),
      label_smoothing_(config.label_smoothing),
      batch_norm_momentum_(config.batch_norm_momentum) {
  if (!config.deterministic) return;
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Filling what is about to be written costs time and makes nothing more certain.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

at::Tensor Learner::forward_loss(const Batch& batch) {
  const PrecisionScope scope(device, precision);
  const at::Tensor logits = model->forward(batches.input(batch), true);
  const auto loss = [&](const at::Tensor& labels, at::Reduction::Reduction reduction) {
    return at::cross_entropy_loss(logits, labels, {}, reduction, -100, label_smoothing_);
  };
  if (!batch.own_share.defined()) return loss(batch.labels, at::Reduction::Mean);
  // Cross entropy is linear in its targets: the same as that of the mixed ones.
  return at::lerp(loss(batch.other_labels, at::Reduction::None),
                  loss(batch.labels, at::Reduction::None), batch.own_share)
      .mean();
}

std::vector<LossAndNorm> read_losses(const std::vector<at::Tensor>& numbers) {
  const at::Tensor read = at::stack(numbers).to(at::kCPU, at::kDouble);
  std::vector<LossAndNorm> all;
  for (int64_t i = 0; i < read.size(0); ++i)
    all.push_back({read[i][0].item<double>(), read[i][1].item<double>()});
  return all;
}

at::Tensor Learner::backward_unread(const Batch& batch) {
  const auto clear = [&] { optimizer.clear_gradients(); };
  clear();
  return with_fewer_images(
      micro_batch, batch.labels.size(0), device, "training",
      [&] { return backward_in_parts(batch); }, clear);
}

at::Tensor Learner::backward_in_parts(const Batch& batch) {
  const int64_t images = batch.labels.size(0);
  at::Tensor mean_loss;
  for (const Batch& part : parts_of(batch)) {
    const int64_t count = part.labels.size(0);
    at::Tensor loss = forward_loss(part);
    if (count < images) loss = loss * (static_cast<double>(count) / static_cast<double>(images));
    loss.backward();
    mean_loss = mean_loss.defined() ? mean_loss + loss.detach() : loss.detach();
  }
  return at::stack({mean_loss, optimizer.clip_gradients()});
}

void Learner::update(double lr, const at::Tensor& skip) {
  const bool may_round = precision == at::kBFloat16 && device.is_cpu();
  optimizer.step(lr, skip, may_round ? model->kernels().muon_products() : kernels::Type::kFp32);
}

std::vector<Batch> Learner::parts_of(const Batch& batch) const {
  const int64_t images = batch.labels.size(0);
  // Parts of nearly one size: BatchNorm in a small rest would see poor statistics.
  const int64_t count = (images + micro_batch - 1) / micro_batch;
  const int64_t size = (images + count - 1) / count;
  std::vector<Batch> parts;
  for (int64_t begin = 0; begin < images; begin += size)
    parts.push_back(part_of(batch, begin, std::min(size, images - begin)));
  return parts;
}

void Learner::retake_batch_norm(int64_t step, int64_t images,
                                const std::function<bool()>& cancelled) {
  if (images == 0) return;
  const at::NoGradGuard no_grad;
  const PrecisionScope scope(device, precision);
  model->set_shallow(false);
  with_fewer_images(micro_batch, batches.images_per_step(), device, "training", [&] {
    int64_t seen = 0;
    for (int64_t at = step; seen < images && !(cancelled && cancelled()); ++at) {
      for (const Batch& part : parts_of(batches.at_step(at))) {
        const int64_t count = part.labels.size(0);
        seen += count;  // the momentum of a mean over all images so far
        model->set_batch_norm_momentum(static_cast<double>(count) / static_cast<double>(seen));
        model->forward(batches.input(part), true);
      }
    }
  });
  model->set_batch_norm_momentum(batch_norm_momentum_);
}

double Learner::measure_step_s(const Stage& stage, int64_t step, double most_s, double enough_s,
                               const std::function<bool()>& cancelled) {
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  for (const NamedTensors& state : {model->state(), optimizer.state()})
    for (const auto& [name, tensor] : state) kept.emplace_back(tensor, tensor.detach().clone());
  model->set_shallow(stage.shallow);
  const auto make_step_s = [&] {
    const Stopwatch watch;
    backward(batches.at_step(step, stage.side));
    update(/*lr=*/0);
    return watch.seconds();
  };
  std::vector<double> steps_s = {make_step_s()};
  const auto goes_on = [&] { return !(cancelled && cancelled()); };
  if (steps_s.front() <= most_s && goes_on()) {
    steps_s.clear();
    double sum_s = 0;
    do sum_s += steps_s.emplace_back(make_step_s());
    while ((sum_s < enough_s || steps_s.size() < 3) && sum_s < 5 * enough_s && goes_on());
  }
  const at::NoGradGuard no_grad;
  for (auto& [tensor, values] : kept) tensor.copy_(values);
  return settled(steps_s) * share_of_full_step();
}

double Learner::measure_evaluation_s(const Split& split, const EvaluateOptions& options) {
  const int64_t count = std::min(options.batch, split.size());
  const at::Tensor images = split.images.narrow(0, 0, count);
  // The first is slower, as the first steps are, and another may be disturbed.
  std::array<double, kMeasuredEvaluations> times_s{};
  for (double& time_s : times_s) {
    const Stopwatch watch;
    predict_logits(*model, images, options);
    time_s = watch.seconds();
  }
  std::ranges::sort(times_s);
  return times_s[times_s.size() / 2] * static_cast<double>(split.size()) /
         static_cast<double>(count);
}

}  // namespace skipway
