// From stored uint8 images to the normalised batch that the model sees. Every draw is a function of
// (seed, epoch, image).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "base/tensors.h"

namespace skipway {

enum class Flip { kNone, kRandom, kAlternating };
enum class CropFill { kZero, kReflect };

struct AugmentOptions {
  Flip flip = Flip::kNone;
  int64_t crop_pad = 0;  // pad by this many pixels on each side, then crop at random; 0: no crop
  CropFill crop_fill = CropFill::kZero;
  int64_t cutout = 0;  // side of a square of grey [pixels]; 0: none
};

/// What is drawn for one image in one epoch.
struct AugmentDraw {
  int64_t shift_y = 0;  // in [-crop_pad, crop_pad]
  int64_t shift_x = 0;
  bool flip = false;
  double cut_y = 0, cut_x = 0;  // centre of the square, as shares of height and width, in [0, 1)
};

/// Alternating flip: each image is flipped in every second epoch, a random half of them in the even
/// ones. Source: Jordan, arXiv:2404.00498, section 3.6. Cutout: the square may hang over the
/// border. Source: DeVries & Taylor, arXiv:1708.04552; there it has the mean colour, which is near
/// to grey.
AugmentDraw draw_augmentation(const AugmentOptions& options, uint64_t seed, int64_t epoch,
                              int64_t image);

/// Reads "flip,crop,cutout" (an empty string or "none": nothing) into options. Errors: kUsage that
/// lists the known words.
AugmentOptions parse_augment(const std::string& words, const std::string& flip_mode,
                             int64_t crop_pad, const std::string& crop_fill, int64_t cutout);

/// Takes images `indices` out of `images`, augments them and leaves them as uint8.
/// Shapes: images uint8 [n,h,w,3], indices int64 [b] on the CPU -> uint8 [b,h,w,3] on the device of
/// `images`.
at::Tensor augment(const at::Tensor& images, const at::Tensor& indices,
                   const AugmentOptions& options, uint64_t seed, int64_t epoch);

/// Scales to [0,1], subtracts the mean, divides by the standard deviation.
/// Shapes: uint8 [b,h,w,3] -> `type` [b,3,h,w], channels_last in memory.
at::Tensor normalise(const at::Tensor& images, const Normalisation& normalisation,
                     at::ScalarType type);

/// Each pixel of the result is the mean of those it covers. Shapes: [b,c,h,w] -> [b,c,side,side].
at::Tensor shrink(const at::Tensor& images, int64_t side);

}  // namespace skipway
