// The network out of ATen's operators and conv3x3().
#include "model/airbench.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "model/conv3x3.h"
#include "model/initialiser.h"

namespace skipway {
namespace {

constexpr int64_t kWhitenSize = 2;  // side of its filters [pixels]
constexpr int64_t kWhitenFilters = 2 * 3 * kWhitenSize * kWhitenSize;  // each with both signs
constexpr std::array<int64_t, 3> kWidths = {64, 256, 256};
constexpr int64_t kLastPool = 3;
constexpr int64_t kKernelChannels = 32;  // what the kernels want in place of 24; the rest is zero
constexpr double kHeadScale = 1. / 9;
constexpr double kNormEps = 1e-12;

}  // namespace

Airbench::Airbench(const ModelSpec& spec, uint64_t seed, at::Device device) : Model(spec, device) {
  if (spec.num_classes < 1 || spec.image_size < kAirbenchSmallestSide)
    fail(ErrorKind::kUsage, "model",
         "expected at least one class and images of {} pixels a side for {}, got {} and {}",
         kAirbenchSmallestSide, kAirbench94, spec.num_classes, spec.image_size);
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
  const auto norm = [&](const std::string& name, int64_t channels) {
    Norm made;
    made.weight = add_buffer(name + ".weight", at::ones({channels}));
    made.bias = add_parameter(name + ".bias", at::zeros({channels}));
    made.running_mean = add_buffer(name + ".running_mean", at::zeros({channels}));
    made.running_var = add_buffer(name + ".running_var", at::ones({channels}));
    made.num_batches_tracked = add_buffer(name + ".num_batches_tracked", at::zeros({}, at::kLong));
    return made;
  };
  whiten_ = add_buffer("0.weight", kaiming_uniform(kWhitenFilters, 3, kWhitenSize));
  whiten_bias_ = add_parameter("0.bias", at::zeros({kWhitenFilters}));
  int64_t channels = kWhitenFilters;
  for (size_t i = 0; i < kWidths.size(); ++i) {
    const std::string name = std::to_string(i + 2);  // behind the GELU, number 1
    Group group;
    group.conv1 = conv(name + ".conv1", channels, kWidths[i]);
    group.norm1 = norm(name + ".norm1", kWidths[i]);
    group.conv2 = conv(name + ".conv2", kWidths[i], kWidths[i]);
    group.norm2 = norm(name + ".norm2", kWidths[i]);
    groups_.push_back(group);
    channels = kWidths[i];
  }
  head_ = add_parameter("7.weight", init.uniform({spec.num_classes, channels},
                                                 1 / std::sqrt(static_cast<double>(channels))));
}

at::Tensor Airbench::convolve(const at::Tensor& src, const at::Tensor& weight) {
  if (kernels_.word() != "torch" && conv3x3_supports(weight, src))
    return conv3x3(src, weight, kernels_);
  return at::conv2d(src, weight, /*bias=*/{}, /*stride=*/1, /*padding=*/1);
}

at::Tensor Airbench::norm_gelu(const at::Tensor& src, const Norm& norm, bool training) const {
  return at::gelu(apply_batch_norm(src, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                                   training, momentum_, kNormEps));
}

at::Tensor Airbench::forward(const at::Tensor& images, bool training) {
  at::Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);  // [n,3,h,w]
  const bool padded = kernels_.word() != "torch" && images.is_cpu();
  const auto more_channels = [padded](const at::Tensor& t, int64_t dim) {
    if (!padded) return t;
    std::vector<int64_t> pad(static_cast<size_t>(2 * (t.dim() - dim)), 0);
    pad.back() = kKernelChannels - kWhitenFilters;
    return at::constant_pad_nd(t, pad);
  };
  x = at::gelu(at::conv2d(x, more_channels(whiten_, 0), more_channels(whiten_bias_, 0)));
  for (Group& group : groups_) {
    const bool first = &group == &groups_.front();
    x = at::max_pool2d(convolve(x, first ? more_channels(group.conv1, 1) : group.conv1), 2);
    x = norm_gelu(x, group.norm1, training);
    x = norm_gelu(convolve(x, group.conv2), group.norm2, training);
    if (training) {
      group.norm1.num_batches_tracked.add_(1);
      group.norm2.num_batches_tracked.add_(1);
    }
  }
  x = at::max_pool2d(x, kLastPool);
  // Of larger images more than one pixel is left; the source knows 32 pixels only.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::Tensor features = x.mean({2, 3}, /*keepdim=*/false, head_.scalar_type());
  return at::linear(features, head_) * kHeadScale;
}

ModelCost airbench_cost(const ModelSpec& spec, int64_t bytes_per_value) {
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
  for (const int64_t width : kWidths) {
    cost.parameters += conv(width, 3);
    pool(2);
    values += 2 * width * side * side;  // of BatchNorm and of GELU
    cost.parameters += conv(width, 3);
    values += 2 * width * side * side;
    cost.parameters += 2 * width;  // biases
  }
  pool(kLastPool);
  cost.parameters += channels * spec.num_classes;
  cost.macs += channels * spec.num_classes;
  cost.activation_bytes =
      values * bytes_per_value + index_bytes + channels * static_cast<int64_t>(sizeof(float));
  return cost;
}

}  // namespace skipway
