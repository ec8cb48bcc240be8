// One image that the augmentations change in place. Not image.h's Image, which owns its pixels.
#pragma once
#include <array>
#include <cstdint>

namespace skipway {

/// [h,w,3]: red, green, blue beside each other.
struct Pixels {
  uint8_t* data;
  int64_t h;
  int64_t w;

  int64_t count() const { return h * w; }
  int64_t bytes() const { return 3 * h * w; }
};

/// What lies outside the image, or is erased: near to the mean of photographs.
constexpr uint8_t kGrey = 127;

using Colour = std::array<uint8_t, 3>;  // red, green, blue
constexpr Colour kGreyColour = {kGrey, kGrey, kGrey};

}  // namespace skipway
