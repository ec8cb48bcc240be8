// Mixup and cutmix: each image of a batch takes over a part of the next one. What an image takes is
// a function of (seed, epoch, image); from whom, of the batch's order.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/rng.h"

namespace skipway {

struct MixOptions {
  double mixup_alpha = 0;   // of Beta(alpha, alpha), from which the share is drawn; 0: no mixup
  double cutmix_alpha = 0;  // as well; 0: no cutmix. With both, each image is drawn one of them

  bool any() const { return mixup_alpha > 0 || cutmix_alpha > 0; }
};
constexpr double kLeastAlpha = 0.05, kMostAlpha = 4;

/// Image i of the batch is left with a share of itself, the rest is of image i+1 (of the last: the
/// first); the loss is to be weighted in the same way.
struct Mixed {
  at::Tensor images;     // uint8 [b,h,w,3], as those that came
  at::Tensor own_share;  // float [b] on the same device, in [0, 1]
};

/// Mixup: own_share of the image's brightness plus the rest of the other's (Zhang et al.,
/// arXiv:1710.09412). Cutmix: a rectangle of the other's, anywhere, cut off at the border; its area
/// is what the share is made of (Yun et al., arXiv:1905.04899).
/// Shapes: images uint8 [b,h,w,3], indices int64 [b] on the CPU.
Mixed mix(const at::Tensor& images, const at::Tensor& indices, const MixOptions& options,
          uint64_t seed, int64_t epoch);

/// Batch [b,...] with each row in the place of the one before it, of which it is the other.
at::Tensor others_of(const at::Tensor& batch);

/// A draw of Beta(alpha, alpha), alpha from kLeastAlpha to kMostAlpha. Source: Jöhnk, Metrika 1964.
double draw_beta(Rng& rng, double alpha);

}  // namespace skipway
