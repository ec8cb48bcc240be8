// Max-pool, BatchNorm and GELU in a row as one differentiable operation on the CPU, on
// src/kernels. Not for GPUs.
#pragma once
#include <ATen/core/Tensor.h>

#include "model/batch_statistics.h"

namespace skipway {

/// gelu(batch_norm(src)), of the largest of each 2x2 pixels where `pool`. Shapes: src [n,c,h,w],
/// fp32 or bf16, c a multiple of 16 -> the same, or [n,c,h/2,w/2] with two pixels a side or more;
/// channels_last, in src's type. `training`: batch statistics, which
/// update the running ones (but those of one value a channel do not); gradients flow to src and
/// bias, not to the weight. Else running statistics.
at::Tensor norm_gelu(const at::Tensor& src, bool pool, const BatchNorm& norm, bool training);

/// gelu(src + bias), bias [c]. Gradients flow to both.
at::Tensor bias_gelu(const at::Tensor& src, const at::Tensor& bias);

}  // namespace skipway
