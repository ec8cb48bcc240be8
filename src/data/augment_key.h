// The random numbers of each augmentation: none changes the draws of another.
#pragma once
#include <cstdint>

#include "base/rng.h"

namespace skipway {

/// Part of the key, after (epoch, image). Never renumber. Flip and crop have none.
enum class AugmentUse : uint64_t {
  kCutout = 1,
  kResizedCrop = 2,
  kRotate = 3,
  kRandAugment = 4,
  kJitter = 5,
  kErase = 6,
  kMix = 7,
};

inline Rng augment_rng(uint64_t seed, int64_t epoch, int64_t image, AugmentUse use) {
  return Rng(
      seed, RngUse::kAugment,
      {static_cast<uint64_t>(epoch), static_cast<uint64_t>(image), static_cast<uint64_t>(use)});
}

}  // namespace skipway
