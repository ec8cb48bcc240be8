// What a model is called and shaped by, and what every model can do. Batches in, logits out; no
// training in here.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/tensors.h"
#include "model/batch_statistics.h"
#include "model/kernel_choice.h"

namespace skipway {

/// Of a standard deviation: a 256th of the smallest step of an 8-bit image; less would only blow up
/// rounding.
constexpr double kLeastStd = 1. / (255 * 256);

/// Everything that must be known beside the weights to use a model on an image.
struct ModelSpec {
  std::string name = "resnet18";  // as model_names() has them
  std::string stem =
      "cifar";  // cifar: 3x3 stride 1, no max-pool; imagenet: 7x7 stride 2, max-pool 3x3 stride 2
  std::string attention = "none";  // of a residual block: none, se, eca, cbam
  int64_t num_classes = 10;
  int64_t image_size = 32;  // side [pixels]
  std::vector<std::string> classes;
  Normalisation normalisation;
};

/// As key-value text for the metadata of model.safetensors, and back. Keys: model, stem,
/// attention, num_classes, image_size, classes, mean, std; the last three are JSON arrays. Without
/// attention there is none. Other keys are left alone. Errors: kCheckpoint naming the missing or
/// bad key.
std::map<std::string, std::string> to_metadata(const ModelSpec& spec);
ModelSpec spec_from_metadata(const std::map<std::string, std::string>& metadata,
                             const std::string& where);

/// "auto" becomes cifar up to 64 pixels, imagenet above. Errors: kUsage for another word.
std::string resolve_stem(const std::string& stem, int64_t image_size);

/// The names that `--model` takes.
const std::vector<std::string>& model_names();

/// A network whose parameters and BatchNorm statistics are fp32, and convolution weights
/// channels_last.
class Model {
 public:
  virtual ~Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// Shapes: images [n,3,h,w] -> logits [n,num_classes], fp32. `training`: BatchNorm uses and
  /// updates batch statistics. Convolutions run in the type that autocast gives (see
  /// PrecisionScope); the last layer is always fp32, so that equal logits are rare. channels_last
  /// images are used as they are; others are copied once.
  virtual at::Tensor forward(const at::Tensor& images, bool training) = 0;

  /// Share of a batch's statistics in BatchNorm's running ones; 0.1 until it is set.
  virtual void set_batch_norm_momentum(double momentum) = 0;
  /// Blocks after the first of each stage are left out of training while it is on: with a last
  /// gamma of zero they are identities until they have learned. They get no gradients then. Nothing
  /// where there are no blocks.
  virtual void set_shallow(bool /*shallow*/) {}
  /// What training leaves as it is. `backbone`: all but the head, which then takes the features
  /// that evaluation would see. `batch_norm`: gamma, beta and the running statistics, which
  /// training then normalises with, on LibTorch's operations. Nothing where there are no blocks.
  virtual void set_frozen(bool /*backbone*/, bool /*batch_norm*/) {}
  /// The gamma that ends each residual block; `skipped_only`: of those that set_shallow() skips.
  /// None where there are no blocks.
  virtual std::vector<at::Tensor> last_gammas(bool /*skipped_only*/) const { return {}; }
  /// Weights of the first convolution [out,3,r,r].
  virtual at::Tensor stem_weight() const = 0;

  const ModelSpec& spec() const { return spec_; }
  /// Who computes the convolutions on a CPU; LibTorch, in operations of its own, until it is set.
  KernelChoice& kernels() { return kernels_; }
  const KernelChoice& kernels() const { return kernels_; }
  /// Trained tensors; each requires a gradient.
  const NamedTensors& parameters() const { return parameters_; }
  /// Parameters, and what is kept but not trained (BatchNorm's running_mean, running_var and
  /// num_batches_tracked), in the order of torchvision's state_dict.
  const NamedTensors& state() const { return state_; }
  /// Copies values in. Errors: kCheckpoint listing missing keys, unexpected keys, and both shapes
  /// where they differ; nothing is changed then.
  void load_state(const NamedTensors& state, const std::string& where);

 protected:
  Model(const ModelSpec& spec, at::Device device) : spec_(spec), device_(device) {}
  at::Tensor add_parameter(const std::string& name, at::Tensor values);
  at::Tensor add_buffer(const std::string& name, at::Tensor values);
  /// New, of `channels` channels; without a weight that is trained, that stays at one.
  BatchNorm add_batch_norm(const std::string& name, int64_t channels, bool trains_weight = true);

  ModelSpec spec_;
  at::Device device_;
  KernelChoice kernels_{"torch"};

 private:
  NamedTensors parameters_;
  NamedTensors state_;  // both, in the order in which they were added
};

/// The model that `spec.name` names, with new weights: a function of `seed` alone. Errors: kUsage
/// for an unknown name or stem, or sizes below one.
std::unique_ptr<Model> make_model(const ModelSpec& spec, uint64_t seed,
                                  at::Device device = at::kCPU);

/// A model's cost, by arithmetic on its layers, without building it.
struct ModelCost {
  int64_t parameters = 0;
  int64_t macs = 0;  // multiply-accumulates of one image's forward pass (convolutions and linear)
  int64_t activation_bytes = 0;  // kept for the backward pass, one image, at `bytes_per_value`
};

/// activation_bytes counts each tensor that backward needs once: the images, every convolution's
/// result (BatchNorm's input), every ReLU's result (the next convolution's input), max-pool's
/// result and its int64 indices, the maps that attention scales, and the features before the last
/// layer (fp32). Not counted:
/// BatchNorm's saved statistics, and the passing buffers of the step. This is what LibTorch's
/// operations keep; Skipway's kernels normalise in reading and keep no ReLU's result inside of a
/// block. Errors: as ResNet.
ModelCost model_cost(const ModelSpec& spec, int64_t bytes_per_value);

}  // namespace skipway
