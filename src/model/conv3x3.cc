// Tensors to raw pointers and back, and the arithmetic of BatchNorm on whole channels. The loops
// over pixels are in src/kernels.
#include "model/conv3x3.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>
#include <vector>

#include "kernels/batch_norm.h"
#include "kernels/conv3x3.h"

namespace skipway {
namespace {

using kernels::Pass;
using kernels::Type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

kernels::Threads all_threads() {
  const int count = at::get_num_threads();
  return {count, [count](const std::function<void(int)>& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) task(static_cast<int>(thread));
            });
          }};
}

Type kernel_type(const at::Tensor& map) {
  return map.scalar_type() == at::kBFloat16 ? Type::kBf16 : Type::kFp32;
}

at::Tensor new_map(const at::Tensor& like, at::IntArrayRef shape) {
  return at::empty(shape, like.options(), at::MemoryFormat::ChannelsLast);
}

// NHWC memory and the given type, without a copy where it is so already.
at::Tensor as_map(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor workspace(const kernels::Conv3x3Shape& shape, kernels::Numbers numbers, Pass pass) {
  const size_t bytes = kernels::workspace_bytes(shape, numbers, pass, at::get_num_threads());
  return at::empty({static_cast<int64_t>(bytes)}, at::kByte);
}

kernels::Conv3x3Shape kernel_shape(const at::Tensor& src, const at::Tensor& weight) {
  return {src.size(0), src.size(2), src.size(3), src.size(1), weight.size(0)};
}

kernels::Map map_of(const at::Tensor& tensor) {
  return {tensor.numel() / tensor.size(1), tensor.size(1), kernel_type(tensor)};
}

bool takes_winograd(const at::Tensor& weight, int64_t stride, int64_t padding,
                    const std::string& kernel) {
  return kernel == "winograd" && stride == 1 && padding == 1 && weight.size(2) == 3 &&
         weight.size(3) == 3;
}

// What a channel's values are multiplied by and moved by.
struct Affine {
  std::vector<float> scale, shift;
};

at::Tensor to_tensor(const std::vector<float>& values) { return at::tensor(values, at::kFloat); }

struct ConvBn : torch::autograd::Function<ConvBn> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& weight, const at::Tensor& gamma,
                            const at::Tensor& beta, const std::optional<at::Tensor>& residual,
                            bool relu, const ConvBnUnit& unit, bool winograd) {
    const kernels::Threads threads = all_threads();
    const int64_t k = weight.size(0);
    const auto channels = static_cast<size_t>(k);
    std::vector<double> sum(channels), squares(channels);
    at::Tensor dst;  // the convolution's result
    if (winograd) {
      const kernels::Conv3x3Shape shape = kernel_shape(src, weight);
      const kernels::Numbers numbers{kernel_type(src), Type::kFp32};
      dst = new_map(src, {shape.n, k, shape.h, shape.w});
      kernels::ForwardArguments a;
      a.src = src.const_data_ptr();
      a.weights = weight.const_data_ptr<float>();
      a.dst = dst.mutable_data_ptr();
      a.sum = sum.data(), a.sum_of_squares = squares.data();
      const at::Tensor scratch = workspace(shape, numbers, Pass::kForward);
      kernels::forward(shape, numbers, a, scratch.mutable_data_ptr(), threads);
    } else {
      dst = as_map(at::conv2d(src, weight.to(src.scalar_type()), {}, unit.stride, unit.padding),
                   src.scalar_type());
      kernels::channel_sums(map_of(dst), dst.const_data_ptr(), sum.data(), squares.data(), threads);
    }
    const kernels::Map map = map_of(dst);
    const auto n = static_cast<double>(map.pixels);
    Affine affine{std::vector<float>(channels), std::vector<float>(channels)};
    std::vector<float> mean(channels), inverse_std(channels);
    const float *g = gamma.const_data_ptr<float>(), *b = beta.const_data_ptr<float>();
    float* running_mean = at::Tensor(unit.running_mean).mutable_data_ptr<float>();
    float* running_var = at::Tensor(unit.running_var).mutable_data_ptr<float>();
    for (size_t i = 0; i < channels; ++i) {
      const double m = sum[i] / n, variance = std::max(0.0, squares[i] / n - m * m);
      const double inverse = 1 / std::sqrt(variance + unit.eps);
      mean[i] = static_cast<float>(m);
      inverse_std[i] = static_cast<float>(inverse);
      affine.scale[i] = static_cast<float>(static_cast<double>(g[i]) * inverse);
      affine.shift[i] = static_cast<float>(static_cast<double>(b[i]) - static_cast<double>(g[i]) * inverse * m);
      const auto towards = [&](float& running, double value) {
        running = static_cast<float>((1 - unit.momentum) * static_cast<double>(running) +
                                     unit.momentum * value);
      };
      towards(running_mean[i], m);
      towards(running_var[i], n > 1 ? variance * n / (n - 1) : variance);
    }
    at::Tensor result = new_map(dst, dst.sizes());
    kernels::normalise(map, dst.const_data_ptr(), affine.scale.data(), affine.shift.data(),
                       residual ? residual->const_data_ptr() : nullptr, relu,
                       result.mutable_data_ptr(), threads);
    context->save_for_backward({src, weight, gamma, dst, relu ? result : at::Tensor(),
                                to_tensor(mean), to_tensor(inverse_std)});
    context->saved_data["stride"] = unit.stride;
    context->saved_data["padding"] = unit.padding;
    context->saved_data["winograd"] = winograd;
    context->saved_data["residual"] = residual.has_value();
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const kernels::Threads threads = all_threads();
    const auto saved = context->get_saved_variables();
    const at::Tensor &src = saved[0], &weight = saved[1], &gamma = saved[2], &dst = saved[3],
                     &result = saved[4];
    const float *mean = saved[5].const_data_ptr<float>(),
                *inverse_std = saved[6].const_data_ptr<float>();
    const kernels::Map map = map_of(dst);
    const auto channels = static_cast<size_t>(map.c);
    const at::Tensor grad_result = as_map(gradients[0], dst.scalar_type());
    at::Tensor grad = new_map(dst, dst.sizes());  // behind the ReLU
    std::vector<double> sum(channels), sum_with_dst(channels);
    kernels::backward_sums(map, grad_result.const_data_ptr(),
                           result.defined() ? result.const_data_ptr() : nullptr,
                           dst.const_data_ptr(), grad.mutable_data_ptr(), sum.data(),
                           sum_with_dst.data(), threads);

    // grad_dst = gamma / std * (grad - mean(grad) - normalised dst * mean(grad * normalised dst)).
    at::Tensor grad_gamma = at::empty_like(gamma), grad_beta = at::empty_like(gamma);
    float *to_gamma = grad_gamma.mutable_data_ptr<float>(),
          *to_beta = grad_beta.mutable_data_ptr<float>();
    const float* g = gamma.const_data_ptr<float>();
    std::vector<float> by_grad(channels), by_dst(channels), constant(channels);
    const auto n = static_cast<double>(map.pixels);
    for (size_t i = 0; i < channels; ++i) {
      const double m = static_cast<double>(mean[i]), inverse = static_cast<double>(inverse_std[i]);
      const double with_normalised = (sum_with_dst[i] - m * sum[i]) * inverse;
      to_gamma[i] = static_cast<float>(with_normalised);
      to_beta[i] = static_cast<float>(sum[i]);
      const double a = static_cast<double>(g[i]) * inverse;
      const double b = -a * inverse * with_normalised / n;
      by_grad[i] = static_cast<float>(a);
      by_dst[i] = static_cast<float>(b);
      constant[i] = static_cast<float>(-a * sum[i] / n - b * m);
    }

    at::Tensor grad_src, grad_weight;
    const bool wants_src = context->needs_input_grad(0);
    if (context->saved_data["winograd"].toBool()) {
      const kernels::Conv3x3Shape shape = kernel_shape(src, weight);
      const kernels::Numbers numbers{kernel_type(src), Type::kFp32};
      if (wants_src) grad_src = new_map(src, src.sizes());
      grad_weight = at::empty_like(weight);
      kernels::BackwardArguments a;
      a.src = src.const_data_ptr();
      a.weights = weight.const_data_ptr<float>();
      a.grad_dst = grad.const_data_ptr();
      a.dst = dst.const_data_ptr();
      a.by_grad = by_grad.data(), a.by_dst = by_dst.data(), a.constant = constant.data();
      a.grad_src = wants_src ? grad_src.mutable_data_ptr() : nullptr;
      a.grad_weights = grad_weight.mutable_data_ptr<float>();
      const at::Tensor scratch = workspace(shape, numbers, Pass::kBackward);
      kernels::backward(shape, numbers, a, scratch.mutable_data_ptr(), threads);
    } else {
      const at::Tensor grad_dst = new_map(dst, dst.sizes());
      kernels::backward_apply(map, grad.const_data_ptr(), dst.const_data_ptr(), by_grad.data(),
                              by_dst.data(), constant.data(), grad_dst.mutable_data_ptr(), threads);
      const int64_t stride = context->saved_data["stride"].toInt(),
                    padding = context->saved_data["padding"].toInt();
      at::Tensor grad_bias;
      std::tie(grad_src, grad_weight, grad_bias) = at::convolution_backward(
          grad_dst, src, weight.to(src.scalar_type()), /*bias_sizes=*/{}, {stride, stride},
          {padding, padding}, {1, 1}, /*transposed=*/false, {0, 0}, /*groups=*/1,
          {wants_src, true, false});
      grad_weight = grad_weight.to(at::kFloat);
    }
    return {grad_src,
            grad_weight,
            grad_gamma,
            grad_beta,
            context->saved_data["residual"].toBool() && context->needs_input_grad(4) ? grad : at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

at::Tensor inference(const ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual,
                     bool relu, bool winograd) {
  const at::Tensor scale = unit.gamma / (unit.running_var + unit.eps).sqrt();
  const at::Tensor shift = unit.beta - unit.running_mean * scale;
  const void* add = residual.defined() ? residual.const_data_ptr() : nullptr;
  if (!winograd) {
    const at::Tensor dst = as_map(
        at::conv2d(src, unit.weight.to(src.scalar_type()), {}, unit.stride, unit.padding),
        src.scalar_type());
    kernels::normalise(map_of(dst), dst.const_data_ptr(), scale.const_data_ptr<float>(),
                       shift.const_data_ptr<float>(), add, relu, dst.mutable_data_ptr(),
                       all_threads());
    return dst;
  }
  const at::Tensor folded = (unit.weight * scale.view({-1, 1, 1, 1}))
                                .contiguous(at::MemoryFormat::ChannelsLast);
  const kernels::Conv3x3Shape shape = kernel_shape(src, folded);
  const kernels::Numbers numbers{kernel_type(src), Type::kFp32};
  at::Tensor dst = new_map(src, {shape.n, shape.k, shape.h, shape.w});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  a.weights = folded.const_data_ptr<float>();
  a.dst = dst.mutable_data_ptr();
  a.bias = shift.const_data_ptr<float>();
  a.residual = add;
  a.relu = relu;
  const at::Tensor scratch = workspace(shape, numbers, Pass::kForward);
  kernels::forward(shape, numbers, a, scratch.mutable_data_ptr(), all_threads());
  return dst;
}

}  // namespace

bool conv_bn_supports(const ConvBnUnit& unit, const at::Tensor& src) {
  return src.is_cpu() && unit.weight.scalar_type() == at::kFloat && unit.weight.size(0) % 16 == 0;
}

at::Tensor conv_bn(const ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual,
                   bool relu, bool training, const std::string& kernel) {
  const at::ScalarType type = at::autocast::is_autocast_enabled(at::kCPU)
                                  ? at::autocast::get_autocast_dtype(at::kCPU)
                                  : at::kFloat;
  const at::Tensor map = as_map(src, type);
  const at::Tensor add = residual.defined() ? as_map(residual, type) : residual;
  const bool winograd = takes_winograd(unit.weight, unit.stride, unit.padding, kernel) &&
                        kernels::refusal(kernel_shape(map, unit.weight)).empty();
  // What follows is in the types that it names.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (training)
    return ConvBn::apply(map, unit.weight, unit.gamma, unit.beta,
                         add.defined() ? std::optional(add) : std::nullopt, relu, unit, winograd);
  const at::NoGradGuard no_grad;
  return inference(unit, map, add, relu, winograd);
}

}  // namespace skipway
