// Tensors to raw pointers and back, and the arithmetic of BatchNorm on whole channels.
#include "model/norm_gelu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "kernels/batch_norm.h"
#include "kernels/max_pool.h"
#include "model/device.h"
#include "model/maps.h"

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

at::Tensor gelu_of(const at::Tensor& src, const at::Tensor& scale, const at::Tensor& shift) {
  const at::Tensor dst = new_map(src, src.sizes());
  kernels::normalise_gelu(pixels_of(src), src.const_data_ptr(), scale.const_data_ptr<float>(),
                          shift.const_data_ptr<float>(), dst.mutable_data_ptr(), all_threads());
  return dst;
}

// What comes back through gelu_of(), of the type of `src`.
struct GeluGradient {
  at::Tensor grad;               // of what GELU took; undefined where it is not wanted
  at::Tensor sum, sum_with_src;  // over pixels [c], fp64
};

GeluGradient gelu_gradient(const at::Tensor& grad_dst, const at::Tensor& src,
                           const at::Tensor& scale, const at::Tensor& shift, bool wanted) {
  const at::Tensor grad = as_map(grad_dst, src.scalar_type());
  GeluGradient result;
  if (wanted) result.grad = new_map(src, src.sizes());
  result.sum = at::empty({src.size(1)}, at::kDouble);
  result.sum_with_src = at::empty({src.size(1)}, at::kDouble);
  kernels::gelu_backward_sums(pixels_of(src), grad.const_data_ptr(), src.const_data_ptr(),
                              scale.const_data_ptr<float>(), shift.const_data_ptr<float>(),
                              wanted ? result.grad.mutable_data_ptr() : nullptr,
                              result.sum.mutable_data_ptr<double>(),
                              result.sum_with_src.mutable_data_ptr<double>(), all_threads());
  return result;
}

struct NormGeluFunction : torch::autograd::Function<NormGeluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src, const at::Tensor& bias,
                            bool pool, const BiasNorm& norm) {
    at::Tensor place = at::empty({0}, at::kByte);
    const at::Tensor map = pool ? pooled(src, &place) : src;
    const kernels::Map pixels = pixels_of(map);
    at::Tensor mean = at::empty({pixels.c}, at::kDouble), square = at::empty_like(mean);
    kernels::channel_sums(pixels, map.const_data_ptr(), mean.mutable_data_ptr<double>(),
                          square.mutable_data_ptr<double>(), all_threads());
    const auto count = static_cast<double>(pixels.pixels);
    mean.div_(count);
    // Never below zero, which rounding could make it.
    const at::Tensor variance = (square.div_(count) - mean.square()).clamp_min_(0);
    if (pixels.pixels > 1) {
      norm.running_mean.lerp_(mean.to(at::kFloat), norm.momentum);
      norm.running_var.lerp_((variance * (count / (count - 1))).to(at::kFloat), norm.momentum);
    }
    const at::Tensor inverse = (variance + norm.eps).rsqrt(), scale = norm.weight * inverse;
    const at::Tensor shift = (bias - mean * scale).to(at::kFloat), narrow = scale.to(at::kFloat);
    context->save_for_backward({map, place, mean, inverse, scale, narrow, shift});
    context->saved_data["sizes"] = src.sizes().vec();
    return gelu_of(map, narrow, shift);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &map = saved[0], &place = saved[1], &mean = saved[2], &inverse = saved[3],
                     &scale = saved[4], &narrow = saved[5], &shift = saved[6];
    const GeluGradient through = gelu_gradient(gradients[0], map, narrow, shift, true);
    // d map = scale * (g - mean of g - x * mean of g x), with x = inverse * (map - mean).
    const auto count = static_cast<double>(pixels_of(map).pixels);
    const at::Tensor mean_grad = through.sum / count;
    const at::Tensor by_map =
        -scale * inverse.square() * (through.sum_with_src / count - mean * mean_grad);
    const at::Tensor constant = (-scale * mean_grad - by_map * mean).to(at::kFloat);
    at::Tensor grad = through.grad;
    kernels::backward_apply(
        pixels_of(map), grad.const_data_ptr(), map.const_data_ptr(), narrow.const_data_ptr<float>(),
        by_map.to(at::kFloat).const_data_ptr<float>(), constant.const_data_ptr<float>(),
        grad.mutable_data_ptr(), all_threads());
    if (place.numel() > 0) {
      const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
      const at::Tensor of_all = new_map(map, sizes);
      kernels::max_unpool(pool_shape(sizes, type_of(map)), grad.const_data_ptr(),
                          place.const_data_ptr<uint8_t>(), of_all.mutable_data_ptr(),
                          all_threads());
      grad = of_all;
    }
    return {grad, through.sum.to(at::kFloat), {}, {}};
  }
};

struct BiasGeluFunction : torch::autograd::Function<BiasGeluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& bias) {
    const at::Tensor ones = at::ones_like(bias), shift = bias.detach().contiguous();
    context->save_for_backward({src, ones, shift});
    return gelu_of(src, ones, shift);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const GeluGradient through =
        gelu_gradient(gradients[0], saved[0], saved[1], saved[2], context->needs_input_grad(0));
    return {through.grad, through.sum.to(at::kFloat)};
  }
};

}  // namespace

at::Tensor norm_gelu(const at::Tensor& src, bool pool, const BiasNorm& norm, bool training) {
  const at::Tensor map = src.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (training) return NormGeluFunction::apply(map, norm.bias, pool, norm);
  const at::Tensor scale = norm.weight * (norm.running_var.to(at::kDouble) + norm.eps).rsqrt();
  const at::Tensor shift = (norm.bias.detach() - norm.running_mean * scale).to(at::kFloat);
  return gelu_of(pool ? pooled(map, nullptr) : map, scale.to(at::kFloat), shift);
}

at::Tensor bias_gelu(const at::Tensor& src, const at::Tensor& bias) {
  const at::Tensor map = src.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return BiasGeluFunction::apply(map, bias);
}

}  // namespace skipway
