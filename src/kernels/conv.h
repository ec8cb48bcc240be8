// What convolutions for training on CPUs take: raw NHWC pointers in, raw pointers out, memory and
// threads from the caller. No LibTorch in here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace skipway::kernels {

/// In which type maps lie in memory, and in which their transforms are multiplied; sums and the
/// transforms themselves are fp32 always. Winograd and im2col multiply fp32 maps in fp32.
struct Numbers {
  Type maps = Type::kFp32, products = Type::kFp32;
  Type operands() const { return maps == Type::kFp32 ? Type::kFp32 : products; }
};

struct ConvShape {
  int64_t n = 0, h = 0, w = 0;  // images, rows, columns of the source
  int64_t c = 0, k = 0;         // input and output channels
  int64_t size = 3, stride = 1, padding = 1;

  int64_t out_h() const { return (h + 2 * padding - size) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - size) / stride + 1; }
};

enum class Pass { kForward, kBackward };

struct ForwardArguments {
  const void* src = nullptr;  // [n,h,w,c]
  // Or, where the BatchNorm and ReLU before this convolution are still to be applied to src, their
  // coefficients [c]: what is convolved is max(0, src_scale * src + src_shift).
  const float *src_scale = nullptr, *src_shift = nullptr;
  const float* weights = nullptr;  // [k,3,3,c]
  const void* prepared = nullptr;  // or what the method's prepare made of them
  void* dst = nullptr;             // [n,out_h,out_w,k], overwritten
  // For BatchNorm in training, or null: sums over n, h and w of dst and of its square [k].
  double* sum = nullptr;
  double* sum_of_squares = nullptr;
  // For inference, or null: added to dst [k]; another map of dst's shape added to it; max(0, .).
  const float* bias = nullptr;
  const void* residual = nullptr;
  bool relu = false;
};

struct BackwardArguments {
  const void* src = nullptr;                               // [n,h,w,c], as in forward
  const float *src_scale = nullptr, *src_shift = nullptr;  // as in forward
  const float* weights = nullptr;                          // [k,3,3,c]
  const void* grad_dst = nullptr;                          // [n,out_h,out_w,k]
  // Or, to apply a BatchNorm's backward pass on the way in, the convolution's result dst
  // and three coefficients of each channel [k]: the gradient taken is
  //   by_grad * grad_dst + by_dst * dst + constant.
  const void* dst = nullptr;
  const float *by_grad = nullptr, *by_dst = nullptr, *constant = nullptr;
  void* grad_src = nullptr;  // [n,h,w,c], overwritten; null: not wanted
  bool add = false;          // grad_src is added to instead; not with src_scale
  // With src_scale: grad_src is the gradient before that ReLU, and these are its sums over pixels,
  // alone and times src, that the BatchNorm's backward pass needs [c].
  double *sum = nullptr, *sum_with_src = nullptr;
  float* grad_weights = nullptr;  // [k,3,3,c], overwritten; null: not wanted
};

}  // namespace skipway::kernels
