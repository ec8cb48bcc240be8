// Convolutions of any size and stride as one matrix product: a block of output pixels with all
// their inputs beside each other (im2col). For what Winograd cannot do: stride 2, 1x1, the stem.
// Products are fp32. No LibTorch in here.
#pragma once
#include "kernels/conv3x3.h"

namespace skipway::kernels {

struct ConvShape {
  int64_t n = 0, h = 0, w = 0;  // images, rows, columns of the source
  int64_t c = 0, k = 0;         // input and output channels; k a multiple of 16
  int64_t size = 3, stride = 1, padding = 1;

  int64_t out_h() const { return (h + 2 * padding - size) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - size) / stride + 1; }
};

/// Bytes of scratch memory, aligned to 64.
size_t im2col_workspace_bytes(const ConvShape& shape, Pass pass, int threads);

/// As forward() and backward() of conv3x3.h, with weights [k,size,size,c] and dst
/// [n,out_h,out_w,k]. `maps` is the type of the maps. Relative L2 error: 1e-6 in fp32.
void im2col_forward(const ConvShape& shape, Type maps, const ForwardArguments& arguments,
                    void* workspace, const Threads& threads) noexcept;
void im2col_backward(const ConvShape& shape, Type maps, const BackwardArguments& arguments,
                     void* workspace, const Threads& threads) noexcept;

}  // namespace skipway::kernels
