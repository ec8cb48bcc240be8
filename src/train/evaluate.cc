#include "train/evaluate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "data/augment.h"
#include "model/device.h"
#include "train/memory.h"

namespace skipway {
namespace {

// fp32 logits on the CPU of one batch.
struct BatchLogits {
  at::Tensor plain;
  at::Tensor averaged;  // over all views
};

BatchLogits batch_logits(Model& model, const at::Tensor& images, const EvaluateOptions& options) {
  const auto logits_of = [&](const at::Tensor& input) {
    const at::Tensor in_layout = input.contiguous(at::MemoryFormat::ChannelsLast);
    return model.forward(in_layout, false).to(at::kCPU, at::kFloat);
  };
  const at::Tensor input = normalise(images, model.spec().normalisation, options.precision);
  BatchLogits logits;
  logits.averaged = logits.plain = logits_of(input);
  if (options.views == 1) return logits;
  logits.averaged = (logits.plain + logits_of(input.flip({3}))) / 2;
  const int64_t height = input.size(2), width = input.size(3);
  // Reflection moves an image of one pixel onto itself, and LibTorch refuses to.
  if (options.views == 2 || std::min(height, width) < 2) return logits;
  const at::Tensor padded = at::reflection_pad2d(input, {1, 1, 1, 1});
  for (const int64_t from : {0, 2}) {
    const at::Tensor moved = padded.narrow(2, from, height).narrow(3, from, width);
    logits.averaged = logits.averaged + (logits_of(moved) + logits_of(moved.flip({3}))) / 4;
  }
  logits.averaged.div_(2);
  return logits;
}

// Calls `use(logits, first image, count)` batch by batch, of nearly one size, because a few images
// at the end would have kernels of their own; of fewer images when memory runs out. Stops early
// when cancelled.
template <typename Use>
void for_each_batch(Model& model, const at::Tensor& images, const EvaluateOptions& options,
                    Use&& use) {
  at::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().second.device();
  PrecisionScope scope(device, options.precision);
  const int64_t n = images.size(0);
  const int64_t batches = (n + options.batch - 1) / options.batch;
  int64_t at_once = batches > 0 ? (n + batches - 1) / batches : 1;
  for (int64_t begin = 0; begin < n;) {
    if (options.cancelled && options.cancelled()) return;
    int64_t count = 0;
    const BatchLogits logits = with_fewer_images(at_once, n - begin, device, "evaluation", [&] {
      count = std::min(at_once, n - begin);
      return batch_logits(model, images.narrow(0, begin, count).to(device), options);
    });
    use(logits, begin, count);
    begin += count;
    if (options.progress) options.progress(begin);
  }
}

}  // namespace

int64_t evaluation_batch(int64_t side) {
  return std::clamp<int64_t>(500 * 32 * 32 / (side * side), 16, 500);
}

at::Tensor predict_logits(Model& model, const at::Tensor& images, const EvaluateOptions& options) {
  std::vector<at::Tensor> parts;
  for_each_batch(model, images, options, [&](const BatchLogits& logits, int64_t, int64_t) {
    parts.push_back(logits.averaged);
  });
  return parts.empty() ? at::empty({0, model.spec().num_classes}) : at::cat(parts);
}

Evaluation evaluate(Model& model, const Split& split, const EvaluateOptions& options) {
  if (split.size() == 0) {
    fail(ErrorKind::kData, "evaluate",
         "expected at least one labelled image to evaluate on, got none; "
         "the data set needs a test part");
  }
  Evaluation result;
  result.views = options.views;
  const auto classes = static_cast<size_t>(model.spec().num_classes);
  result.confusion.assign(classes, std::vector<int64_t>(classes, 0));
  const at::Tensor all_labels = split.labels.to(at::kCPU);
  int64_t correct = 0, correct_tta = 0;
  for_each_batch(
      model, split.images, options, [&](const BatchLogits& logits, int64_t begin, int64_t count) {
        const at::Tensor labels = all_labels.narrow(0, begin, count);
        const at::Tensor predicted = logits.plain.argmax(1);
        result.loss +=
            at::cross_entropy_loss(logits.plain, labels, {}, at::Reduction::Sum).item<double>();
        correct += predicted.eq(labels).sum().item<int64_t>();
        correct_tta += logits.averaged.argmax(1).eq(labels).sum().item<int64_t>();
        const auto label = labels.accessor<int64_t, 1>();
        const auto prediction = predicted.accessor<int64_t, 1>();
        for (int64_t i = 0; i < count; ++i) {
          ++result.confusion[static_cast<size_t>(label[i])][static_cast<size_t>(prediction[i])];
        }
        result.n += count;
      });
  if (result.n == 0) return result;  // cancelled before the first batch
  const auto n = static_cast<double>(result.n);
  result.loss /= n;
  result.accuracy = static_cast<double>(correct) / n;
  result.accuracy_tta = static_cast<double>(correct_tta) / n;
  return result;
}

std::vector<ClassAccuracy> accuracy_per_class(const Evaluation& evaluation) {
  std::vector<ClassAccuracy> classes(evaluation.confusion.size());
  for (size_t c = 0; c < classes.size(); ++c) {
    const std::vector<int64_t>& row = evaluation.confusion[c];
    classes[c].n = std::accumulate(row.begin(), row.end(), int64_t{0});
    if (classes[c].n > 0)
      classes[c].accuracy = static_cast<double>(row[c]) / static_cast<double>(classes[c].n);
  }
  return classes;
}

std::array<double, 2> interval95(double accuracy, int64_t count) {
  if (count <= 0) return {0, 1};
  const double z = 1.959963984540054, n = static_cast<double>(count);
  const double centre = accuracy + z * z / (2 * n);
  const double half = z * std::sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n));
  const double scale = 1 + z * z / n;
  return {std::max(0., (centre - half) / scale), std::min(1., (centre + half) / scale)};
}

std::string describe(const Evaluation& evaluation) {
  const auto [low, high] = interval95(evaluation.accuracy, evaluation.n);
  std::string text = fmt::format("{:.2f} % (95 % interval {:.1f} to {:.1f} %)",
                                 100 * evaluation.accuracy, 100 * low, 100 * high);
  if (evaluation.views > 1)
    text += fmt::format(", {:.2f} % with {} TTA", 100 * evaluation.accuracy_tta,
                        evaluation.views == 2 ? "flip" : "six-view");
  return text;
}

}  // namespace skipway
