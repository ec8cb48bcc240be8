// A trained model in a run folder: its tensors and its spec, in safetensors form. Not training.
#include "train/saved_model.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "record/checkpoint.h"
#include "record/safetensors.h"

namespace skipway {
namespace {

std::unique_ptr<Model> build(const NamedTensors& state,
                             const std::map<std::string, std::string>& metadata,
                             const std::string& where, at::Device device) {
  std::unique_ptr<Model> model =
      make_model(spec_from_metadata(metadata, where), /*seed=*/0, device);
  model->load_state(state, where);
  // The kernels of the run, so that its accuracy comes out again; without them, the fastest.
  if (const auto found = metadata.find("kernels"); found != metadata.end()) {
    const auto chosen = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
    std::map<std::string, std::string> kernels;
    for (const auto& [shape, method] : chosen.items())
      if (method.is_string()) kernels[shape] = method;
    if (!kernels.empty()) model->kernels() = KernelChoice("auto");
    model->kernels().restore(std::move(kernels));
  }
  return model;
}

}  // namespace

std::string save_model(const RunFolder& run, const Model& model) {
  std::map<std::string, std::string> metadata = to_metadata(model.spec());
  metadata["format"] = "pt";  // what Python's readers look for
  metadata["kernels"] = nlohmann::json(model.kernels().chosen()).dump();
  return write_safetensors(run.model(), model.state(), metadata);
}

std::unique_ptr<Model> load_saved_model(const RunFolder& run, at::Device device) {
  if (std::filesystem::exists(run.model())) {
    const SafetensorsFile file = read_safetensors(run.model());
    return build(file.tensors, file.metadata, run.model().string(), device);
  }
  if (!std::filesystem::exists(run.last()) && !std::filesystem::exists(run.previous()))
    fail(ErrorKind::kCheckpoint, "model",
         "expected model.safetensors or last.safetensors, got neither in {}; the run ended before "
         "its first checkpoint, so train again",
         run.path().string());
  const Checkpoint checkpoint = load_checkpoint(run);
  log_info("{} has not finished; its last checkpoint is used", run.path().string());
  return build(checkpoint.model, checkpoint.metadata, run.path().string(), device);
}

}  // namespace skipway
