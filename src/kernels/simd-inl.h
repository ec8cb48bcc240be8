// What every kernel needs of a vector: loads and stores of both map types as fp32, and the pairs of
// bf16 that a product takes. Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_SIMD_INL_H
#undef SKIPWAY_KERNELS_SIMD_INL_H
#else
#define SKIPWAY_KERNELS_SIMD_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/bf16.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;  // channels come in multiples of 16
using DBits = hn::Rebind<uint32_t, D>;
using DHalf = hn::Rebind<Bf16, D>;
using V = hn::Vec<D>;
using Bits = hn::Vec<DBits>;

HWY_INLINE size_t lanes() { return hn::Lanes(D()); }

HWY_INLINE V load(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE V load(const Bf16* from) {
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(DBits(), hn::LoadU(DHalf(), from))));
}

// The nearest bf16 in the upper half of each lane, ties away from zero: one operation less than
// ties to even, and no measurable difference. The lower half is left over.
HWY_INLINE Bits rounded_up_half(V v) {
  return hn::Add(hn::BitCast(DBits(), v), hn::Set(DBits(), 0x8000u));
}

HWY_INLINE Bits upper_half(Bits bits) { return hn::And(bits, hn::Set(DBits(), 0xFFFF0000u)); }

HWY_INLINE void store(V v, float* to) { hn::StoreU(v, D(), to); }
HWY_INLINE void store(V v, Bf16* to) {
  hn::StoreU(hn::TruncateTo(DHalf(), hn::ShiftRight<16>(rounded_up_half(v))), DHalf(), to);
}

// max(floor, v), where a NaN in v stays one: x86 gives the second operand then, Highway's plain C++
// the one that is a number.
HWY_INLINE V at_least(V floor, V v) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Lt(v, floor), floor, v);
#else
  return hn::Max(floor, v);
#endif
}
HWY_INLINE V relu(V v) { return at_least(hn::Zero(D()), v); }
// The gradient of relu(v), or of a v that has been through it; a NaN in v lets it pass.
HWY_INLINE V relu_gradient(V v, V gradient) {
  return hn::IfThenZeroElse(hn::Le(v, hn::Zero(D())), gradient);
}

// A pair of bf16 in each lane: `first` in the lower half, as a little-endian machine reads two
// neighbours.
HWY_INLINE Bits pair(V first, V second) {
  return hn::Or(hn::ShiftRight<16>(rounded_up_half(first)), upper_half(rounded_up_half(second)));
}
HWY_INLINE void store_pair(V first, V second, float* to) {
  hn::StoreU(hn::BitCast(D(), pair(first, second)), D(), to);
}

// to[j][i] = from[i][j], where a row is so many values from the next.
HWY_INLINE void transpose_4x4(const float* from, int64_t from_row, float* to, int64_t to_row) {
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) to[j * to_row + i] = from[i * from_row + j];
#else
  const hn::FixedTag<float, 4> d;
  const auto row0 = hn::LoadU(d, from), row1 = hn::LoadU(d, from + from_row);
  const auto row2 = hn::LoadU(d, from + 2 * from_row), row3 = hn::LoadU(d, from + 3 * from_row);
  const auto low01 = hn::InterleaveLower(d, row0, row1), low23 = hn::InterleaveLower(d, row2, row3);
  const auto up01 = hn::InterleaveUpper(d, row0, row1), up23 = hn::InterleaveUpper(d, row2, row3);
  hn::StoreU(hn::ConcatLowerLower(d, low23, low01), d, to);
  hn::StoreU(hn::ConcatUpperUpper(d, low23, low01), d, to + to_row);
  hn::StoreU(hn::ConcatLowerLower(d, up23, up01), d, to + 2 * to_row);
  hn::StoreU(hn::ConcatUpperUpper(d, up23, up01), d, to + 3 * to_row);
#endif
}

// The same of 16x16 values.
#if HWY_TARGET == HWY_AVX3
inline void transpose_16x16(const float* from, int64_t from_row, float* to, int64_t to_row) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from + i * from_row);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  // Quarters of a vector: a[i + j] has columns j, j + 4, j + 8 and j + 12 of four rows.
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; ++j) {
      b[i + j] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0x88);
      b[i + j + 4] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0xDD);
    }
  for (int j = 0; j < 4; ++j) {
    _mm512_storeu_ps(to + j * to_row, _mm512_shuffle_f32x4(b[j], b[j + 8], 0x88));
    _mm512_storeu_ps(to + (j + 4) * to_row, _mm512_shuffle_f32x4(b[j + 4], b[j + 12], 0x88));
    _mm512_storeu_ps(to + (j + 8) * to_row, _mm512_shuffle_f32x4(b[j], b[j + 8], 0xDD));
    _mm512_storeu_ps(to + (j + 12) * to_row, _mm512_shuffle_f32x4(b[j + 4], b[j + 12], 0xDD));
  }
}
#else
inline void transpose_16x16(const float* from, int64_t from_row, float* to, int64_t to_row) {
  for (int64_t i = 0; i < 16; i += 4)
    for (int64_t j = 0; j < 16; j += 4)
      transpose_4x4(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
}
#endif

// Adds each lane to a double of its own: what many pixels left in a register goes to sums of many.
HWY_INLINE void add_to(double* sums, V v) {
  HWY_ALIGN float values[16];
  store(v, values);
  for (size_t i = 0; i < lanes(); ++i) sums[i] += static_cast<double>(values[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
