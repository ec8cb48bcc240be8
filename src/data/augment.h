// From stored uint8 images to the normalised batch that the model sees. Every draw is a function of
// (seed, epoch, image).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/tensors.h"
#include "data/colour.h"
#include "data/geometry.h"
#include "data/mix.h"
#include "data/rand_augment.h"

namespace skipway {

enum class Flip { kNone, kRandom, kAlternating };
enum class CropFill { kZero, kReflect };

/// In the order in which an image goes through them.
struct AugmentOptions {
  Flip flip = Flip::kNone;
  int64_t crop_pad = 0;  // pad by this many pixels on each side, then crop at random; 0: no crop
  CropFill crop_fill = CropFill::kZero;
  std::optional<RectangleRange> resized_crop;
  double rotate = 0;  // largest angle to either side [degrees]; 0: none
  Colour rotate_fill = kGreyColour;
  RandAugmentOptions rand_augment;
  JitterOptions jitter;
  double erase_probability = 0;  // 0: none
  RectangleRange erase;
  int64_t cutout = 0;  // side of a square of grey [pixels]; 0: none
  MixOptions mix;      // of whole batches: mix() of mix.h, not augment()
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

/// Reads words such as "flip,crop,jitter" (an empty string or "none": nothing): of `given`, which
/// has numbers for every augmentation, those whose word stands there. Errors: kUsage that lists the
/// known words, or names the flag of a number that is out of its range.
AugmentOptions parse_augment(const std::string& words, const AugmentOptions& given);

/// What does not go well with small images: a line each, with the evidence.
std::vector<std::string> augment_warnings(const AugmentOptions& options, int64_t image_size);

/// Takes images `indices` out of `images`, augments them and leaves them as uint8. Flip, crop and
/// cutout are computed on the device of `images`, the others on the CPU, its threads sharing the
/// images.
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
