// What tests of the operations on pixels share. Not used by the program.
#pragma once
#include <cstdint>
#include <vector>

#include "base/rng.h"

namespace skipway {

/// [h,w,3] random values from `least` to `most`; always the same.
inline std::vector<uint8_t> random_picture(int64_t h, int64_t w, uint64_t least = 0,
                                           uint64_t most = 255) {
  std::vector<uint8_t> values;
  Rng rng(1, RngUse::kSynthetic);
  for (int64_t i = 0; i < h * w * 3; ++i)
    values.push_back(static_cast<uint8_t>(least + rng.below(most - least + 1)));
  return values;
}

}  // namespace skipway
