// 3x3 convolutions with a padding of 1, stride 1 or 2, by Winograd's algorithm. docs/kernels.md
// explains it and its numbers. No LibTorch in here.
#pragma once
#include <string>

#include "kernels/conv.h"

namespace skipway::kernels {

/// Why a shape is not for these kernels, or nothing: 3x3, padding 1, stride 1 or 2, channels in
/// multiples of 16.
std::string winograd_refusal(const ConvShape& shape);

/// Bytes of scratch memory that a pass needs, aligned to 64.
size_t winograd_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads);

/// dst = convolution of src with weights.
/// Numbers: relative L2 error of dst against a float64 direct sum at most 1e-5 in fp32, 0.2 % with
/// bf16 maps alone (1 % below 1,000 results), and with bf16 products 1 % where height and width are
/// multiples of four (0.7 % at stride 2, 0.43 % of few images or pixels), 1.2 % on any shape; on
/// ReLU-like maps. Same bits for the same number of
/// threads.
/// Source:  Lavin & Gray, arXiv:1509.09308, section 4.
void winograd_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                      void* workspace, const Threads& threads);

/// Transforms the weights [k,3,3,c] once for many forward passes, of any number of images for which
/// winograd_prepared_bytes() is the same, into so many bytes, aligned to 64.
size_t winograd_prepared_bytes(const ConvShape& shape, Numbers numbers);
void winograd_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                      const Threads& threads);

/// Gradients of both operands, by the adjoint of the forward algorithm. Numbers as
/// winograd_forward().
void winograd_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                       void* workspace, const Threads& threads);

}  // namespace skipway::kernels
