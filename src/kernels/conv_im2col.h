// Convolutions of any size and stride as one matrix product: a block of output pixels with all
// their inputs beside each other (im2col). For what Winograd cannot do: 1x1, the stem.
// No LibTorch in here.
#pragma once
#include "kernels/conv.h"

namespace skipway::kernels {

/// Bytes of scratch memory, aligned to 64.
size_t im2col_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads);

/// As the passes of conv_winograd.h, with weights [k,size,size,c]; k a multiple
/// of 16. Where c is none, there is no BatchNorm before it and no gradient of src. Prepared weights
/// have the type of the maps, also where products are fp32. Relative L2 error: 1e-6 in fp32, 0.4 %
/// with bf16 maps alone, 1 % with bf16 products.
void im2col_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                    void* workspace, const Threads& threads);
size_t im2col_prepared_bytes(const ConvShape& shape, Numbers numbers);
void im2col_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                    const Threads& threads);
void im2col_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                     void* workspace, const Threads& threads);

}  // namespace skipway::kernels
