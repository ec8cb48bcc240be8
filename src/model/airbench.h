// The networks of Keller Jordan's airbench (arXiv:2404.00498). The eight-layer one of 94 reaches 94
// % on the original CIFAR-10 in ten epochs, for a fifth of ResNet-18's work an image.
#pragma once
#include <string>
#include <vector>

#include "model/model.h"
#include "model/norm_gelu.h"

namespace skipway {

/// "airbench93" to "airbench96", each after the accuracy that its recipe reaches on CIFAR-10 [%].
const std::vector<std::string>& airbench_names();
bool is_airbench(const std::string& model);
/// Of an image [pixels]: (((9 - 1) / 2) / 2) / 2 leaves the last pool one pixel.
constexpr int64_t kAirbenchSmallestSide = 9;

/// A 2x2 convolution of 24 filters that are not trained (they whiten the images once
/// whiten_stem() has made them), three groups of
///   3x3 convolution, max-pool 2, BatchNorm, GELU, 3x3 convolution, BatchNorm, GELU
/// max-pool 3 (of smaller maps, all of them), and a linear layer without bias whose result is
/// divided by 9. The groups have 64, 128 and 128 channels (93), 64, 256 and 256 (94), 128, 384 and
/// 384 (95), or 128, 512 and 512 (96); those of 96 have a third convolution, and what the first
/// ends in is added to what the third does. BatchNorm has a bias and no weight. Names and order as
/// in the source's state_dict:
/// 0.weight, 0.bias, 2.conv1.weight, 2.norm1.bias, … 7.weight.
class Airbench : public Model {
 public:
  /// Convolutions as torch's default (Kaiming uniform, sqrt(5)) with a Dirac identity in the first
  /// filters; drawn on the CPU, a function of `seed` alone. Errors: kUsage for sizes below one, or
  /// images of fewer than 9 pixels a side, of which three pools leave nothing.
  Airbench(const ModelSpec& spec, uint64_t seed, at::Device device = at::kCPU);

  at::Tensor forward(const at::Tensor& images, bool training) override;
  void set_batch_norm_momentum(double momentum) override;
  at::Tensor stem_weight() const override { return whiten_; }

 private:
  struct Layer {
    at::Tensor conv;
    BatchNorm norm;
  };

  at::Tensor whiten_, whiten_bias_, head_;
  std::vector<std::vector<Layer>> groups_;
};

/// See model_cost().
ModelCost airbench_cost(const ModelSpec& spec, int64_t bytes_per_value);

}  // namespace skipway
