// The networks, on src/kernels through conv_chain.h and norm_gelu.h, or out of LibTorch's
// operators.
#include "model/airbench.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "model/conv_chain.h"
#include "model/initialiser.h"

namespace skipway {
namespace {

constexpr int64_t kWhitenSize = 2;  // side of its filters [pixels]
constexpr int64_t kWhitenFilters = 2 * 3 * kWhitenSize * kWhitenSize;  // each with both signs
constexpr int64_t kLastPool = 3;
constexpr int64_t kKernelChannels = 32;  // what the kernels want in place of 24; the rest is zero
constexpr double kHeadScale = 1. / 9;
constexpr double kNormEps = 1e-12;

struct Size {
  const char* name;
  std::array<int64_t, 3> widths;  // channels of each group
  int convolutions;  // of a group; from three on the last two have a residual connection
};
constexpr std::array<Size, 4> kSizes{{
    {"airbench93", {64, 128, 128}, 2},
    {"airbench94", {64, 256, 256}, 2},
    {"airbench95", {128, 384, 384}, 2},
    {"airbench96", {128, 512, 512}, 3},
}};

const Size& size_of(const std::string& name) {
  return *std::ranges::find_if(kSizes, [&](const Size& size) { return name == size.name; });
}

void check(const ModelSpec& spec) {
  if (!is_airbench(spec.name))
    fail(ErrorKind::kUsage, "model", "expected one of {}, got {}",
         fmt::join(airbench_names(), ", "), spec.name);
  if (spec.num_classes < 1 || spec.image_size < kAirbenchSmallestSide)
    fail(
        ErrorKind::kUsage, "model",
        "expected at least one class and images of at least {} pixels a side for {}, got {} and {}",
        kAirbenchSmallestSide, spec.name, spec.num_classes, spec.image_size);
}

}  // namespace

const std::vector<std::string>& airbench_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Size& size : kSizes) all.emplace_back(size.name);
    return all;
  }();
  return names;
}

bool is_airbench(const std::string& model) {
  return std::ranges::find(airbench_names(), model) != airbench_names().end();
}

Airbench::Airbench(const ModelSpec& spec, uint64_t seed, at::Device device) : Model(spec, device) {
  check(spec);
  spec_.stem = resolve_stem(spec.stem, spec.image_size);
  Initialiser init(seed);
  const auto kaiming_uniform = [&](int64_t out, int64_t in, int64_t size) {
    return init.uniform({out, in, size, size},
                        1 / std::sqrt(static_cast<double>(in * size * size)));
  };
  const auto conv = [&](const std::string& name, int64_t in, int64_t out) {
    at::Tensor weight = kaiming_uniform(out, in, 3);
    for (int64_t i = 0; i < std::min(in, out); ++i) weight[i].zero_()[i][1][1].fill_(1);
    return add_parameter(name + ".weight", weight);
  };
  const auto add_layer = [&](const std::string& group, const std::string& number, int64_t in,
                             int64_t out) {
    Layer layer;
    layer.conv = conv(group + ".conv" + number, in, out);
    layer.norm = add_batch_norm(group + ".norm" + number, out, /*trains_weight=*/false);
    layer.norm.eps = kNormEps;
    return layer;
  };
  whiten_ = add_buffer("0.weight", kaiming_uniform(kWhitenFilters, 3, kWhitenSize));
  whiten_bias_ = add_parameter("0.bias", at::zeros({kWhitenFilters}));
  int64_t channels = kWhitenFilters;
  const Size& size = size_of(spec.name);
  for (size_t i = 0; i < size.widths.size(); ++i) {
    const std::string name = std::to_string(i + 2);  // behind the GELU, number 1
    std::vector<Layer> group;
    for (int layer = 1; layer <= size.convolutions; ++layer) {
      group.push_back(add_layer(name, std::to_string(layer), channels, size.widths[i]));
      channels = size.widths[i];
    }
    groups_.push_back(std::move(group));
  }
  head_ = add_parameter("7.weight", init.uniform({spec.num_classes, channels},
                                                 1 / std::sqrt(static_cast<double>(channels))));
}

