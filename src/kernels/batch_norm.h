// What surrounds a convolution in training, in one pass over the maps each: BatchNorm with the
// residual addition and ReLU, or with GELU after it, forward and back. NHWC, seen as [pixels, c].
// No LibTorch.
#pragma once
#include <cstdint>

#include "kernels/types.h"

namespace skipway::kernels {

struct Map {
  int64_t pixels = 0;  // images * rows * columns
  int64_t c = 0;       // a multiple of 16
  Type type = Type::kFp32;
};

/// Sums over pixels of `src` and of its square, [c] each.
void channel_sums(const Map& map, const void* src, double* sum, double* sum_of_squares,
                  const Threads& threads);

/// What normalise() adds: nothing, a map, or scale * map + shift [c] where the map is to be
/// normalised too.
struct Residual {
  const void* map = nullptr;
  const float *scale = nullptr, *shift = nullptr;
};

/// dst = scale * src + shift + residual, then max(0, .) where `relu`. scale and shift [c]; dst may
/// be src.
void normalise(const Map& map, const void* src, const float* scale, const float* shift,
               const Residual& residual, bool relu, void* dst, const Threads& threads);

/// dst = gelu(scale * src + shift), x times the normal distribution's share below x; within
/// 5e-7 and 4e-7 of |z| in fp32, z = scale * src + shift. scale and shift [c]; dst may be src.
/// Source of the polynomial: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
void normalise_gelu(const Map& map, const void* src, const float* scale, const float* shift,
                    void* dst, const Threads& threads);

/// The gradient before GELU, and the sums of backward_sums().
///   grad_src = grad_dst * gelu'(scale * src + shift); null: not wanted; may be grad_dst.
void gelu_backward_sums(const Map& map, const void* grad_dst, const void* src, const float* scale,
                        const float* shift, void* grad_src, double* sum, double* sum_with_src,
                        const Threads& threads);

/// The gradient before ReLU, and the two sums that BatchNorm's backward pass needs.
///   grad_src = grad_dst where dst > 0 (everywhere when dst is null), else 0; null: not wanted; may
///   be grad_dst;
///   sum = its sum over pixels [c]; sum_with_src = the sum of grad_src * src [c].
void backward_sums(const Map& map, const void* grad_dst, const void* dst, const void* src,
                   void* grad_src, double* sum, double* sum_with_src, const Threads& threads);

/// out = by_grad * grad + by_src * src + constant, coefficients [c].
void backward_apply(const Map& map, const void* grad, const void* src, const float* by_grad,
                    const float* by_src, const float* constant, void* out, const Threads& threads);

}  // namespace skipway::kernels
