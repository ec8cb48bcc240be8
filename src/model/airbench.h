// The eight-layer network of Keller Jordan's airbench (arXiv:2404.00498), which reaches 94 % on the
// original CIFAR-10 in ten epochs of a twentieth of ResNet-18's work.
#pragma once
#include <vector>

#include "model/model.h"

namespace skipway {

constexpr const char* kAirbench94 = "airbench94";
/// Of an image [pixels]: (((25 - 1) / 2) / 2) / 2 is the last pool's side.
constexpr int64_t kAirbenchSmallestSide = 25;

/// A 2x2 convolution of 24 filters that are not trained (they whiten the images once
/// whiten_stem() has made them), three groups of
///   3x3 convolution, max-pool 2, BatchNorm, GELU, 3x3 convolution, BatchNorm, GELU
/// with 64, 256 and 256 channels, max-pool 3, and a linear layer without bias whose result is
/// divided by 9. BatchNorm has a bias and no weight. Names and order as in the source's state_dict:
/// 0.weight, 0.bias, 2.conv1.weight, 2.norm1.bias, … 7.weight.
class Airbench : public Model {
 public:
  /// Convolutions as torch's default (Kaiming uniform, sqrt(5)) with a Dirac identity in the first
  /// filters; drawn on the CPU, a function of `seed` alone. Errors: kUsage for sizes below one, or
  /// images of fewer than 25 pixels a side, from which three pools leave too little.
  Airbench(const ModelSpec& spec, uint64_t seed, at::Device device = at::kCPU);

  at::Tensor forward(const at::Tensor& images, bool training) override;
  void set_batch_norm_momentum(double momentum) override { momentum_ = momentum; }
  at::Tensor stem_weight() const override { return whiten_; }

 private:
  struct Norm {
    at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;
  };
  struct Group {
    at::Tensor conv1, conv2;
    Norm norm1, norm2;
  };
  at::Tensor convolve(const at::Tensor& src, const at::Tensor& weight);
  at::Tensor norm_gelu(const at::Tensor& src, const Norm& norm, bool training) const;

  double momentum_ = 0.1;
  at::Tensor whiten_, whiten_bias_, head_;
  std::vector<Group> groups_;
};

/// See model_cost().
ModelCost airbench_cost(const ModelSpec& spec, int64_t bytes_per_value);

}  // namespace skipway
