// Tensors to raw pointers and back, and the arithmetic of BatchNorm on whole channels. The loops
// over pixels are in src/kernels.
#include "model/conv3x3.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <optional>

#include "base/clock.h"
#include "kernels/batch_norm.h"

namespace skipway {
namespace {

using kernels::ConvShape;
using kernels::Pass;
using kernels::Type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const std::pair<ConvMethod, const char*> kNames[] = {{ConvMethod::kWinograd, "winograd"},
                                                     {ConvMethod::kWinogradBf16, "winograd-bf16"},
                                                     {ConvMethod::kIm2col, "im2col"},
                                                     {ConvMethod::kTorch, "torch"}};

const char* name_of(ConvMethod method) {
  for (const auto& [known, name] : kNames)
    if (known == method) return name;
  return "";
}

kernels::Threads all_threads() {
  const int count = at::get_num_threads();
  return {count, [count](const std::function<void(int)>& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) task(static_cast<int>(thread));
            });
          }};
}

Type type_of(const at::Tensor& map) {
  return map.scalar_type() == at::kBFloat16 ? Type::kBf16 : Type::kFp32;
}

at::Tensor new_map(const at::Tensor& like, at::IntArrayRef shape) {
  return at::empty(shape, like.options(), at::MemoryFormat::ChannelsLast);
}

