// A bf16 value in memory: the upper half of a float. One value at a time; simd-inl.h has vectors.
#pragma once
#include <cstdint>
#include <cstring>

namespace skipway::kernels {

using Bf16 = uint16_t;

inline float widened(float value) { return value; }
inline float widened(Bf16 half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// The nearest, ties away from zero.
inline Bf16 narrowed(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<Bf16>((bits + 0x8000u) >> 16);
}

}  // namespace skipway::kernels
