// Convolutions in a row, each with its BatchNorm and ReLU, and the residual connection around them,
// as one differentiable operation on the CPU: the adapter between LibTorch's autograd and
// src/kernels. Not for GPUs.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/batch_statistics.h"
#include "model/kernel_choice.h"

namespace skipway {

struct FoldedConv;

struct ConvBnUnit {
  at::Tensor weight;  // [k,c,r,r], fp32, channels_last
  int64_t stride = 1, padding = 0;
  BatchNorm norm;
  std::shared_ptr<const FoldedConv> folded;  // of the last inference; nobody else reads it
};

/// A residual block, or the stem.
struct ConvChain {
  std::vector<ConvBnUnit> units;         // two or more where there is a residual connection
  bool residual = false;                 // from the source to before the last ReLU, …
  std::optional<ConvBnUnit> downsample;  // … through this one where there is one
  bool last_relu = true;
};

/// Whether a block of the ResNet's first stage is as fast with maps in bf16 as in fp32, or slower
/// by less than 15 %: both are measured, with the kernels that `word` allows, in some 0.3 s.
bool bf16_is_as_fast(const std::string& word);

/// Whether conv_chain() can take it: CPU, fp32 parameters, channels_last, of the channels that the
/// source has, output channels in multiples of 16; of a source that requires a gradient, its
/// channels too.
bool conv_chain_supports(const ConvChain& chain, const at::Tensor& src);

/// Chooses the kernels of a training step before there are maps that would lie beside those of the
/// measurements. Sides of src [pixels]; gives those of the result.
std::pair<int64_t, int64_t> choose_kernels(const ConvChain& chain, int64_t images, int64_t height,
                                           int64_t width, KernelChoice& kernels);

/// Each unit is relu(batch_norm(conv2d(x, weight))), where the last one adds the residual before
/// its relu, or has none where last_relu is false. Shapes: src [n,c,h,w] -> [n,k,h',w'],
/// channels_last, in the type that autocast gives, else fp32. `training`: batch statistics, which
/// update the running ones; gradients flow to src and every weight, gamma and beta. Else running
/// statistics and no gradients.
at::Tensor conv_chain(ConvChain& chain, const at::Tensor& src, bool training,
                      KernelChoice& kernels);

/// A convolution alone on the CPU, with stride 1. Shapes: src [n,c,h,w], weight [k,c,r,r], fp32, k
/// a multiple of 16; c too, but of a source that requires no gradient -> [n,k,h',w'],
/// channels_last, in the type that autocast gives, else fp32. Gradients flow to both. Errors:
/// kInternal where source and weight differ in c.
at::Tensor convolution(const at::Tensor& src, const at::Tensor& weight, int64_t padding,
                       KernelChoice& kernels);

}  // namespace skipway
