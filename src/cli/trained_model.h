// What `eval` and `predict` share: the flags that say how a trained model is run, and its loading.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "model/model.h"
#include "record/run_folder.h"
#include "train/config.h"
#include "train/evaluate.h"

namespace skipway {

struct ModelFlags {
  std::string device = "auto";
  std::string precision = "auto";
  std::string kernel;   // empty: not given
  int64_t threads = 0;  // 0: all cores this process may use
  int64_t batch = 0;    // 0: by the image size
  bool json = false;
};

/// --kernel, else SKIPWAY_KERNEL.
void add_kernel_flag(CLI::App& command, std::string& kernel);
/// --device, else SKIPWAY_DEVICE.
void add_device_flag(CLI::App& command, std::string& device);
/// All of ModelFlags; variables stand for --kernel, --device, --precision and --threads.
void add_model_flags(CLI::App& command, ModelFlags& flags);

struct TrainedModel {
  std::unique_ptr<Model> model;
  EvaluateOptions options;
  std::optional<Config> config;  // the run's own; none where the model was imported
};

/// Errors: kUsage, kDevice and kCheckpoint of what the flags and the run ask for.
TrainedModel load_trained_model(const RunFolder& run, const ModelFlags& flags);

}  // namespace skipway
