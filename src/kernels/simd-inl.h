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

HWY_INLINE void store(V v, float* to) { hn::StoreU(v, D(), to); }
HWY_INLINE void store(V v, Bf16* to) {
  hn::StoreU(hn::TruncateTo(DHalf(), hn::ShiftRight<16>(rounded_up_half(v))), DHalf(), to);
}

// A pair of bf16 in each lane: `first` in the lower half, as a little-endian machine reads two
// neighbours.
HWY_INLINE Bits pair(V first, V second) {
  return hn::Or(hn::ShiftRight<16>(rounded_up_half(first)),
                hn::And(rounded_up_half(second), hn::Set(DBits(), 0xFFFF0000u)));
}
HWY_INLINE void store_pair(V first, V second, float* to) {
  hn::StoreU(hn::BitCast(D(), pair(first, second)), D(), to);
}

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
