// What the readers of files that anyone may have made ask of a tensor in them.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace skipway {

constexpr size_t kMaxDims = 64;  // LibTorch's

/// Whether the bytes may be those of a bool tensor.
inline bool are_bools(const void* bytes, size_t count) {
  const auto* first = static_cast<const uint8_t*>(bytes);
  return std::all_of(first, first + count, [](uint8_t byte) { return byte <= 1; });
}

}  // namespace skipway
