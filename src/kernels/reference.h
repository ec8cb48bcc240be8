// Convolutions as they are defined: direct sums in float64, slow and plain. What the other kernels
// are held to, and `--kernel reference`. No LibTorch in here.
#pragma once
#include "kernels/conv.h"

namespace skipway::kernels {

/// As im2col_forward() and im2col_backward(), for any number of channels and without a workspace.
void reference_forward(const ConvShape& shape, Type maps, const ForwardArguments& arguments,
                       const Threads& threads);
void reference_backward(const ConvShape& shape, Type maps, const BackwardArguments& arguments,
                        const Threads& threads);

}  // namespace skipway::kernels
