#include "model/batch_statistics.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>

namespace skipway {

at::Tensor apply_batch_norm(const at::Tensor& src, const BatchNorm& norm, bool training) {
  if (training && norm.num_batches_tracked.defined()) norm.num_batches_tracked.add_(1);
  const bool moves = !training || src.numel() > src.size(1);
  return at::batch_norm(src, norm.weight, norm.bias, moves ? norm.running_mean : at::Tensor(),
                        moves ? norm.running_var : at::Tensor(), training, norm.momentum, norm.eps,
                        /*cudnn_enabled=*/true);
}

BatchStatistics batch_statistics(const BatchNorm& norm, int64_t pixels, const TwoSums& sums) {
  if (norm.num_batches_tracked.defined()) norm.num_batches_tracked.add_(1);
  const int64_t channels = norm.weight.size(0);
  BatchStatistics statistics{at::empty({4, channels}, norm.weight.options())};
  float* row = statistics.rows.mutable_data_ptr<float>();
  const float *weight = norm.weight.const_data_ptr<float>(),
              *bias = norm.bias.const_data_ptr<float>();
  float* running_mean = norm.running_mean.mutable_data_ptr<float>();
  float* running_var = norm.running_var.mutable_data_ptr<float>();
  const auto n = static_cast<double>(pixels);
  for (int64_t i = 0; i < channels; ++i) {
    const auto at = static_cast<size_t>(i);
    const double mean = sums.sum[at] / n;
    const double variance = std::max(sums.with_other[at] / n - mean * mean, 0.0);
    const double inverse_std = 1 / std::sqrt(variance + norm.eps);
    const double scale = static_cast<double>(weight[i]) * inverse_std;
    row[i] = static_cast<float>(mean);
    row[channels + i] = static_cast<float>(inverse_std);
    row[2 * channels + i] = static_cast<float>(scale);
    row[3 * channels + i] = static_cast<float>(static_cast<double>(bias[i]) - scale * mean);
    const auto move_towards = [&](float& running, double value) {
      running = static_cast<float>((1 - norm.momentum) * static_cast<double>(running) +
                                   norm.momentum * value);
    };
    if (pixels == 1) continue;  // as apply_batch_norm()
    move_towards(running_mean[i], mean);
    move_towards(running_var[i], variance * n / (n - 1));
  }
  return statistics;
}

BackwardCoefficients batch_norm_backward(const at::Tensor& weight,
                                         const BatchStatistics& statistics, int64_t pixels,
                                         const TwoSums& sums, at::Tensor& grad_weight,
                                         at::Tensor& grad_bias) {
  const auto channels = static_cast<size_t>(weight.size(0));
  grad_weight = at::empty_like(weight), grad_bias = at::empty_like(weight);
  float *to_weight = grad_weight.mutable_data_ptr<float>(),
        *to_bias = grad_bias.mutable_data_ptr<float>();
  const float *weights = weight.const_data_ptr<float>(), *means = statistics.mean(),
              *inverse_stds = statistics.inverse_std();
  BackwardCoefficients to{std::vector<float>(channels), std::vector<float>(channels),
                          std::vector<float>(channels)};
  const auto n = static_cast<double>(pixels);
  for (size_t i = 0; i < channels; ++i) {
    const auto mean = static_cast<double>(means[i]);
    const auto inverse_std = static_cast<double>(inverse_stds[i]);
    const double with_normalised = (sums.with_other[i] - mean * sums.sum[i]) * inverse_std;
    to_weight[i] = static_cast<float>(with_normalised);
    to_bias[i] = static_cast<float>(sums.sum[i]);
    const double by_grad = static_cast<double>(weights[i]) * inverse_std;
    const double by_dst = -by_grad * inverse_std * with_normalised / n;
    to.by_grad[i] = static_cast<float>(by_grad);
    to.by_dst[i] = static_cast<float>(by_dst);
    to.constant[i] = static_cast<float>(-by_grad * sums.sum[i] / n - by_dst * mean);
  }
  return to;
}

}  // namespace skipway
