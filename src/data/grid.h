// A picture of many images in rows, for `data show`: as stored, or as the training path makes them.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/image.h"

namespace skipway {

/// Shapes: uint8 [n,h,w,3] -> an image of `columns` per row, each enlarged `scale` times by pixel
/// repetition, `gap` grey pixels between them. Errors: kUsage for anything else, no images, a
/// scale below 1, or more pixels than a PNG can hold.
Image image_grid(const at::Tensor& images, int64_t columns, int64_t scale, int64_t gap = 2);

}  // namespace skipway
