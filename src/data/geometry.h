// What moves the pixels of an image. Definitions are those of torchvision.transforms.functional on
// tensors; what comes from outside the image is grey where nothing else is said.
#pragma once
#include <optional>
#include <vector>

#include "base/rng.h"
#include "data/pixels.h"

namespace skipway {

enum class Sampling { kNearest, kBilinear };

/// Where a pixel of the result is read, from the image's middle: (x, y) is read at
/// (xx * x + xy * y + x0, yx * x + yy * y + y0) [pixels], y downwards.
struct Affine {
  double xx = 1, xy = 0, x0 = 0;
  double yx = 0, yy = 1, y0 = 0;
};

/// Counter-clockwise about the middle.
Affine rotation(double degrees);
/// Replaces the image by what `affine` reads from it; outside of it lies `fill`. Bilinear: the two
/// are mixed at the rim; torchvision weighs the inside twice there, which makes a dark rim.
void warp(Pixels image, const Affine& affine, Sampling sampling, const Colour& fill = kGreyColour);

struct Rectangle {
  int64_t top = 0, left = 0, h = 0, w = 0;
};

/// Area as a share of the image's, and width over height.
struct RectangleRange {
  double least_area = 1, most_area = 1;
  double least_ratio = 1, most_ratio = 1;
};

/// A rectangle inside the image: area uniform, ratio uniform in its logarithm, place uniform, as in
/// torchvision's RandomResizedCrop and RandomErasing; none when ten draws fit nowhere.
std::optional<Rectangle> draw_rectangle(const RectangleRange& range, int64_t h, int64_t w,
                                        Rng& rng);
/// As much of the middle of the image as the ratios allow.
Rectangle middle_rectangle(const RectangleRange& range, int64_t h, int64_t w);
/// Enlarges the rectangle to the whole image, bilinear. (Never shrinks, so that smoothing against
/// aliases would change nothing.)
void resized_crop(Pixels image, const Rectangle& from);
/// Makes the rectangle grey.
void erase(Pixels image, const Rectangle& rectangle);

/// Share of the pixels of a square image that rotating by `degrees` makes grey.
double rotated_fill_share(double degrees, int64_t side);

}  // namespace skipway
