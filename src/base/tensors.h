// Small types, and a bound, that modules side by side share.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace skipway {

/// Tensors by name, in order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The memory of a contiguous tensor on the CPU, for as long as it lives.
inline std::string_view bytes_of(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

/// Of an image's side [pixels].
constexpr int64_t kMaxImageSize = 1 << 14;

/// Per-channel mean and standard deviation of images in [0, 1].
struct Normalisation {
  std::array<double, 3> mean{0, 0, 0};
  std::array<double, 3> std{1, 1, 1};
};

}  // namespace skipway
