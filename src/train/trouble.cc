#include "train/trouble.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <string_view>

#include "base/files.h"
#include "data/grid.h"
#include "data/image.h"
#include "model/device.h"

namespace skipway {
namespace {

constexpr int64_t kColumns = 16;
constexpr int64_t kSmallSide = 64;  // smaller images are shown twice as large [pixels]

bool is_finite(const at::Tensor& tensor) {
  return !tensor.is_floating_point() || at::isfinite(tensor).all().item<bool>();
}

// "layer1.0.conv1" of "layer1.0.conv1.weight".
std::string layer_of(const std::string& parameter) {
  return parameter.substr(0, parameter.rfind('.'));
}

struct Watch {
  std::map<const void*, std::string> layers;  // by the address of a weight
  int depth = 0;                              // of operations in operations
  std::string operation, layer;               // of the outermost one; the last layer known
  std::string found;
};

// ATen tells every operation to plain functions, which can reach nothing but a global.
thread_local Watch* watch = nullptr;

std::unique_ptr<at::ObserverContext> begin_operation(const at::RecordFunction& function) {
  if (watch->depth++ > 0) return nullptr;
  const std::string_view name = function.name();  // "aten::conv2d"
  const auto of = [&](const std::string& layer) {
    watch->operation =
        std::string(name.substr(name.rfind(':') + 1)) + (layer.empty() ? "" : " " + layer);
  };
  of(watch->layer.empty() ? "" : "after " + watch->layer);
  for (const c10::IValue& input : function.inputs()) {
    if (!input.isTensor() || !input.toTensor().defined() || !input.toTensor().has_storage())
      continue;
    const auto known = watch->layers.find(input.toTensor().const_data_ptr());
    if (known == watch->layers.end()) continue;
    watch->layer = known->second;
    of("of " + watch->layer);
    break;
  }
  return nullptr;
}

void end_operation(const at::RecordFunction& function, at::ObserverContext* /*context*/) {
  if (--watch->depth > 0 || !watch->found.empty()) return;
  const at::DisableRecordFunctionGuard not_of_this;
  if (watch->operation.starts_with("empty")) return;  // no values yet
  for (const c10::IValue& output : function.outputs()) {
    if (output.isTensor() && output.toTensor().defined() && !is_finite(output.toTensor()))
      watch->found = watch->operation;
  }
}

// Watches this thread's operations for as long as it lives.
class WatchScope {
 public:
  explicit WatchScope(Watch& of)
      : handle_(
            at::addThreadLocalCallback(at::RecordFunctionCallback(begin_operation, end_operation)
                                           .needsInputs(true)
                                           .needsOutputs(true)
                                           .scopes({at::RecordScope::FUNCTION}))) {
    watch = &of;
  }
  ~WatchScope() {
    at::removeCallback(handle_);
    watch = nullptr;
  }
  WatchScope(const WatchScope&) = delete;
  WatchScope& operator=(const WatchScope&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace

Breakdown find_breakdown(Model& model, const at::Tensor& images, const at::Tensor& labels,
                         at::ScalarType precision) {
  const at::NoGradGuard no_grad;
  Breakdown breakdown;
  Watch seen;
  for (const auto& [name, tensor] : model.parameters()) {
    seen.layers[tensor.const_data_ptr()] = layer_of(name);
    if (!is_finite(tensor)) breakdown.weights.push_back(name);
    if (tensor.grad().defined() && !is_finite(tensor.grad())) breakdown.gradients.push_back(name);
  }
  if (!is_finite(images)) {
    breakdown.where = "the images, after mean and std";
    return breakdown;
  }
  const KernelChoice kept = model.kernels();
  model.kernels() = KernelChoice("torch");
  {
    const PrecisionScope scope(images.device(), precision);
    const WatchScope watching(seen);
    at::cross_entropy_loss(model.forward(images, /*training=*/true), labels);
  }
  model.kernels() = kept;
  breakdown.where = seen.found;
  return breakdown;
}

std::string describe(const Breakdown& b) {
  if (b.where.empty() && !b.gradients.empty())
    return fmt::format("the gradient of {} was the first that is not finite", b.gradients.back());
  if (b.where.empty()) return "every layer still gives finite values";
  return fmt::format(
      "{} was the first that is not finite{}", b.where,
      b.weights.empty() ? "" : fmt::format(" ({} was not before it)", b.weights.front()));
}

void write_trouble(const RunFolder& run, nlohmann::ordered_json facts, const Breakdown& breakdown,
                   const Batch& batch, const Dataset& dataset) {
  make_directories(run.trouble());
  const Split& split = dataset.train;
  const at::Tensor images = split.images.index_select(0, batch.indices);
  write_png(run.trouble() / "batch.png",
            image_grid(images, kColumns, images.size(1) <= kSmallSide ? 2 : 1));
  facts["first_not_finite"] = {{"where", breakdown.where},
                               {"weights", breakdown.weights},
                               {"gradients", breakdown.gradients},
                               {"sentence", describe(breakdown)}};
  auto& rows = facts["images"] = nlohmann::ordered_json::array();
  for (int64_t i = 0; i < batch.indices.numel(); ++i) {
    const auto row = batch.indices[i].item<int64_t>();
    const auto label = batch.labels[i].item<int64_t>();
    rows.push_back({{"row", row},
                    {"name", split.names.at(static_cast<size_t>(row))},
                    {"label", dataset.classes.at(static_cast<size_t>(label))}});
  }
  using Json = nlohmann::ordered_json;
  write_file_atomic(run.trouble() / "trouble.json",
                    facts.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace skipway
