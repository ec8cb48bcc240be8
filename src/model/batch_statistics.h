// BatchNorm: LibTorch's, and its arithmetic on whole channels, between the kernels' sums over
// pixels and what they apply to pixels.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace skipway {

struct BatchNorm {
  at::Tensor weight, bias;               // [c], fp32 for the kernels
  at::Tensor running_mean, running_var;  // the same
  at::Tensor num_batches_tracked = {};   // int64, for torchvision; nothing reads it; may be missing
  double momentum = 0.1, eps = 1e-5;
};

/// at::batch_norm, but a batch with one value of each channel leaves the running statistics as they
/// are in training: it has no variance, of which LibTorch would make NaN.
at::Tensor apply_batch_norm(const at::Tensor& src, const BatchNorm& norm, bool training);

/// What a BatchNorm does to a map, [c] each: scale * map + shift. Null: nothing.
struct ScaleShift {
  const float *scale = nullptr, *shift = nullptr;
};

/// Two sums a channel, of a map and of it times another.
struct TwoSums {
  std::vector<double> sum, with_other;
  explicit TwoSums(int64_t channels)
      : sum(static_cast<size_t>(channels)), with_other(static_cast<size_t>(channels)) {}
};

/// What a batch has in a channel.
struct BatchStatistics {
  at::Tensor rows;  // [4,c], fp32: mean, 1 / std, and the scale and shift that they come to

  const float* mean() const { return row(0); }
  const float* inverse_std() const { return row(1); }
  ScaleShift scale_shift() const { return {row(2), row(3)}; }

 private:
  const float* row(int64_t i) const { return rows.const_data_ptr<float>() + i * rows.size(1); }
};

/// From the sums over `pixels` of a map and of its square. The running statistics move, but not by
/// those of a single pixel, which has no variance.
BatchStatistics batch_statistics(const BatchNorm& norm, int64_t pixels, const TwoSums& sums);

/// BatchNorm's backward pass: the gradient of the map before it is
/// by_grad * grad + by_dst * map + constant.
struct BackwardCoefficients {
  std::vector<float> by_grad, by_dst, constant;
};

/// From the sums over pixels of the gradient behind it, alone and times the map:
///   weight / std * (grad - mean(grad) - normalised map * mean(grad * normalised map)).
/// grad_weight and grad_bias become new tensors [c].
BackwardCoefficients batch_norm_backward(const at::Tensor& weight,
                                         const BatchStatistics& statistics, int64_t pixels,
                                         const TwoSums& sums, at::Tensor& grad_weight,
                                         at::Tensor& grad_bias);

}  // namespace skipway
