// The largest of 2x2 pixels, and back. NHWC. No LibTorch.
#pragma once
#include <cstdint>

#include "kernels/types.h"

namespace skipway::kernels {

struct PoolShape {
  int64_t n = 0, h = 0, w = 0;  // images, rows, columns of the source, two or more
  int64_t c = 0;                // a multiple of 16
  Type type = Type::kFp32;

  int64_t out_h() const { return h / 2; }
  int64_t out_w() const { return w / 2; }
};

/// dst [n,h/2,w/2,c] = the largest of each 2x2 pixels of src [n,h,w,c], the first of equal ones; a
/// NaN counts as larger. An odd last row or column is left out. place [n,h/2,w/2,c] says which, as
/// 2 * row + column; null: not wanted.
void max_pool(const PoolShape& shape, const void* src, void* dst, uint8_t* place,
              const Threads& threads);

/// grad_src [n,h,w,c] = grad_dst [n,h/2,w/2,c] at the places that max_pool() gave, 0 elsewhere.
void max_unpool(const PoolShape& shape, const void* grad_dst, const uint8_t* place, void* grad_src,
                const Threads& threads);

}  // namespace skipway::kernels
