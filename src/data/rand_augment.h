// RandAugment: a few operations drawn from fourteen, all of one strength. Source: Cubuk et al.,
// arXiv:1909.13719; operations and strengths as in torchvision's RandAugment, but with grey outside
// of the image.
#pragma once
#include "base/rng.h"
#include "data/pixels.h"

namespace skipway {

/// In torchvision's order.
enum class RandOperation {
  kIdentity,
  kShearX,
  kShearY,
  kTranslateX,
  kTranslateY,
  kRotate,
  kBrightness,
  kColour,
  kContrast,
  kSharpness,
  kPosterize,
  kSolarize,
  kAutocontrast,
  kEqualize,
};
constexpr int kRandOperations = 14;

struct RandAugmentOptions {
  int64_t ops = 0;        // operations an image goes through; 0: none
  int64_t magnitude = 9;  // of 0 … 30
};
constexpr int64_t kMostMagnitude = 30;

/// `opposite`: the other way round, for operations that have two (torchvision calls them signed).
void apply(RandOperation operation, Pixels image, int64_t magnitude, bool opposite);
/// `options.ops` operations, each drawn anew.
void rand_augment(Pixels image, const RandAugmentOptions& options, Rng rng);

}  // namespace skipway