void Airbench::set_batch_norm_momentum(double momentum) {
  for (std::vector<Layer>& group : groups_)
    for (Layer& layer : group) layer.norm.momentum = momentum;
}

at::Tensor Airbench::forward(const at::Tensor& images, bool training) {
  at::Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);  // [n,3,h,w]
  // norm_gelu() has gradients with the statistics of a batch only, the stem none of the images.
  const bool has_kernel = training || !at::GradMode::is_enabled();
  const bool own =
      has_kernel && kernels_.word() != "torch" && images.is_cpu() && !images.requires_grad();
  const auto convolve = [&](const at::Tensor& src, const at::Tensor& weight) {
    if (own) return convolution(src, weight, /*padding=*/1, kernels_);
    return at::conv2d(src, weight, /*bias=*/{}, /*stride=*/1, /*padding=*/1);
  };
  const auto activate = [&](const at::Tensor& src, bool pool, const BatchNorm& norm) {
    if (own) return norm_gelu(src, pool, norm, training);
    return at::gelu(apply_batch_norm(pool ? at::max_pool2d(src, 2) : src, norm, training));
  };
  const auto more_channels = [own](const at::Tensor& t, int64_t dim) {
    if (!own) return t;
    std::vector<int64_t> pad(static_cast<size_t>(2 * (t.dim() - dim)), 0);
    pad.back() = kKernelChannels - kWhitenFilters;
    return at::constant_pad_nd(t, pad);
  };
  x = own ? bias_gelu(convolution(x, more_channels(whiten_, 0), /*padding=*/0, kernels_),
                      more_channels(whiten_bias_, 0))
          : at::gelu(at::conv2d(x, whiten_, whiten_bias_));
  for (const std::vector<Layer>& group : groups_) {
    const Layer& pooled = group.front();
    x = convolve(x, &group == &groups_.front() ? more_channels(pooled.conv, 1) : pooled.conv);
    x = activate(x, /*pool=*/true, pooled.norm);
    const at::Tensor begin = x;
    for (size_t i = 1; i < group.size(); ++i)
      x = activate(convolve(x, group[i].conv), /*pool=*/false, group[i].norm);
    if (group.size() > 2) x = x + begin;
  }
  x = at::max_pool2d(x, std::min(kLastPool, x.size(2)));
  // Of larger images more than one pixel is left; the source knows 32 pixels only.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::Tensor features = x.mean({2, 3}, /*keepdim=*/false, head_.scalar_type());
  return at::linear(features, head_) * kHeadScale;
}

ModelCost airbench_cost(const ModelSpec& spec, int64_t bytes_per_value) {
  check(spec);
  ModelCost cost;
  int64_t values = 3 * spec.image_size * spec.image_size;
  int64_t index_bytes = 0;
  int64_t side = spec.image_size - kWhitenSize + 1, channels = kWhitenFilters;
  const auto pool = [&](int64_t size) {
    side /= size;
    values += channels * side * side;
    index_bytes += channels * side * side * static_cast<int64_t>(sizeof(int64_t));
  };
  // Its result is kept by what follows: max-pool, BatchNorm or GELU.
  const auto conv = [&](int64_t out, int64_t size) {
    const int64_t parameters = out * channels * size * size;
    cost.macs += parameters * side * side;
    values += out * side * side;
    channels = out;
    return parameters;
  };
  const int64_t in = 3;
  cost.macs += kWhitenFilters * in * kWhitenSize * kWhitenSize * side * side;
  values += 2 * kWhitenFilters * side * side;  // the convolution's result and GELU's
  cost.parameters += kWhitenFilters;           // the bias alone is trained
  const Size& size = size_of(spec.name);
  for (const int64_t width : size.widths) {
    for (int layer = 0; layer < size.convolutions; ++layer) {
      cost.parameters += conv(width, 3) + width;  // and biases
      if (layer == 0) pool(2);
      values += 2 * width * side * side;  // of BatchNorm and of GELU, or of the sum
    }
  }
  pool(std::min(kLastPool, side));
  cost.parameters += channels * spec.num_classes;
  cost.macs += channels * spec.num_classes;
  cost.activation_bytes =
      values * bytes_per_value + index_bytes + channels * static_cast<int64_t>(sizeof(float));
  return cost;
}

}  // namespace skipway
