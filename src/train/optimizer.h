// Stochastic gradient descent with momentum, as torch.optim.SGD, through LibTorch's fused step;
// Muon for the convolutions' filters when that is asked for.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "base/tensors.h"

namespace skipway {

struct OptimizerOptions {
  double momentum = 0.9;
  double weight_decay = 5e-4;
  bool nesterov = false;
  bool decay_all =
      true;            // false: no weight decay on BatchNorm and biases (tensors of one dimension)
  double bias_lr = 1;  // factor of the rate for BatchNorm's biases
  double muon_lr = 0;  // factor of the rate for filters under Muon; 0: SGD for filters too
  double muon_momentum = 0.9;
};

class Optimizer {
 public:
  Optimizer(const NamedTensors& parameters, const OptimizerOptions& options);
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
    bool muon = false;
  };
  void step_sgd(Group& group, double lr);
  void step_muon(Group& group, double lr);

  OptimizerOptions options_;
  std::vector<Group> groups_;
};

}  // namespace skipway