// NHWC memory and the given type, without a copy where it is so already.
at::Tensor as_map(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

ConvShape shape_of(const at::Tensor& src, const at::Tensor& weight, int64_t stride,
                   int64_t padding) {
  return {src.size(0),    src.size(2),    src.size(3), src.size(1),
          weight.size(0), weight.size(2), stride,      padding};
}

kernels::Map pixels_of(const at::Tensor& tensor) {
  return {tensor.numel() / tensor.size(1), tensor.size(1), type_of(tensor)};
}

// What Skipway's own kernels need to know of a call.
struct OwnKernel {
  ConvShape shape;
  kernels::Numbers numbers;
  bool winograd;

  OwnKernel(const ConvShape& s, Type type, ConvMethod method)
      : shape(s),
        numbers{type, method == ConvMethod::kWinogradBf16 ? Type::kBf16 : Type::kFp32},
        winograd(method != ConvMethod::kIm2col) {}

  kernels::Conv3x3Shape shape_3x3() const { return {shape.n, shape.h, shape.w, shape.c, shape.k}; }

  at::Tensor workspace(Pass pass) const {
    const int threads = at::get_num_threads();
    const size_t bytes = winograd ? kernels::workspace_bytes(shape_3x3(), numbers, pass, threads)
                                  : kernels::im2col_workspace_bytes(shape, pass, threads);
    return at::empty({static_cast<int64_t>(bytes)}, at::kByte);
  }
  void forward(const kernels::ForwardArguments& a) const {
    const at::Tensor scratch = workspace(Pass::kForward);
    if (winograd)
      kernels::forward(shape_3x3(), numbers, a, scratch.mutable_data_ptr(), all_threads());
    else
      kernels::im2col_forward(shape, numbers.maps, a, scratch.mutable_data_ptr(), all_threads());
  }
  void backward(const kernels::BackwardArguments& a) const {
    const at::Tensor scratch = workspace(Pass::kBackward);
    if (winograd)
      kernels::backward(shape_3x3(), numbers, a, scratch.mutable_data_ptr(), all_threads());
    else
      kernels::im2col_backward(shape, numbers.maps, a, scratch.mutable_data_ptr(), all_threads());
  }
};

// The convolution and the sums that BatchNorm needs, [k] each.
at::Tensor convolve(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                    const at::Tensor& weight, double* sum, double* sum_of_squares) {
  if (method == ConvMethod::kTorch) {
    at::Tensor dst = as_map(at::conv2d(src, weight.to(src.scalar_type()), {}, s.stride, s.padding),
                            src.scalar_type());
    kernels::channel_sums(pixels_of(dst), dst.const_data_ptr(), sum, sum_of_squares, all_threads());
    return dst;
  }
  at::Tensor dst = new_map(src, {s.n, s.k, s.out_h(), s.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  a.weights = weight.const_data_ptr<float>();
  a.dst = dst.mutable_data_ptr();
  a.sum = sum, a.sum_of_squares = sum_of_squares;
  OwnKernel(s, type_of(src), method).forward(a);
  return dst;
}

// BatchNorm's backward pass: the gradient of the convolution's result is
// by_grad * grad + by_dst * dst + constant.
struct BackwardCoefficients {
  std::vector<float> by_grad, by_dst, constant;
};

// grad_src (undefined where not wanted) and grad_weight.
std::pair<at::Tensor, at::Tensor> convolve_backward(ConvMethod method, const ConvShape& s,
                                                    const at::Tensor& src, const at::Tensor& weight,
                                                    const at::Tensor& grad, const at::Tensor& dst,
                                                    const BackwardCoefficients& coefficients,
                                                    bool wants_src) {
  const auto& [by_grad, by_dst, constant] = coefficients;
  if (method == ConvMethod::kTorch) {
    const at::Tensor grad_dst = new_map(dst, dst.sizes());
    kernels::backward_apply(pixels_of(dst), grad.const_data_ptr(), dst.const_data_ptr(),
                            by_grad.data(), by_dst.data(), constant.data(),
                            grad_dst.mutable_data_ptr(), all_threads());
    const auto [grad_src, grad_weight, grad_bias] = at::convolution_backward(
        grad_dst, src, weight.to(src.scalar_type()), /*bias_sizes=*/{}, {s.stride, s.stride},
        {s.padding, s.padding}, {1, 1}, /*transposed=*/false, {0, 0}, /*groups=*/1,
        {wants_src, true, false});
    return {grad_src, grad_weight.to(at::kFloat)};
  }
  at::Tensor grad_src = wants_src ? new_map(src, src.sizes()) : at::Tensor();
  at::Tensor grad_weight = at::empty_like(weight);
  kernels::BackwardArguments a;
  a.src = src.const_data_ptr();
  a.weights = weight.const_data_ptr<float>();
  a.grad_dst = grad.const_data_ptr();
  a.dst = dst.const_data_ptr();
  a.by_grad = by_grad.data(), a.by_dst = by_dst.data(), a.constant = constant.data();
  a.grad_src = wants_src ? grad_src.mutable_data_ptr() : nullptr;
  a.grad_weights = grad_weight.mutable_data_ptr<float>();
  OwnKernel(s, type_of(src), method).backward(a);
  return {grad_src, grad_weight};
}

std::vector<ConvMethod> candidates(const ConvShape& s, Type type, const std::string& word) {
  std::vector<ConvMethod> methods;
  if (word != "torch") {
    const bool is_3x3 = s.size == 3 && s.stride == 1 && s.padding == 1 &&
                        kernels::refusal({s.n, s.h, s.w, s.c, s.k}).empty();
    if (is_3x3) methods.push_back(ConvMethod::kWinograd);
    if (word == "winograd" && is_3x3) return methods;
    const auto sets = kernels::instruction_sets();
    if (is_3x3 && type == Type::kBf16 && sets.front() == "avx512_bf16")
      methods.push_back(ConvMethod::kWinogradBf16);
    // Other channels have no gradient of the source; only the stem has others.
    if (s.c % 16 == 0 || s.c == 3) methods.push_back(ConvMethod::kIm2col);
  }
  // Without an instruction for it, oneDNN's bf16 is slower than anything by far.
  const bool slow = type == Type::kBf16 && !__builtin_cpu_supports("avx512bf16");
  if (methods.empty() || word == "torch" || (word == "auto" && !slow))
    methods.push_back(ConvMethod::kTorch);
  return methods;
}

// The shorter of two runs.
double measure_method_s(ConvMethod method, const ConvShape& s, Type type, bool training) {
  const auto options = at::TensorOptions().dtype(type == Type::kBf16 ? at::kBFloat16 : at::kFloat);
  const at::Tensor src =
      at::full({s.n, s.c, s.h, s.w}, 0.5, options.memory_format(at::MemoryFormat::ChannelsLast));
  const at::Tensor weight =
      at::full({s.k, s.c, s.size, s.size}, 0.01,
               at::TensorOptions().memory_format(at::MemoryFormat::ChannelsLast));
  const auto k = static_cast<size_t>(s.k);
  std::vector<double> sum(k), squares(k);
  const BackwardCoefficients coefficients{std::vector<float>(k, 1), std::vector<float>(k),
                                          std::vector<float>(k)};
  double shortest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 2; ++i) {
    const Stopwatch watch;
    const at::Tensor dst = convolve(method, s, src, weight, sum.data(), squares.data());
    if (training) convolve_backward(method, s, src, weight, dst, dst, coefficients, s.c % 16 == 0);
    shortest = std::min(shortest, watch.seconds());
  }
  return shortest;
}

struct ConvBn : torch::autograd::Function<ConvBn> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& weight, const at::Tensor& gamma,
                            const at::Tensor& beta, const std::optional<at::Tensor>& residual,
                            bool relu, const ConvBnUnit& unit, ConvMethod method) {
    const auto channels = static_cast<size_t>(weight.size(0));
    std::vector<double> sum(channels), squares(channels);
    const ConvShape shape = shape_of(src, weight, unit.stride, unit.padding);
    const at::Tensor dst = convolve(method, shape, src, weight, sum.data(), squares.data());

    const kernels::Map pixels = pixels_of(dst);
    const auto n = static_cast<double>(pixels.pixels);
    std::vector<float> scale(channels), shift(channels);
    at::Tensor mean = at::empty_like(gamma), inverse_std = at::empty_like(gamma);
    const float *g = gamma.const_data_ptr<float>(), *b = beta.const_data_ptr<float>();
    float* running_mean = at::Tensor(unit.running_mean).mutable_data_ptr<float>();
    float* running_var = at::Tensor(unit.running_var).mutable_data_ptr<float>();
    for (size_t i = 0; i < channels; ++i) {
      const double m = sum[i] / n, variance = std::max(0.0, squares[i] / n - m * m);
      const double inverse = 1 / std::sqrt(variance + unit.eps);
      const double factor = static_cast<double>(g[i]) * inverse;
      mean.mutable_data_ptr<float>()[i] = static_cast<float>(m);
      inverse_std.mutable_data_ptr<float>()[i] = static_cast<float>(inverse);
      scale[i] = static_cast<float>(factor);
      shift[i] = static_cast<float>(static_cast<double>(b[i]) - factor * m);
      const auto move_towards = [&](float& running, double value) {
        running = static_cast<float>((1 - unit.momentum) * static_cast<double>(running) +
                                     unit.momentum * value);
      };
      move_towards(running_mean[i], m);
      move_towards(running_var[i], n > 1 ? variance * n / (n - 1) : variance);
    }
    at::Tensor result = new_map(dst, dst.sizes());
    kernels::normalise(pixels, dst.const_data_ptr(), scale.data(), shift.data(),
                       residual ? residual->const_data_ptr() : nullptr, relu,
                       result.mutable_data_ptr(), all_threads());
    context->save_for_backward(
        {src, weight, gamma, dst, relu ? result : at::Tensor(), mean, inverse_std});
    context->saved_data["stride"] = unit.stride;
    context->saved_data["padding"] = unit.padding;
    context->saved_data["method"] = static_cast<int64_t>(method);
    context->saved_data["residual"] = residual.has_value();
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &src = saved[0], &weight = saved[1], &gamma = saved[2], &dst = saved[3],
                     &result = saved[4];
    const float *mean = saved[5].const_data_ptr<float>(),
                *inverse_std = saved[6].const_data_ptr<float>();
    const kernels::Map pixels = pixels_of(dst);
    const auto channels = static_cast<size_t>(pixels.c);
    const at::Tensor grad_result = as_map(gradients[0], dst.scalar_type());
    at::Tensor grad = new_map(dst, dst.sizes());  // behind the ReLU
    std::vector<double> sum(channels), sum_with_dst(channels);
    kernels::backward_sums(pixels, grad_result.const_data_ptr(),
                           result.defined() ? result.const_data_ptr() : nullptr,
                           dst.const_data_ptr(), grad.mutable_data_ptr(), sum.data(),
                           sum_with_dst.data(), all_threads());

    // grad_dst = gamma / std * (grad - mean(grad) - normalised dst * mean(grad * normalised dst)).
    at::Tensor grad_gamma = at::empty_like(gamma), grad_beta = at::empty_like(gamma);
    const float* g = gamma.const_data_ptr<float>();
    BackwardCoefficients coefficients{std::vector<float>(channels), std::vector<float>(channels),
                                      std::vector<float>(channels)};
    const auto n = static_cast<double>(pixels.pixels);
    for (size_t i = 0; i < channels; ++i) {
      const double m = static_cast<double>(mean[i]), inverse = static_cast<double>(inverse_std[i]);
      const double with_normalised = (sum_with_dst[i] - m * sum[i]) * inverse;
      grad_gamma.mutable_data_ptr<float>()[i] = static_cast<float>(with_normalised);
      grad_beta.mutable_data_ptr<float>()[i] = static_cast<float>(sum[i]);
      const double by_grad = static_cast<double>(g[i]) * inverse;
      const double by_dst = -by_grad * inverse * with_normalised / n;
      coefficients.by_grad[i] = static_cast<float>(by_grad);
      coefficients.by_dst[i] = static_cast<float>(by_dst);
      coefficients.constant[i] = static_cast<float>(-by_grad * sum[i] / n - by_dst * m);
    }

    const ConvShape shape = shape_of(src, weight, context->saved_data["stride"].toInt(),
                                     context->saved_data["padding"].toInt());
    const auto method = static_cast<ConvMethod>(context->saved_data["method"].toInt());
    const auto [grad_src, grad_weight] =
        convolve_backward(method, shape, src, weight, grad, dst, coefficients,
                          /*wants_src=*/context->needs_input_grad(0));
    const bool to_residual =
        context->saved_data["residual"].toBool() && context->needs_input_grad(4);
    return {grad_src,     grad_weight,  grad_gamma,  grad_beta, to_residual ? grad : at::Tensor(),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// BatchNorm folded into the convolution.
at::Tensor inference(const ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual,
                     bool relu, ConvMethod method) {
  const at::NoGradGuard no_grad;
  const at::Tensor scale = unit.gamma / (unit.running_var + unit.eps).sqrt();
  const at::Tensor shift = unit.beta - unit.running_mean * scale;
  const ConvShape shape = shape_of(src, unit.weight, unit.stride, unit.padding);
  const void* add = residual.defined() ? residual.const_data_ptr() : nullptr;
  if (method == ConvMethod::kTorch) {
    at::Tensor dst =
        as_map(at::conv2d(src, unit.weight.to(src.scalar_type()), {}, unit.stride, unit.padding),
               src.scalar_type());
    kernels::normalise(pixels_of(dst), dst.const_data_ptr(), scale.const_data_ptr<float>(),
                       shift.const_data_ptr<float>(), add, relu, dst.mutable_data_ptr(),
                       all_threads());
    return dst;
  }
  const at::Tensor folded =
      (unit.weight * scale.view({-1, 1, 1, 1})).contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor dst = new_map(src, {shape.n, shape.k, shape.out_h(), shape.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  a.weights = folded.const_data_ptr<float>();
  a.dst = dst.mutable_data_ptr();
  a.bias = shift.const_data_ptr<float>();
  a.residual = add;
  a.relu = relu;
  OwnKernel(shape, type_of(src), method).forward(a);
  return dst;
}

at::Tensor conv_bn_in(at::ScalarType type, const ConvBnUnit& unit, const at::Tensor& src,
                      const at::Tensor& residual, bool relu, bool training, KernelChoice& kernels) {
  const at::Tensor map = as_map(src, type);
  const at::Tensor add = residual.defined() ? as_map(residual, type) : residual;
  // What follows is in the types that it names.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const ConvMethod method =
      kernels.method(shape_of(map, unit.weight, unit.stride, unit.padding), type_of(map), training);
  if (!training) return inference(unit, map, add, relu, method);
  return ConvBn::apply(map, unit.weight, unit.gamma, unit.beta,
                       add.defined() ? std::optional(add) : std::nullopt, relu, unit, method);
}

}  // namespace

const std::vector<std::string>& KernelChoice::words() {
  static const std::vector<std::string> all = {"auto", "winograd", "torch"};
  return all;
}

ConvMethod KernelChoice::method(const ConvShape& s, Type type, bool training) {
  const std::string key =
      fmt::format("{}x{} stride {}, {} to {} channels, {}x{}, {}", s.size, s.size, s.stride, s.c,
                  s.k, s.h, s.w, type == Type::kBf16 ? "bf16" : "fp32");
  const std::vector<ConvMethod> methods = candidates(s, type, word_);
  std::string& chosen = chosen_[key];
  for (const ConvMethod method : methods)
    if (chosen == name_of(method)) return method;
  constexpr double kMargin = 0.85;
  ConvMethod best = methods.front();
  if (methods.size() > 1) {
    double shortest = std::numeric_limits<double>::infinity();
    for (const ConvMethod method : methods) {
      const double seconds = measure_method_s(method, s, type, training);
      // By a margin, so that the noise of a measurement does not choose: the same run on the same
      // machine should take the same kernels.
      if (seconds < kMargin * shortest) best = method, shortest = seconds;
    }
  }
  chosen = name_of(best);
  return best;
}

std::string KernelChoice::in_use() const {
  std::string best = "torch", set = kernels::instruction_sets().front();
  for (const auto& [shape, method] : chosen_)
    if (method != "torch") best = "winograd";
  // The instruction set of the products: those in fp32 do not use the bf16 instruction.
  const bool in_bf16 = std::any_of(chosen_.begin(), chosen_.end(), [](const auto& entry) {
    return entry.second == "winograd-bf16";
  });
  if (best == "winograd" && set == "avx512_bf16" && !in_bf16) set = "avx512";
  return best + "/" + set;
}

bool bf16_is_faster(const std::string& word) {
  constexpr int64_t kImages = 32, kChannels = 64, kSide = 32;
  ConvBnUnit unit;
  unit.weight = at::full({kChannels, kChannels, 3, 3}, 0.01,
                         at::TensorOptions().memory_format(at::MemoryFormat::ChannelsLast))
                    .requires_grad_(true);
  unit.padding = 1;
  unit.gamma = at::ones({kChannels}), unit.beta = at::zeros({kChannels});
  unit.running_mean = at::zeros({kChannels}), unit.running_var = at::ones({kChannels});
  const auto shortest_s = [&](at::ScalarType type) {
    const at::Tensor src = as_map(at::ones({kImages, kChannels, kSide, kSide}), type);
    KernelChoice kernels(word);
    double shortest = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i) {  // the first chooses the kernel
      const Stopwatch watch;
      const at::Tensor dst = conv_bn_in(type, unit, src, /*residual=*/{}, true, true, kernels);
      dst.backward(at::ones_like(dst));
      shortest = std::min(shortest, watch.seconds());
    }
    return shortest;
  };
  return shortest_s(at::kBFloat16) < shortest_s(at::kFloat);
}

bool conv_bn_supports(const ConvBnUnit& unit, const at::Tensor& src) {
  return src.is_cpu() && unit.weight.scalar_type() == at::kFloat && unit.weight.size(0) % 16 == 0;
}

at::Tensor conv_bn(const ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual,
                   bool relu, bool training, KernelChoice& kernels) {
  const at::ScalarType type = at::autocast::is_autocast_enabled(at::kCPU)
                                  ? at::autocast::get_autocast_dtype(at::kCPU)
                                  : at::kFloat;
  return conv_bn_in(type, unit, src, residual, relu, training, kernels);
}

}  // namespace skipway
