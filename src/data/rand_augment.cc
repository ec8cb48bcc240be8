#include "data/rand_augment.h"

#include <cmath>

#include "data/colour.h"
#include "data/geometry.h"

namespace skipway {

void apply(RandOperation operation, Pixels image, int64_t magnitude, bool opposite) {
  const double share = static_cast<double>(magnitude) / static_cast<double>(kMostMagnitude);
  const double sign = opposite ? -1 : 1;
  const double shear = sign * 0.3 * share;
  const double factor = 1 + sign * 0.9 * share;
  // A share of the side, in whole pixels. 150/331 comes from AutoAugment's images of 331 pixels.
  const auto shift = [&](int64_t side) {
    return sign * std::trunc(150.0 / 331 * static_cast<double>(side) * share);
  };
  const auto move = [&](const Affine& affine) { warp(image, affine, Sampling::kNearest); };
  switch (operation) {
    case RandOperation::kIdentity:
      return;
    case RandOperation::kShearX:  // about the corner, not the middle
      return move({.xy = shear, .x0 = shear * static_cast<double>(image.h) / 2});
    case RandOperation::kShearY:
      return move({.yx = shear, .y0 = shear * static_cast<double>(image.w) / 2});
    case RandOperation::kTranslateX:
      return move({.x0 = -shift(image.w)});
    case RandOperation::kTranslateY:
      return move({.y0 = -shift(image.h)});
    case RandOperation::kRotate:
      return move(rotation(sign * 30 * share));
    case RandOperation::kBrightness:
      return adjust_brightness(image, factor);
    case RandOperation::kColour:
      return adjust_saturation(image, factor);
    case RandOperation::kContrast:
      return adjust_contrast(image, factor);
    case RandOperation::kSharpness:
      return adjust_sharpness(image, factor);
    case RandOperation::kPosterize:
      return posterize(image, 8 - static_cast<int>(std::lround(4 * share)));
    case RandOperation::kSolarize:
      return solarize(image, 255 * (1 - share));
    case RandOperation::kAutocontrast:
      return autocontrast(image);
    case RandOperation::kEqualize:
      return equalize(image);
  }
}

void rand_augment(Pixels image, const RandAugmentOptions& options, Rng rng) {
  for (int64_t i = 0; i < options.ops; ++i) {
    const auto operation = static_cast<RandOperation>(rng.below(kRandOperations));
    apply(operation, image, options.magnitude, rng.below(2) == 1);
  }
}

}  // namespace skipway
