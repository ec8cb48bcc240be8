// ResNet-18 to 152 out of ATen's operators and conv_chain(), and their layers' shapes.
#include "model/resnet.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "model/initialiser.h"

namespace skipway {
namespace {

constexpr int64_t kStemChannels = 64;

struct ConvLayer {
  int64_t in, out, kernel, stride, padding;

  int64_t parameters() const { return out * in * kernel * kernel; }
  int64_t output_size(int64_t size) const { return (size + 2 * padding - kernel) / stride + 1; }
};

struct BlockShape {
  std::string name;  // layer1.0
  std::vector<ConvLayer> convs;
  std::optional<ConvLayer> downsample;
};

struct NetShape {
  ConvLayer stem;
  bool max_pool;
  std::vector<BlockShape> blocks;
  int64_t features;
};

// What differs between the models: blocks in each of the four stages, and the kind of block.
struct Family {
  std::string name;
  std::array<int, 4> depths;
  bool bottleneck;
};

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"resnet18", {2, 2, 2, 2}, false},  {"resnet34", {3, 4, 6, 3}, false},
      {"resnet50", {3, 4, 6, 3}, true},   {"resnet101", {3, 4, 23, 3}, true},
      {"resnet152", {3, 8, 36, 3}, true},
  };
  return all;
}

ConvLayer conv_layer(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return {in, out, kernel, stride, kernel / 2};
}

NetShape net_shape(const ModelSpec& spec) {
  const auto found = std::ranges::find(families(), spec.name, &Family::name);
  if (found == families().end()) {
    fail(ErrorKind::kUsage, "model", "expected one of {}, got '{}' at --model",
         fmt::join(model_names(), ", "), spec.name);
  }
  if (spec.num_classes < 1 || spec.image_size < 1) {
    fail(ErrorKind::kUsage, "model", "expected at least one class and one pixel, got {} and {}",
         spec.num_classes, spec.image_size);
  }
  if (std::ranges::find(attention_names(), spec.attention) == attention_names().end()) {
    fail(ErrorKind::kUsage, "model", "expected one of {}, got '{}' at --attention",
         fmt::join(attention_names(), ", "), spec.attention);
  }
  const auto& [name, depths, bottleneck] = *found;
  const bool imagenet = resolve_stem(spec.stem, spec.image_size) == "imagenet";

  NetShape net{conv_layer(3, kStemChannels, imagenet ? 7 : 3, imagenet ? 2 : 1), imagenet, {}, 0};
  int64_t channels = kStemChannels;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = kStemChannels << stage;
    const int64_t out = bottleneck ? 4 * width : width;
    for (int i = 0; i < depths[stage]; ++i) {
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      BlockShape block{fmt::format("layer{}.{}", stage + 1, i), {}, {}};
      if (bottleneck) {
        block.convs = {conv_layer(channels, width, 1, 1), conv_layer(width, width, 3, stride),
                       conv_layer(width, out, 1, 1)};
      } else {
        block.convs = {conv_layer(channels, width, 3, stride), conv_layer(width, width, 3, 1)};
      }
      if (stride != 1 || channels != out) block.downsample = conv_layer(channels, out, 1, stride);
      net.blocks.push_back(std::move(block));
      channels = out;
    }
  }
  net.features = channels;
  return net;
}

}  // namespace

const std::vector<std::string>& resnet_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> keys;
    for (const Family& family : families()) keys.push_back(family.name);
    return keys;
  }();
  return names;
}

int64_t stages_from_head(const std::string& name) {
  if (name.starts_with("fc.")) return 0;
  return name.starts_with("layer") ? 5 - (name[5] - '0') : 5;
}

