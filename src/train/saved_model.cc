// A trained model in a run folder: its tensors and its spec, in safetensors form. Not training.
#include "train/saved_model.h"

#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "record/checkpoint.h"
#include "record/sealed_file.h"

namespace skipway {
namespace {

// The JSON at `key`; null when there is none.
nlohmann::json json_at(const std::map<std::string, std::string>& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return parse_json<nlohmann::json>(found->second);
}

// The kernels of the run, so that its accuracy comes out again; without them, the fastest.
KernelChoice kernels_of(const std::map<std::string, std::string>& metadata) {
  const auto word = metadata.find("kernel");
  const bool known =
      word != metadata.end() &&
      std::ranges::find(KernelChoice::words(), word->second) != KernelChoice::words().end();
  KernelChoice choice(known ? word->second : "auto");
  const nlohmann::json progress = json_at(metadata, "progress");  // of a checkpoint
  const nlohmann::json kept =
      progress.contains("kernels") ? progress.at("kernels") : json_at(metadata, "kernels");
  std::map<std::string, std::string> chosen;
  for (const auto& [shape, method] : kept.items())
    if (method.is_string()) chosen[shape] = method;
  choice.restore(std::move(chosen));
  return choice;
}

std::unique_ptr<Model> build(const NamedTensors& state,
                             const std::map<std::string, std::string>& metadata,
                             const std::string& where, at::Device device) {
  std::unique_ptr<Model> model =
      make_model(spec_from_metadata(metadata, where), /*seed=*/0, device);
  load_finite(*model, state, where);
  model->kernels() = kernels_of(metadata);
  return model;
}

// What an evaluation of the run would see: where averages are kept, they stand for the weights.
NamedTensors evaluated_state(const Checkpoint& checkpoint) {
  std::map<std::string, at::Tensor> averages(checkpoint.ema.begin(), checkpoint.ema.end());
  NamedTensors state = checkpoint.model;
  for (auto& [name, tensor] : state)
    if (const auto average = averages.find(name); average != averages.end())
      tensor = average->second;
  return state;
}

}  // namespace

void require_finite(const NamedTensors& weights, const std::string& where) {
  for (const auto& [name, tensor] : weights)
    if (!at::isfinite(tensor).all().item<bool>())
      fail(ErrorKind::kCheckpoint, "weights",
           "expected finite weights, got NaN or infinity in {} of {}; take an earlier checkpoint",
           name, where);
}

void load_finite(Model& model, const NamedTensors& weights, const std::string& where) {
  model.load_state(weights, where);
  require_finite(model.state(), where);
}

std::string save_model(const RunFolder& run, const Model& model) {
  std::map<std::string, std::string> metadata = to_metadata(model.spec());
  metadata["format"] = "pt";  // what Python's readers look for
  metadata["kernel"] = model.kernels().word();
  metadata["kernels"] = nlohmann::json(model.kernels().chosen()).dump();
  write_sealed(run.model(), model.state(), std::move(metadata));
  return hash_of_file(HashKind::kSha256, run.model());
}

std::unique_ptr<Model> load_saved_model(const RunFolder& run, at::Device device) {
  if (std::filesystem::exists(run.model())) {
    const SafetensorsFile file = read_sealed(run.model(), /*required=*/false);
    return build(file.tensors, file.metadata, run.model().string(), device);
  }
  if (!run.has_checkpoint())
    fail(ErrorKind::kCheckpoint, "model",
         "expected model.safetensors or last.safetensors, got neither in {}; the run ended before "
         "its first checkpoint, so train again",
         run.path().string());
  const Checkpoint checkpoint = load_checkpoint(run);
  log_info("{} has not finished; its last checkpoint is used", run.path().string());
  return build(evaluated_state(checkpoint), checkpoint.metadata, run.path().string(), device);
}

}  // namespace skipway
