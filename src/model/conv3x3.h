// A convolution with the BatchNorm, residual addition and ReLU after it, as one differentiable
// operation on the CPU: the adapter between LibTorch's autograd and src/kernels. Not for GPUs.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace skipway {

struct ConvBnUnit {
  at::Tensor weight;  // [k,c,r,r], fp32, channels_last
  int64_t stride = 1, padding = 0;
  at::Tensor gamma, beta;                 // [k], fp32
  at::Tensor running_mean, running_var;   // [k], fp32
  double eps = 1e-5, momentum = 0.1;
};

/// Whether conv_bn() can take it: CPU, fp32 parameters, channels in multiples of 16.
bool conv_bn_supports(const ConvBnUnit& unit, const at::Tensor& src);

/// relu(batch_norm(conv2d(src, weight)) + residual), each of the last two where asked for.
/// Shapes: src [n,c,h,w], residual [n,k,h',w'] or undefined -> [n,k,h',w'], channels_last, in the
/// type that autocast gives, else fp32. `training`: batch statistics, which update the running
/// ones; gradients flow to src, weight, gamma, beta and residual. Else running statistics and no
/// gradients.
/// 3x3 stride-1 convolutions go to `kernel`: "winograd" or "torch"; others to LibTorch.
at::Tensor conv_bn(const ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual,
                   bool relu, bool training, const std::string& kernel);

}  // namespace skipway