ResNet::ResNet(const ModelSpec& spec, uint64_t seed, at::Device device) : Model(spec, device) {
  const NetShape net = net_shape(spec);
  spec_.stem = resolve_stem(spec.stem, spec.image_size);
  Initialiser init(seed);

  const auto make_unit = [&](const std::string& conv, const std::string& bn,
                             const ConvLayer& shape) {
    ConvBnUnit unit;
    unit.weight = add_parameter(conv + ".weight", init.conv(shape.out, shape.in, shape.kernel));
    unit.stride = shape.stride;
    unit.padding = shape.padding;
    unit.norm = add_batch_norm(bn, shape.out);
    return unit;
  };

  stem_.units = {make_unit("conv1", "bn1", net.stem)};
  for (const BlockShape& shape : net.blocks) {
    Block block{{}, shape.name.ends_with(".0"), std::nullopt, std::nullopt};
    ConvChain& chain = block.chain;
    for (size_t i = 0; i < shape.convs.size(); ++i) {
      chain.units.push_back(make_unit(fmt::format("{}.conv{}", shape.name, i + 1),
                                      fmt::format("{}.bn{}", shape.name, i + 1), shape.convs[i]));
    }
    chain.residual = chain.last_relu = spec.attention == "none";
    if (!chain.residual) {
      block.attention.emplace(
          spec.attention, shape.convs.back().out, shape.name + ".se", init,
          [this](const auto& name, at::Tensor values) { return add_parameter(name, values); },
          [this](const auto& name, int64_t channels) { return add_batch_norm(name, channels); });
    }
    if (shape.downsample) {
      const ConvBnUnit unit =
          make_unit(shape.name + ".downsample.0", shape.name + ".downsample.1", *shape.downsample);
      if (chain.residual) {
        chain.downsample = unit;
      } else {
        block.shortcut.emplace();
        block.shortcut->units = {unit};
        block.shortcut->last_relu = false;
      }
    }
    blocks_.push_back(std::move(block));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(net.features));
  fc_weight_ = add_parameter("fc.weight", init.uniform({spec.num_classes, net.features}, bound));
  fc_bias_ = add_parameter("fc.bias", init.uniform({spec.num_classes}, bound));
}

at::Tensor ResNet::apply(ConvChain& chain, const at::Tensor& src, bool training) {
  // conv_chain() has gradients with the statistics of a batch only.
  const bool has_kernel = training || !at::GradMode::is_enabled();
  if (has_kernel && kernels_.word() != "torch" && conv_chain_supports(chain, src))
    return conv_chain(chain, src, training, kernels_);

  const auto conv_bn = [&](const ConvBnUnit& unit, const at::Tensor& x) {
    return apply_batch_norm(at::conv2d(x, unit.weight, /*bias=*/{}, unit.stride, unit.padding),
                            unit.norm, training);
  };
  at::Tensor residual = chain.residual ? src : at::Tensor();
  if (chain.downsample) residual = conv_bn(*chain.downsample, src);
  at::Tensor x = src;
  for (const ConvBnUnit& unit : chain.units) {
    x = conv_bn(unit, x);
    // In place where backward does not need what is overwritten: BatchNorm keeps its input, ReLU
    // its result, the addition nothing.
    const bool last = &unit == &chain.units.back();
    if (last && residual.defined()) x.add_(residual);
    if (!last || chain.last_relu) x.relu_();
  }
  return x;
}

at::Tensor ResNet::apply(Block& block, const at::Tensor& src, bool training) {
  const at::Tensor dst = apply(block.chain, src, training);
  if (!block.attention) return dst;
  at::Tensor x = block.attention->forward(dst, training);
  return x.add_(block.shortcut ? apply(*block.shortcut, src, training) : src).relu_();
}

void ResNet::choose_kernels(int64_t images, int64_t height, int64_t width) {
  std::pair side = skipway::choose_kernels(stem_, images, height, width, kernels_);
  if (spec_.stem == "imagenet") side = {(side.first + 1) / 2, (side.second + 1) / 2};  // max-pool
  for (const Block& block : blocks_) {
    if (block.shortcut)
      skipway::choose_kernels(*block.shortcut, images, side.first, side.second, kernels_);
    side = skipway::choose_kernels(block.chain, images, side.first, side.second, kernels_);
  }
}

