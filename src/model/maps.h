// Tensors as the maps of src/kernels.
#pragma once
#include <ATen/ATen.h>

#include "base/error.h"
#include "kernels/batch_norm.h"

namespace skipway {

/// Errors: kInternal for a map of another type than fp32 and bf16.
inline kernels::Type type_of(const at::Tensor& map) {
  if (map.scalar_type() == at::kBFloat16) return kernels::Type::kBf16;
  if (map.scalar_type() == at::kFloat) return kernels::Type::kFp32;
  fail(ErrorKind::kInternal, "model", "expected a map in fp32 or bf16, got {}",
       c10::toString(map.scalar_type()));
}

/// `map`: [n,c,h,w], channels_last.
inline kernels::Map pixels_of(const at::Tensor& map) {
  return {map.numel() / map.size(1), map.size(1), type_of(map)};
}

/// Not filled, channels_last, of the type of `like`.
inline at::Tensor new_map(const at::Tensor& like, at::IntArrayRef shape) {
  return at::empty(shape, like.options(), at::MemoryFormat::ChannelsLast);
}

/// fp32 [n,c,h,w], channels_last, the same at each call: what a kernel is measured with. Values in
/// [-1, 1] that differ, because equal ones take less power, with which tile registers run faster
/// than they will in a step.
inline at::Tensor varied_map(int64_t n, int64_t c, int64_t h, int64_t w) {
  return at::arange(n * h * w * c, at::kFloat).sin_().view({n, h, w, c}).permute({0, 3, 1, 2});
}

/// channels_last and the given type, without a copy where it is so already.
inline at::Tensor as_map(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace skipway
