// Stochastic gradient descent with momentum, as torch.optim.SGD, through LibTorch's fused step.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "base/tensors.h"

namespace skipway {

struct SgdOptions {
  double momentum = 0.9;
  double weight_decay = 5e-4;
  bool nesterov = false;
  bool decay_all =
      true;            // false: no weight decay on BatchNorm and biases (tensors of one dimension)
  double bias_lr = 1;  // factor of the rate for biases, BatchNorm's beta among them
};

class Sgd {
 public:
  Sgd(const NamedTensors& parameters, const SgdOptions& options);
  /// One update from the parameters' gradients, which are then set to undefined. `lr` of this step.
  void step(double lr);
  /// Momentum buffers, named "momentum.<parameter>"; what a checkpoint keeps. Zero before the first
  /// step, as torch after it.
  NamedTensors state() const;
  /// Errors: kCheckpoint as ResNet::load_state.
  void load_state(const NamedTensors& state, const std::string& where);

 private:
  struct Group {
    std::vector<std::string> names;
    std::vector<at::Tensor> parameters, momenta;
    double weight_decay = 0;
    double lr_factor = 1;
  };
  SgdOptions options_;
  std::vector<Group> groups_;
};

}  // namespace skipway
