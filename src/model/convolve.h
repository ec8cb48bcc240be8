// One convolution on the CPU, by one of several methods: tensors to the raw pointers of src/kernels
// and back. Not the choice between them, nor autograd.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "kernels/conv.h"
#include "model/batch_statistics.h"

namespace skipway {

/// Who computes a convolution. "winograd" multiplies in fp32, "winograd-bf16" in bf16, "im2col" and
/// "im2col-bf16" are the matrix product of all inputs, "direct-bf16" the sum of one of each tap,
/// and "direct-bf16x2" that of fp32 values as sums of two bf16, "direct-bf16x2 winograd" with the
/// weights' gradient by "winograd"; "torch" is LibTorch, which asks oneDNN, "reference" the sum as
/// it is defined.
enum class ConvMethod {
  kWinograd,
  kWinogradBf16,
  kIm2col,
  kIm2colBf16,
  kDirectBf16,
  kDirectBf16x2,
  kDirectBf16x2Winograd,
  kTorch,
  kReference
};

/// "winograd-bf16"; as a run keeps it.
const char* name_of(ConvMethod method);

/// `src`: [n,c,h,w].
kernels::ConvShape shape_of(at::IntArrayRef src, const at::Tensor& weight, int64_t stride,
                            int64_t padding);

/// dst [n,k,h',w'], and the sums over pixels of it and of its square that BatchNorm needs, where
/// they are wanted. With `before`, of max(0, before(src)), which LibTorch cannot.
at::Tensor convolve(ConvMethod method, const kernels::ConvShape& s, const at::Tensor& src,
                    const ScaleShift& before, const at::Tensor& weight, TwoSums* sums);

struct ConvBackward {
  at::Tensor src, weight, grad;  // as convolve() had them; of its result, or of a BatchNorm's on it
  ScaleShift before = {};        // as convolve() had it
  at::Tensor dst = {};           // what convolve() gave; where a BatchNorm follows, with its …
  const BackwardCoefficients* coefficients = nullptr;
  at::Tensor grad_src = {};  // overwritten, or added to; undefined where it is not wanted
  bool add = false;
  TwoSums* sums = nullptr;  // of grad_src, alone and with src; of use with `before`
};

/// Gives grad_weight, and grad_src: with `before`, the gradient before that BatchNorm's ReLU.
at::Tensor convolve_backward(ConvMethod method, const kernels::ConvShape& s, const ConvBackward& a);

/// Weights and bias as inference takes them.
struct PreparedConv {
  at::ScalarType type;  // of the maps
  ConvMethod method;
  size_t bytes;  // tells the tiles of small maps from those of others
  at::Tensor weights, bias;
};

size_t prepared_bytes(const kernels::ConvShape& shape, at::ScalarType type, ConvMethod method);
/// `weights` fp32 [k,c,r,r], channels_last; `bias` fp32 [k].
PreparedConv prepare(const kernels::ConvShape& shape, at::ScalarType type, ConvMethod method,
                     const at::Tensor& weights, const at::Tensor& bias);
/// Of the convolution, its bias and the residual where there is one, max(0, sum) where `relu`.
at::Tensor infer(const PreparedConv& conv, const kernels::ConvShape& shape, const at::Tensor& src,
                 const at::Tensor& residual, bool relu);

}  // namespace skipway
