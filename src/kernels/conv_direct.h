// Convolutions as the sum that they are, for tile registers: 32 images at a pixel are the rows of
// one product for each tap of the window. Nothing is padded, and a tap beside the map costs
// nothing. For deep layers, whose weights Winograd's transform would make four times as many. No
// LibTorch in here.
#pragma once
#include <string>

#include "kernels/conv.h"

namespace skipway::kernels {

/// Images that are taken at a time; a group of fewer costs as much.
constexpr int64_t kImagesOfGroup = 32;

/// Why a shape is not for these kernels, or nothing: a window of at most 3x3, channels in multiples
/// of 32.
std::string direct_refusal(const ConvShape& shape);

/// Bytes of scratch memory, aligned to 64.
size_t direct_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads);

/// As the passes of conv_winograd.h, with weights [k,size,size,c]: of maps and
/// products in bf16, or of fp32 maps and products in kBf16x2, where tiles_in_use(). Relative
/// L2 error: 1 % in bf16, of the roundings of operands and result; 1e-5 in fp32, half of it where
/// many values are summed.
void direct_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                    void* workspace, const Threads& threads);
size_t direct_prepared_bytes(const ConvShape& shape, Numbers numbers);
void direct_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                    const Threads& threads);
void direct_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                     void* workspace, const Threads& threads);

}  // namespace skipway::kernels
