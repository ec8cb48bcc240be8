#include "data/mix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "data/augment_key.h"
#include "data/geometry.h"

namespace skipway {
namespace {

// Share of `own` that is left.
double mix_up(Pixels own, const uint8_t* other, double share) {
  const auto mine = static_cast<float>(share), theirs = static_cast<float>(1 - share);
  for (int64_t i = 0; i < own.bytes(); ++i)
    own.data[i] = static_cast<uint8_t>(mine * static_cast<float>(own.data[i]) +
                                       theirs * static_cast<float>(other[i]) + 0.5F);
  return share;
}

double cut_mix(Pixels own, const uint8_t* other, double share, Rng& rng) {
  const double half = std::sqrt(1 - share) / 2;
  const auto span = [&](int64_t side) {
    const auto length = static_cast<double>(side);
    const auto middle = std::floor(length * rng.uniform()), reach = half * length;
    const auto begin = static_cast<int64_t>(std::max(middle - reach, 0.0));
    return std::pair(begin, static_cast<int64_t>(std::min(middle + reach, length)));
  };
  const auto [top, bottom] = span(own.h);
  const auto [left, right] = span(own.w);
  for (int64_t y = top; y < bottom; ++y) {
    const int64_t at = 3 * (y * own.w + left);
    std::copy_n(other + at, 3 * (right - left), own.data + at);
  }
  return 1 -
         static_cast<double>((bottom - top) * (right - left)) / static_cast<double>(own.count());
}

double mix_one(Pixels own, const uint8_t* other, const MixOptions& options, Rng rng) {
  const bool first = rng.below(2) == 0;
  const bool up = options.cutmix_alpha == 0 || (options.mixup_alpha > 0 && first);
  const double share = draw_beta(rng, up ? options.mixup_alpha : options.cutmix_alpha);
  return up ? mix_up(own, other, share) : cut_mix(own, other, share, rng);
}

}  // namespace

double draw_beta(Rng& rng, double alpha) {
  while (true) {
    const double x = std::pow(1 - rng.uniform(), 1 / alpha);
    const double y = std::pow(1 - rng.uniform(), 1 / alpha);
    if (x + y <= 1) return x / (x + y);
  }
}

at::Tensor others_of(const at::Tensor& batch) { return batch.roll(-1, 0); }

Mixed mix(const at::Tensor& images, const at::Tensor& indices, const MixOptions& options,
          uint64_t seed, int64_t epoch) {
  const int64_t b = images.size(0), h = images.size(1), w = images.size(2);
  const at::Tensor before = images.cpu().contiguous();
  const at::Tensor after = before.clone();
  const at::Tensor shares = at::empty({b}, at::kFloat);
  const auto* from = before.const_data_ptr<uint8_t>();
  auto* to = after.data_ptr<uint8_t>();
  const auto indices_at = indices.accessor<int64_t, 1>();
  auto shares_at = shares.accessor<float, 1>();
  at::parallel_for(0, b, /*grain=*/8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Pixels own{to + i * h * w * 3, h, w};
      const uint8_t* const other = from + (i + 1) % b * h * w * 3;
      shares_at[i] = static_cast<float>(
          mix_one(own, other, options, augment_rng(seed, epoch, indices_at[i], AugmentUse::kMix)));
    }
  });
  return {after.to(images.device()), shares.to(images.device())};
}

}  // namespace skipway
