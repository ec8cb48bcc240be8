// Out of ATen's operators: next to a block's convolutions the work is small.
#include "model/attention.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <algorithm>
#include <cmath>

namespace skipway {
namespace {

constexpr int64_t kReduction = 16;   // of channels, in se and cbam
constexpr int64_t kSeMultiple = 8;   // se has as many hidden channels, or twice, …
constexpr int64_t kSpatialSize = 7;  // of cbam's filter [pixels]

int64_t hidden_channels(const std::string& kind, int64_t channels) {
  const int64_t multiple = kind == "se" ? kSeMultiple : 1;
  return std::max(multiple, (channels / kReduction + multiple / 2) / multiple * multiple);
}

// Channels that eca looks at: an odd number near half the logarithm.
int64_t neighbour_count(int64_t channels) {
  const auto count = static_cast<int64_t>((std::log2(static_cast<double>(channels)) + 1) / 2);
  return std::max<int64_t>(3, count % 2 == 1 ? count : count + 1);
}

// [out,in,1,1] as a matrix.
at::Tensor matrix(const at::Tensor& weight) {
  return weight.view({weight.size(0), weight.size(1)});
}

}  // namespace

const std::vector<std::string>& attention_names() {
  static const std::vector<std::string> names = {"none", "se", "eca", "cbam"};
  return names;
}

Attention::Attention(const std::string& kind, int64_t channels, const std::string& name,
                     Initialiser& init, const AddParameter& add_parameter,
                     const AddBatchNorm& add_batch_norm)
    : kind_(kind) {
  if (kind == "eca") {
    const int64_t count = neighbour_count(channels);
    neighbours_ =
        add_parameter(name + ".conv.weight",
                      init.uniform({1, 1, count}, 1 / std::sqrt(static_cast<double>(count))));
    return;
  }
  const int64_t hidden = hidden_channels(kind, channels);
  const auto bias = [&](int64_t size, int64_t inputs) {
    return init.uniform({size}, 1 / std::sqrt(static_cast<double>(inputs)));
  };
  const std::string fc = name + (kind == "cbam" ? ".channel" : "");
  fc1_weight_ = add_parameter(fc + ".fc1.weight", init.conv(hidden, channels, 1));
  if (kind == "se") fc1_bias_ = add_parameter(fc + ".fc1.bias", bias(hidden, channels));
  fc2_weight_ = add_parameter(fc + ".fc2.weight", init.conv(channels, hidden, 1));
  if (kind == "se") fc2_bias_ = add_parameter(fc + ".fc2.bias", bias(channels, hidden));
  if (kind == "se") return;

  const std::string spatial = name + ".spatial.conv";
  spatial_weight_ = add_parameter(spatial + ".conv.weight", init.conv(1, 2, kSpatialSize));
  norm_ = add_batch_norm(spatial + ".bn", 1);
}

// [n,c,h,w] -> [n,c,1,1], in the parameters' type.
at::Tensor Attention::channel_gate(const at::Tensor& src) const {
  const at::Tensor& first = kind_ == "eca" ? neighbours_ : fc1_weight_;
  const at::Tensor mean = src.mean({2, 3}, /*keepdim=*/false, first.scalar_type());  // [n,c]
  at::Tensor logits;
  if (kind_ == "eca") {
    logits = at::conv1d(mean.unsqueeze(1), neighbours_, /*bias=*/{}, /*stride=*/1,
                        /*padding=*/neighbours_.size(2) / 2);
  } else {
    const auto excite = [&](const at::Tensor& squeezed) {
      return at::linear(at::linear(squeezed, matrix(fc1_weight_), fc1_bias_).relu_(),
                        matrix(fc2_weight_), fc2_bias_);
    };
    logits = excite(mean);
    if (kind_ == "cbam") logits = logits + excite(src.amax({2, 3}).to(mean.scalar_type()));
  }
  return logits.sigmoid().view({src.size(0), src.size(1), 1, 1});
}

// [n,c,h,w] -> [n,1,h,w], in the parameters' type.
at::Tensor Attention::pixel_gate(const at::Tensor& src, bool training) {
  const at::ScalarType type = spatial_weight_.scalar_type();
  const at::Tensor maps = at::cat({src.mean(1, /*keepdim=*/true, type),  //
                                   src.amax(1, /*keepdim=*/true).to(type)},
                                  1);
  return apply_batch_norm(at::conv2d(maps, spatial_weight_, /*bias=*/{}, /*stride=*/1,
                                     /*padding=*/kSpatialSize / 2),
                          norm_, training)
      .sigmoid();
}

at::Tensor Attention::forward(const at::Tensor& src, bool training) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::ScalarType type = src.scalar_type();
  const at::Tensor scaled = src * channel_gate(src).to(type);
  return kind_ == "cbam" ? scaled * pixel_gate(scaled, training).to(type) : scaled;
}

ModelCost attention_cost(const std::string& kind, int64_t channels, int64_t side,
                         int64_t bytes_per_value) {
  ModelCost cost;
  if (kind == "none") return cost;
  const int64_t pixels = side * side;
  cost.activation_bytes = channels * pixels * bytes_per_value;  // the map that is scaled
  if (kind == "eca") {
    cost.parameters = neighbour_count(channels);
    cost.macs = cost.parameters * channels;
    return cost;
  }
  const int64_t hidden = hidden_channels(kind, channels);
  cost.parameters = cost.macs = 2 * channels * hidden;
  if (kind == "se") {
    cost.parameters += channels + hidden;
    return cost;
  }
  constexpr int64_t kSpatial = 2 * kSpatialSize * kSpatialSize;
  cost.parameters += kSpatial + 2;
  cost.macs = 2 * cost.macs + kSpatial * pixels;
  // Once more, and of a pixel: the two maps, the convolution's result and the gate, in fp32.
  cost.activation_bytes +=
      channels * pixels * bytes_per_value + 4 * pixels * static_cast<int64_t>(sizeof(float));
  return cost;
}

}  // namespace skipway
