#include "kernels/max_pool.h"

#include <algorithm>

#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/max_pool.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

using DBytes = hn::Rebind<uint8_t, D>;

// Where row `row` of all results lies in the source: the first of its two rows [values].
HWY_INLINE int64_t source_row(const PoolShape& s, int64_t row) {
  return (row / s.out_h() * s.h + 2 * (row % s.out_h())) * s.w * s.c;
}

template <class T>
void max_pool_part(const PoolShape& s, int64_t begin, int64_t end, const void* src, void* dst,
                   uint8_t* place) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t row = begin; row < end; ++row) {
    const T* from = static_cast<const T*>(src) + source_row(s, row);
    for (int64_t x = 0; x < s.out_w(); ++x) {
      const int64_t to = (row * s.out_w() + x) * s.c;
      for (int64_t channel = 0; channel < s.c; channel += step) {
        const T* corner = from + 2 * x * s.c + channel;
        V largest = load(corner);
        Bits at = hn::Zero(DBits());
        for (int i = 1; i < 4; ++i) {
          const V v = load(corner + (i / 2 * s.w + i % 2) * s.c);
          const auto larger = hn::Or(hn::Gt(v, largest), hn::IsNaN(v));
          largest = hn::IfThenElse(larger, v, largest);
          at = hn::IfThenElse(hn::RebindMask(DBits(), larger),
                              hn::Set(DBits(), static_cast<uint32_t>(i)), at);
        }
        store(largest, static_cast<T*>(dst) + to + channel);
        if (place != nullptr)
          hn::StoreU(hn::TruncateTo(DBytes(), at), DBytes(), place + to + channel);
      }
    }
  }
}

template <class T>
void max_unpool_part(const PoolShape& s, int64_t begin, int64_t end, const void* grad_dst,
                     const uint8_t* place, void* grad_src) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t row = begin; row < end; ++row) {
    T* to = static_cast<T*>(grad_src) + source_row(s, row);
    for (int64_t x = 0; x < s.out_w(); ++x) {
      const int64_t from = (row * s.out_w() + x) * s.c;
      for (int64_t channel = 0; channel < s.c; channel += step) {
        const V grad = load(static_cast<const T*>(grad_dst) + from + channel);
        const Bits at = hn::PromoteTo(DBits(), hn::LoadU(DBytes(), place + from + channel));
        T* corner = to + 2 * x * s.c + channel;
        for (int i = 0; i < 4; ++i) {
          const auto here = hn::Eq(at, hn::Set(DBits(), static_cast<uint32_t>(i)));
          store(hn::IfThenElseZero(hn::RebindMask(D(), here), grad),
                corner + (i / 2 * s.w + i % 2) * s.c);
        }
      }
    }
    const bool is_last = row % s.out_h() == s.out_h() - 1;
    if (s.w % 2 != 0)
      for (int i = 0; i < 2; ++i) std::fill_n(to + (i * s.w + s.w - 1) * s.c, s.c, T(0));
    if (s.h % 2 != 0 && is_last) std::fill_n(to + 2 * s.w * s.c, s.w * s.c, T(0));
  }
}

void max_pool_of(const PoolShape& s, int64_t begin, int64_t end, const void* src, void* dst,
                 uint8_t* place) {
  (s.type == Type::kFp32 ? max_pool_part<float> : max_pool_part<Bf16>)(s, begin, end, src, dst,
                                                                       place);
}
void max_unpool_of(const PoolShape& s, int64_t begin, int64_t end, const void* grad_dst,
                   const uint8_t* place, void* grad_src) {
  (s.type == Type::kFp32 ? max_unpool_part<float> : max_unpool_part<Bf16>)(s, begin, end, grad_dst,
                                                                           place, grad_src);
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {

HWY_EXPORT(max_pool_of);
HWY_EXPORT(max_unpool_of);

}  // namespace

void max_pool(const PoolShape& shape, const void* src, void* dst, uint8_t* place,
              const Threads& threads) {
  threads.run([&](int thread) {
    const Share rows(shape.n * shape.out_h(), thread, threads.count);
    HWY_DYNAMIC_DISPATCH(max_pool_of)(shape, rows.begin, rows.end, src, dst, place);
  });
}

void max_unpool(const PoolShape& shape, const void* grad_dst, const uint8_t* place, void* grad_src,
                const Threads& threads) {
  threads.run([&](int thread) {
    const Share rows(shape.n * shape.out_h(), thread, threads.count);
    HWY_DYNAMIC_DISPATCH(max_unpool_of)(shape, rows.begin, rows.end, grad_dst, place, grad_src);
  });
}

}  // namespace skipway::kernels
#endif
