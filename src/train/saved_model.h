// A trained model in a run folder: written at the end of a run, read back to be used. Not what a
// resume needs; see record/checkpoint.h.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "model/model.h"
#include "record/run_folder.h"

namespace skipway {

/// Writes model.safetensors with the model's spec and kernels as metadata, so that the file alone
/// is enough to use it. Errors: kDisk. Returns the SHA-256 of the file.
std::string save_model(const RunFolder& run, const Model& model);

/// Reads model.safetensors or, in a run that stopped early, the last checkpoint, and says so in the
/// log; where it keeps averages of the weights, they are the model. Its kernels are the run's;
/// where nothing says which, "auto". Errors: kCheckpoint when there is neither, when it is damaged,
/// when what it says does not fit together; as load_finite().
std::unique_ptr<Model> load_saved_model(const RunFolder& run, at::Device device = at::kCPU);

/// `where`: what an error names. Errors: kCheckpoint when a weight is NaN or infinite.
void require_finite(const NamedTensors& weights, const std::string& where);

/// Model::load_state(), then require_finite() of what the model has: what is finite in 64 bits need
/// not be in 32.
void load_finite(Model& model, const NamedTensors& weights, const std::string& where);

}  // namespace skipway
