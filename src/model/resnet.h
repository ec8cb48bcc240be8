// The residual networks.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/conv_chain.h"
#include "model/model.h"

namespace skipway {

/// Names of the residual networks, by depth.
const std::vector<std::string>& resnet_names();

/// Stages between a parameter or buffer and the head: 0 for fc.weight, 1 for layer4…, 4 for
/// layer1…, 5 for the stem.
int64_t stages_from_head(const std::string& name);

/// Residual network (He et al., arXiv:1512.03385) with torchvision's parameter names and order:
/// conv1.weight, bn1.weight, layer1.0.conv1.weight … fc.bias. Bottleneck stride on the 3x3, as
/// torchvision. Attention comes after the last BatchNorm of a block, before the addition, and is
/// named layer1.0.se, as timm has it.
class ResNet : public Model {
 public:
  /// Kaiming-normal (fan out) convolutions, BatchNorm 1 and 0, linear uniform within
  /// ±1/sqrt(inputs) as torchvision's default; drawn on the CPU, a function of `seed` alone. A stem
  /// "auto" is resolved. Errors: kUsage for an unknown name, stem or attention, or sizes below one.
  ResNet(const ModelSpec& spec, uint64_t seed, at::Device device = at::kCPU);

  at::Tensor forward(const at::Tensor& images, bool training) override;
  void set_batch_norm_momentum(double momentum) override;
  void set_shallow(bool shallow) override { shallow_ = shallow; }
  void set_frozen(bool backbone, bool batch_norm) override;
  std::vector<at::Tensor> last_gammas(bool skipped_only) const override;
  at::Tensor stem_weight() const override { return stem_.units.front().weight; }

 private:
  // Without attention all of it is one chain.
  struct Block {
    ConvChain chain;  // two units of 3x3, or 1x1, 3x3, 1x1
    bool begins_stage;
    std::optional<Attention> attention;
    std::optional<ConvChain> shortcut;  // the downsample, where attention comes before the addition
  };

  at::Tensor apply(ConvChain& chain, const at::Tensor& src, bool training);
  at::Tensor apply(Block& block, const at::Tensor& src, bool training);
  void choose_kernels(int64_t images, int64_t height, int64_t width);

  ConvChain stem_;
  std::vector<Block> blocks_;
  bool shallow_ = false;
  bool frozen_backbone_ = false, frozen_batch_norm_ = false;
  at::Tensor fc_weight_, fc_bias_;
};

/// See model_cost().
ModelCost resnet_cost(const ModelSpec& spec, int64_t bytes_per_value);

}  // namespace skipway
