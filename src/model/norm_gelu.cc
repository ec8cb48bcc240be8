// Tensors to raw pointers and back.
#include "model/norm_gelu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "kernels/batch_norm.h"
#include "kernels/max_pool.h"
#include "model/maps.h"
#include "model/threads.h"

namespace skipway {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

kernels::PoolShape pool_shape(at::IntArrayRef src, kernels::Type type) {
  return {src[0], src[2], src[3], src[1], type};
}

// The largest of 2x2 pixels, and their places where `place` is not null.
at::Tensor pooled(const at::Tensor& src, at::Tensor* place) {
  const kernels::PoolShape shape = pool_shape(src.sizes(), type_of(src));
  const at::Tensor dst = new_map(src, {shape.n, shape.c, shape.out_h(), shape.out_w()});
  if (place != nullptr) *place = at::empty({dst.numel()}, at::kByte);
  kernels::max_pool(shape, src.const_data_ptr(), dst.mutable_data_ptr(),
                    place != nullptr ? place->mutable_data_ptr<uint8_t>() : nullptr, all_threads());
  return dst;
}

at::Tensor gelu_of(const at::Tensor& src, const ScaleShift& before) {
  const at::Tensor dst = new_map(src, src.sizes());
  kernels::normalise_gelu(pixels_of(src), src.const_data_ptr(), before.scale, before.shift,
                          dst.mutable_data_ptr(), all_threads());
  return dst;
}

ScaleShift scale_shift_of(const at::Tensor& scale, const at::Tensor& shift) {
  return {scale.const_data_ptr<float>(), shift.const_data_ptr<float>()};
}

// What comes back through gelu_of().
struct GeluGradient {
  at::Tensor grad;  // of what GELU took, in the type of `src`; undefined where it is not wanted
  TwoSums sums;     // over pixels, of it alone and times src
};

GeluGradient gelu_gradient(const at::Tensor& grad_dst, const at::Tensor& src,
                           const ScaleShift& before, bool wanted) {
  const at::Tensor grad = as_map(grad_dst, src.scalar_type());
  GeluGradient result{wanted ? new_map(src, src.sizes()) : at::Tensor(), TwoSums(src.size(1))};
  kernels::gelu_backward_sums(pixels_of(src), grad.const_data_ptr(), src.const_data_ptr(),
                              before.scale, before.shift,
                              wanted ? result.grad.mutable_data_ptr() : nullptr,
                              result.sums.sum.data(), result.sums.with_other.data(), all_threads());
  return result;
}

struct NormGeluFunction : torch::autograd::Function<NormGeluFunction> {
  // The bias is norm's, for autograd to see.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& /*bias*/, bool pool, const BatchNorm& norm) {
    at::Tensor place = at::empty({0}, at::kByte);
    const at::Tensor map = pool ? pooled(src, &place) : src;
    const kernels::Map pixels = pixels_of(map);
    TwoSums sums(pixels.c);
    kernels::channel_sums(pixels, map.const_data_ptr(), sums.sum.data(), sums.with_other.data(),
                          all_threads());
    const BatchStatistics statistics = batch_statistics(norm, pixels.pixels, sums);
    context->save_for_backward({map, place, norm.weight, statistics.rows});
    context->saved_data["sizes"] = src.sizes().vec();
    return gelu_of(map, statistics.scale_shift());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &map = saved[0], &place = saved[1], &weight = saved[2];
    const BatchStatistics statistics{saved[3]};
    const kernels::Map pixels = pixels_of(map);
    const GeluGradient through = gelu_gradient(gradients[0], map, statistics.scale_shift(), true);
    at::Tensor grad_weight, grad_bias;  // the first is not asked for
    const BackwardCoefficients coefficients = batch_norm_backward(
        weight, statistics, pixels.pixels, through.sums, grad_weight, grad_bias);
    at::Tensor grad = through.grad;
    kernels::backward_apply(pixels, grad.const_data_ptr(), map.const_data_ptr(),
                            coefficients.by_grad.data(), coefficients.by_dst.data(),
                            coefficients.constant.data(), grad.mutable_data_ptr(), all_threads());
    if (place.numel() > 0) {
      const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
      const at::Tensor of_all = new_map(map, sizes);
      kernels::max_unpool(pool_shape(sizes, type_of(map)), grad.const_data_ptr(),
                          place.const_data_ptr<uint8_t>(), of_all.mutable_data_ptr(),
                          all_threads());
      grad = of_all;
    }
    return {grad, grad_bias, {}, {}};
  }
};

struct BiasGeluFunction : torch::autograd::Function<BiasGeluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& bias) {
    const at::Tensor ones = at::ones_like(bias), shift = bias.detach().contiguous();
    context->save_for_backward({src, ones, shift});
    return gelu_of(src, scale_shift_of(ones, shift));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const GeluGradient through = gelu_gradient(
        gradients[0], saved[0], scale_shift_of(saved[1], saved[2]), context->needs_input_grad(0));
    const at::Tensor grad_bias = at::empty_like(saved[2]);
    std::ranges::transform(through.sums.sum, grad_bias.mutable_data_ptr<float>(),
                           [](double sum) { return static_cast<float>(sum); });
    return {through.grad, grad_bias};
  }
};

}  // namespace

at::Tensor norm_gelu(const at::Tensor& src, bool pool, const BatchNorm& norm, bool training) {
  const at::Tensor map = src.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (training) return NormGeluFunction::apply(map, norm.bias, pool, norm);
  const at::Tensor scale = norm.weight * (norm.running_var.to(at::kDouble) + norm.eps).rsqrt();
  const at::Tensor shift = (norm.bias.detach() - norm.running_mean * scale).to(at::kFloat);
  return gelu_of(pool ? pooled(map, nullptr) : map, scale_shift_of(scale.to(at::kFloat), shift));
}

at::Tensor bias_gelu(const at::Tensor& src, const at::Tensor& bias) {
  const at::Tensor map = src.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return BiasGeluFunction::apply(map, bias);
}

}  // namespace skipway