at::Tensor ResNet::forward(const at::Tensor& images, bool training) {
  // With frozen BatchNorm alone LibTorch trains, see apply().
  const bool has_kernel = frozen_backbone_ || !frozen_batch_norm_;
  if (training && has_kernel && kernels_.word() == "auto" && conv_chain_supports(stem_, images))
    choose_kernels(images.size(0), images.size(2), images.size(3));  // measured once a shape
  const bool of_batch = training && !frozen_backbone_ && !frozen_batch_norm_;  // statistics
  at::Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);            // [n,3,h,w]
  {
    const c10::AutoGradMode gradients(c10::GradMode::is_enabled() &&
                                      !(training && frozen_backbone_));
    x = apply(stem_, x, of_batch);
    if (spec_.stem == "imagenet") x = at::max_pool2d(x, 3, /*stride=*/2, /*padding=*/1);
    for (Block& block : blocks_)
      if (!training || !shallow_ || block.begins_stage) x = apply(block, x, of_batch);
  }

  // Outside autocast: a thousandth of the work, and bf16 logits would often be equal.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::Tensor features =
      x.mean({2, 3}, /*keepdim=*/false, fc_weight_.scalar_type());  // [n,features]
  return at::linear(features, fc_weight_, fc_bias_);
}

void ResNet::set_batch_norm_momentum(double momentum) {
  const auto set = [&](ConvChain& chain) {
    for (ConvBnUnit& unit : chain.units) unit.norm.momentum = momentum;
    if (chain.downsample) chain.downsample->norm.momentum = momentum;
  };
  set(stem_);
  for (Block& block : blocks_) {
    set(block.chain);
    if (block.shortcut) set(*block.shortcut);
    if (block.attention) block.attention->set_batch_norm_momentum(momentum);
  }
}

void ResNet::set_frozen(bool backbone, bool batch_norm) {
  if (backbone == frozen_backbone_ && batch_norm == frozen_batch_norm_) return;
  frozen_backbone_ = backbone;
  frozen_batch_norm_ = batch_norm;
  for (const auto& [name, parameter] : parameters()) {
    const bool is_head = stages_from_head(name) == 0;
    const bool is_attention_bias = name.find(".se.fc") != std::string::npos;
    const bool is_batch_norm = !is_head && !is_attention_bias && parameter.dim() == 1;
    parameter.set_requires_grad(is_head || !(backbone || (batch_norm && is_batch_norm)));
  }
}

std::vector<at::Tensor> ResNet::last_gammas(bool skipped_only) const {
  std::vector<at::Tensor> gammas;
  for (const Block& block : blocks_)
    if (!(skipped_only && block.begins_stage))
      gammas.push_back(block.chain.units.back().norm.weight);
  return gammas;
}

ModelCost resnet_cost(const ModelSpec& spec, int64_t bytes_per_value) {
  const NetShape net = net_shape(spec);
  ModelCost cost;
  int64_t attention_bytes = 0;
  int64_t values = 3 * spec.image_size * spec.image_size;  // kept, of bytes_per_value each
  int64_t index_bytes = 0;
  // Adds a convolution and its BatchNorm; gives the side of the result.
  const auto add_unit = [&](const ConvLayer& conv, int64_t size) {
    const int64_t side = conv.output_size(size);
    cost.parameters += conv.parameters() + 2 * conv.out;
    cost.macs += conv.parameters() * side * side;
    values += conv.out * side * side;
    return side;
  };
  const auto add_relu = [&](int64_t channels, int64_t side) { values += channels * side * side; };

  int64_t size = add_unit(net.stem, spec.image_size);
  add_relu(net.stem.out, size);
  if (net.max_pool) {
    size = conv_layer(0, 0, 3, 2).output_size(size);
    const int64_t pooled = net.stem.out * size * size;
    values += pooled;
    index_bytes += pooled * static_cast<int64_t>(sizeof(int64_t));
  }
  for (const BlockShape& block : net.blocks) {
    int64_t side = size;
    for (const ConvLayer& conv : block.convs) {
      side = add_unit(conv, side);
      add_relu(conv.out, side);
    }
    if (block.downsample) add_unit(*block.downsample, size);
    const ModelCost attention =
        attention_cost(spec.attention, block.convs.back().out, side, bytes_per_value);
    cost.parameters += attention.parameters;
    cost.macs += attention.macs;
    attention_bytes += attention.activation_bytes;
    size = side;
  }
  cost.parameters += (net.features + 1) * spec.num_classes;
  cost.macs += net.features * spec.num_classes;
  cost.activation_bytes = values * bytes_per_value + attention_bytes + index_bytes +
                          net.features * static_cast<int64_t>(sizeof(float));
  return cost;
}

}  // namespace skipway
