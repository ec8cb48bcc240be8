// Stochastic gradient descent with momentum, as torch.optim.SGD, through LibTorch's fused step;
// Muon for the convolutions' filters when that is asked for.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "base/tensors.h"
#include "kernels/types.h"

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
  double clip_grad_norm = 0;  // 0: none
  double layer_lr_decay = 1;  // factor of the rate for each stage further from a ResNet's head
};

class Optimizer {
 public:
  Optimizer(const NamedTensors& parameters, const OptimizerOptions& options);
  /// The gradients' 2-norm over all parameters together, before any change; where it is above
  /// clip_grad_norm, all gradients are scaled to it, as torch.nn.utils.clip_grad_norm_ does, but
  /// stay as they are where it is not finite. To be called between backward pass and step.
  /// Shapes: -> fp32 [] on the parameters' device, which is not waited for.
  at::Tensor clip_gradients();
  /// One update from the parameters' gradients, which are then set to undefined. `lr` of this step.
  /// `skip`: one fp32 number on the parameters' device; where it is 1, nothing else changes, and
  /// nobody waits to know.
  /// `muon_products`: the type of the products in Muon's step on a CPU.
  void step(double lr, const at::Tensor& skip = {},
            kernels::Type muon_products = kernels::Type::kFp32);
  /// Changes the factor of the rate for filters under Muon. No effect where they are under SGD.
  void set_muon_lr(double factor) { options_.muon_lr = factor; }
  /// Forgets the gradients of a step that is not made.
  void clear_gradients();
  /// Momentum buffers, named "momentum.<parameter>"; what a checkpoint keeps. Zero before the first
  /// step, as torch after it.
  NamedTensors state() const;
  /// Errors: kCheckpoint as Model::load_state.
  void load_state(const NamedTensors& state, const std::string& where);

 private:
  struct Group {
    std::vector<std::string> names;
    std::vector<at::Tensor> parameters, momenta;
    double weight_decay = 0;
    double lr_factor = 1;
    bool muon = false;
  };
  void step_sgd(Group& group, double lr, const at::Tensor& skip);
  void step_muon(Group& group, double lr, const at::Tensor& skip, kernels::Type products);

  OptimizerOptions options_;
  std::vector<Group> groups_;
};

}  // namespace skipway
