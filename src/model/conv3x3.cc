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
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/batch_norm.h"
#include "kernels/muon.h"
#include "kernels/reference.h"
#include "model/device.h"
#include "model/maps.h"

namespace skipway {

// A convolution with its BatchNorm folded in, for many images.
struct FoldedConv {
  std::vector<int64_t> versions;  // of the tensors that it was made of
  at::ScalarType type;
  ConvMethod method;
  size_t prepared_bytes;  // tells the tiles of small maps from those of others
  at::Tensor weights;     // as the method wants them
  at::Tensor bias;        // [k]
};

namespace {

using kernels::ConvShape;
using kernels::Pass;
using kernels::Type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const std::pair<ConvMethod, const char*> kNames[] = {
    {ConvMethod::kWinograd, "winograd"}, {ConvMethod::kWinogradBf16, "winograd-bf16"},
    {ConvMethod::kIm2col, "im2col"},     {ConvMethod::kIm2colBf16, "im2col-bf16"},
    {ConvMethod::kTorch, "torch"},       {ConvMethod::kReference, "reference"}};

const char* name_of(ConvMethod method) {
  for (const auto& [known, name] : kNames)
    if (known == method) return name;
  return "";
}

// `src`: [n,c,h,w].
ConvShape shape_of(at::IntArrayRef src, const at::Tensor& weight, int64_t stride, int64_t padding) {
  return {src[0], src[2], src[3], src[1], weight.size(0), weight.size(2), stride, padding};
}

// What Skipway's own kernels need to know of a call.
struct OwnKernel {
  ConvShape shape;
  kernels::Numbers numbers;
  ConvMethod method;

  OwnKernel(const ConvShape& s, Type type, ConvMethod m)
      : shape(s),
        numbers{type, m == ConvMethod::kWinogradBf16 || m == ConvMethod::kIm2colBf16 ? Type::kBf16
                                                                                     : Type::kFp32},
        method(m) {}

  bool is_im2col() const {
    return method == ConvMethod::kIm2col || method == ConvMethod::kIm2colBf16;
  }

  at::Tensor workspace(Pass pass) const {
    const int threads = at::get_num_threads();
    const size_t bytes = is_im2col()
                             ? kernels::im2col_workspace_bytes(shape, numbers, pass, threads)
                             : kernels::workspace_bytes(shape, numbers, pass, threads);
    return at::empty({static_cast<int64_t>(bytes)}, at::kByte);
  }
  void forward(const kernels::ForwardArguments& a) const {
    if (method == ConvMethod::kReference)
      return kernels::reference_forward(shape, numbers.maps, a, all_threads());
    const at::Tensor memory = workspace(Pass::kForward);
    void* scratch = memory.mutable_data_ptr();
    if (is_im2col())
      kernels::im2col_forward(shape, numbers, a, scratch, all_threads());
    else
      kernels::forward(shape, numbers, a, scratch, all_threads());
  }
  // Of what prepare() makes; none where the method takes the weights as they are.
  size_t prepared_bytes() const {
    if (method == ConvMethod::kTorch || method == ConvMethod::kReference) return 0;
    return is_im2col() ? kernels::im2col_prepared_bytes(shape, numbers)
                       : kernels::prepared_bytes(shape, numbers);
  }
  // What a forward pass may be given instead of the weights.
  at::Tensor prepare(const at::Tensor& weights) const {
    if (method == ConvMethod::kReference) return weights;
    const at::Tensor prepared = at::empty({static_cast<int64_t>(prepared_bytes())}, at::kByte);
    if (is_im2col())
      kernels::im2col_prepare(shape, numbers, weights.const_data_ptr<float>(),
                              prepared.mutable_data_ptr(), all_threads());
    else
      kernels::prepare(shape, numbers, weights.const_data_ptr<float>(), prepared.mutable_data_ptr(),
                       all_threads());
    return prepared;
  }
  void backward(const kernels::BackwardArguments& a) const {
    if (method == ConvMethod::kReference)
      return kernels::reference_backward(shape, numbers.maps, a, all_threads());
    const at::Tensor memory = workspace(Pass::kBackward);
    void* scratch = memory.mutable_data_ptr();
    if (is_im2col())
      kernels::im2col_backward(shape, numbers, a, scratch, all_threads());
    else
      kernels::backward(shape, numbers, a, scratch, all_threads());
  }
};

// The coefficients of a BatchNorm, [k] each: dst becomes scale * dst + shift.
struct Affine {
  const float *scale = nullptr, *shift = nullptr;
};

// Two sums a channel, of a map and of it times another.
struct TwoSums {
  std::vector<double> sum, with_other;
  explicit TwoSums(int64_t channels)
      : sum(static_cast<size_t>(channels)), with_other(static_cast<size_t>(channels)) {}
};

// The convolution, and the sums over pixels of its result and of its square that BatchNorm needs,
// where they are wanted. With `before`, of max(0, before(src)), which LibTorch cannot.
at::Tensor convolve(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                    const Affine& before, const at::Tensor& weight, TwoSums* sums) {
  if (method == ConvMethod::kTorch) {
    at::Tensor dst = as_map(at::conv2d(src, weight.to(src.scalar_type()), {}, s.stride, s.padding),
                            src.scalar_type());
    if (sums != nullptr)
      kernels::channel_sums(pixels_of(dst), dst.const_data_ptr(), sums->sum.data(),
                            sums->with_other.data(), all_threads());
    return dst;
  }
  at::Tensor dst = new_map(src, {s.n, s.k, s.out_h(), s.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  a.src_scale = before.scale, a.src_shift = before.shift;
  a.weights = weight.const_data_ptr<float>();
  a.dst = dst.mutable_data_ptr();
  if (sums != nullptr) a.sum = sums->sum.data(), a.sum_of_squares = sums->with_other.data();
  OwnKernel(s, type_of(src), method).forward(a);
  return dst;
}

// BatchNorm's backward pass: the gradient of the convolution's result is
// by_grad * grad + by_dst * dst + constant.
struct BackwardCoefficients {
  std::vector<float> by_grad, by_dst, constant;
};

// Gives grad_weight. `coefficients`, with the `dst` that they go with: none where no BatchNorm
// follows. grad_src is overwritten, or added to; undefined where not wanted. With
// `before`, it is the gradient before that BatchNorm's ReLU, and its sums, alone and with src, are
// left in `sums`.
at::Tensor convolve_backward(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                             const Affine& before, const at::Tensor& weight, const at::Tensor& grad,
                             const at::Tensor& dst, const BackwardCoefficients* coefficients,
                             at::Tensor grad_src, bool add, TwoSums* sums) {
  if (method == ConvMethod::kTorch) {
    at::Tensor grad_dst = grad;
    if (coefficients != nullptr) {
      grad_dst = new_map(dst, dst.sizes());
      kernels::backward_apply(pixels_of(dst), grad.const_data_ptr(), dst.const_data_ptr(),
                              coefficients->by_grad.data(), coefficients->by_dst.data(),
                              coefficients->constant.data(), grad_dst.mutable_data_ptr(),
                              all_threads());
    }
    const auto [of_src, of_weight, of_bias] = at::convolution_backward(
        grad_dst, src, weight.to(src.scalar_type()), /*bias_sizes=*/{}, {s.stride, s.stride},
        {s.padding, s.padding}, {1, 1}, /*transposed=*/false, {0, 0}, /*groups=*/1,
        {grad_src.defined(), true, false});
    if (grad_src.defined()) add ? grad_src.add_(of_src) : grad_src.copy_(of_src);
    return of_weight.to(at::kFloat);
  }
  at::Tensor grad_weight = at::empty_like(weight);
  kernels::BackwardArguments a;
  a.src = src.const_data_ptr();
  a.src_scale = before.scale, a.src_shift = before.shift;
  a.weights = weight.const_data_ptr<float>();
  a.grad_dst = grad.const_data_ptr();
  if (coefficients != nullptr) {
    a.dst = dst.const_data_ptr();
    a.by_grad = coefficients->by_grad.data(), a.by_dst = coefficients->by_dst.data();
    a.constant = coefficients->constant.data();
  }
  a.grad_src = grad_src.defined() ? grad_src.mutable_data_ptr() : nullptr;
  a.add = add;
  if (sums != nullptr) a.sum = sums->sum.data(), a.sum_with_src = sums->with_other.data();
  a.grad_weights = grad_weight.mutable_data_ptr<float>();
  OwnKernel(s, type_of(src), method).backward(a);
  return grad_weight;
}

std::vector<ConvMethod> candidates(const ConvShape& s, Type type, const std::string& word) {
  if (word == "torch") return {ConvMethod::kTorch};
  if (word == "reference") return {ConvMethod::kReference};
  std::vector<ConvMethod> methods;
  const bool is_3x3 = kernels::refusal(s).empty();
  const bool in_bf16 =
      word == "auto" && type == Type::kBf16 && kernels::instruction_sets().front() == "avx512_bf16";
  if (is_3x3) methods.push_back(ConvMethod::kWinograd);
  if (word == "winograd" && is_3x3) return methods;
  if (is_3x3 && in_bf16) methods.push_back(ConvMethod::kWinogradBf16);
  // Other channels have no gradient of the source, which conv_chain_supports() sees to; only the
  // stem has others.
  if (s.c % 16 == 0 || s.c == 3) {
    methods.push_back(ConvMethod::kIm2col);
    if (in_bf16) methods.push_back(ConvMethod::kIm2colBf16);
  }
  // Without an instruction for it, oneDNN's bf16 is slower than anything by far.
  const bool slow = type == Type::kBf16 && !__builtin_cpu_supports("avx512bf16");
  if (methods.empty() || (word == "auto" && !slow)) methods.push_back(ConvMethod::kTorch);
  return methods;
}

// Which values of its tensors a unit has: LibTorch counts the changes that its own operations make,
// the optimizer those of its steps, batch_statistics() those of the running statistics.
std::vector<int64_t> versions(const ConvBnUnit& unit) {
  std::vector<int64_t> all;
  for (const at::Tensor* tensor :
       {&unit.weight, &unit.gamma, &unit.beta, &unit.running_mean, &unit.running_var})
    all.push_back(tensor->_version());
  return all;
}

const FoldedConv& folded(ConvBnUnit& unit, const ConvShape& shape, at::ScalarType type,
                         ConvMethod method) {
  std::vector<int64_t> now = versions(unit);
  const OwnKernel kernel(shape, type == at::kFloat ? Type::kFp32 : Type::kBf16, method);
  const size_t bytes = kernel.prepared_bytes();
  if (unit.folded != nullptr && unit.folded->versions == now && unit.folded->type == type &&
      unit.folded->method == method && unit.folded->prepared_bytes == bytes)
    return *unit.folded;
  const at::Tensor scale = unit.gamma / (unit.running_var + unit.eps).sqrt();
  const at::Tensor weights =
      (unit.weight * scale.view({-1, 1, 1, 1})).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor bias = unit.beta - unit.running_mean * scale;
  const bool torch = method == ConvMethod::kTorch;
  unit.folded = std::make_shared<const FoldedConv>(
      FoldedConv{std::move(now), type, method, bytes,
                 torch ? weights.to(type) : kernel.prepare(weights), torch ? bias.to(type) : bias});
  return *unit.folded;
}

at::Tensor infer(const FoldedConv& conv, const ConvShape& shape, const at::Tensor& src,
                 const at::Tensor& residual, bool relu) {
  if (conv.method == ConvMethod::kTorch) {
    at::Tensor dst = as_map(at::conv2d(src, conv.weights, conv.bias, shape.stride, shape.padding),
                            src.scalar_type());
    if (residual.defined()) dst.add_(residual);
    return relu ? dst.relu_() : dst;
  }
  at::Tensor dst = new_map(src, {shape.n, shape.k, shape.out_h(), shape.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  if (conv.method == ConvMethod::kReference)
    a.weights = conv.weights.const_data_ptr<float>();
  else
    a.prepared = conv.weights.const_data_ptr();
  a.dst = dst.mutable_data_ptr();
  a.bias = conv.bias.const_data_ptr<float>();
  a.residual = residual.defined() ? residual.const_data_ptr() : nullptr;
  a.relu = relu;
  OwnKernel(shape, type_of(src), conv.method).forward(a);
  return dst;
}

// The shortest of three runs, after one that touches memory for the first time; of one, where that
// takes twice `best_s` already.
template <class Run>
double shortest_s(const Run& run, double best_s = std::numeric_limits<double>::infinity()) {
  run();
  double shortest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {
    const Stopwatch watch;
    run();
    shortest = std::min(shortest, watch.seconds());
    if (shortest > 2 * best_s) break;
  }
  return shortest;
}

double measure_method_s(ConvMethod method, const ConvShape& s, Type type, bool training,
                        double best_s) {
  const auto options = at::TensorOptions().dtype(type == Type::kBf16 ? at::kBFloat16 : at::kFloat);
  const at::Tensor src =
      at::full({s.n, s.c, s.h, s.w}, 0.5, options.memory_format(at::MemoryFormat::ChannelsLast));
  ConvBnUnit unit;
  unit.weight = at::full({s.k, s.c, s.size, s.size}, 0.01,
                         at::TensorOptions().memory_format(at::MemoryFormat::ChannelsLast));
  unit.gamma = unit.running_var = at::ones({s.k});
  unit.beta = unit.running_mean = at::zeros({s.k});
  const auto k = static_cast<size_t>(s.k);
  TwoSums sums(s.k);
  const BackwardCoefficients coefficients{std::vector<float>(k, 1), std::vector<float>(k),
                                          std::vector<float>(k)};
  const at::Tensor grad_src = training && s.c % 16 == 0 ? new_map(src, src.sizes()) : at::Tensor();
  const auto run = [&] {
    if (!training) {
      infer(folded(unit, s, src.scalar_type(), method), s, src, {}, true);
      return;
    }
    const at::Tensor dst = convolve(method, s, src, {}, unit.weight, &sums);
    convolve_backward(method, s, src, {}, unit.weight, dst, dst, &coefficients, grad_src, false,
                      nullptr);
  };
  return shortest_s(run, best_s);
}

// Muon's step in KernelChoice::chosen(): the type of its products.
const char* const kMuon = "muon";
const char* const kFp32 = "fp32";
const char* const kBf16 = "bf16";
// A choice by this margin, so that the noise of a measurement does not choose: the same run on the
// same machine should take the same kernels.
constexpr double kMargin = 0.85;

double measure_muon_s(Type products) {
  constexpr int64_t kRows = 256, kColumns = 2304;  // of ResNet-18's third stage
  at::Tensor filters = at::ones({kRows, kColumns}), momentum = at::ones({kRows, kColumns});
  const at::Tensor gradient = at::ones({kRows, kColumns});
  const std::vector<kernels::MuonMatrix> matrices = {
      {kRows, kColumns, filters.mutable_data_ptr<float>(), gradient.const_data_ptr<float>(),
       momentum.mutable_data_ptr<float>()}};
  const at::Tensor memory =
      at::empty({static_cast<int64_t>(kernels::muon_workspace_bytes(matrices, 1))}, at::kByte);
  return shortest_s(
      [&] { kernels::muon_step(matrices, {}, products, memory.mutable_data_ptr(), {}); });
}

// What the forward pass of a convolution with BatchNorm leaves for the backward pass.
struct UnitRecord {
  static constexpr int64_t kTensors = 5, kNumbers = 4;

  at::Tensor src;  // what it read
  at::Tensor weight, gamma, dst;
  at::Tensor statistics;  // [4,k]: mean, 1 / std, and the scale and shift that they come to
  int64_t stride = 1, padding = 0;
  ConvMethod method = ConvMethod::kTorch;
  bool normalises_src = false;  // BatchNorm and ReLU of the unit before were applied in reading

  kernels::Map pixels() const { return pixels_of(dst); }
  ConvShape shape() const { return shape_of(src.sizes(), weight, stride, padding); }
  const float* statistic(int64_t row) const {
    return statistics.const_data_ptr<float>() + row * statistics.size(1);
  }
  Affine affine() const { return {statistic(2), statistic(3)}; }
};

// The batch statistics, from sums over pixels of dst and of its square; the running ones move.
at::Tensor batch_statistics(const ConvBnUnit& unit, int64_t pixels, const TwoSums& sums) {
  const int64_t channels = unit.gamma.size(0);
  const at::Tensor statistics = at::empty({4, channels}, unit.gamma.options());
  float* row = statistics.mutable_data_ptr<float>();
  const float *gamma = unit.gamma.const_data_ptr<float>(),
              *beta = unit.beta.const_data_ptr<float>();
  float* running_mean = unit.running_mean.mutable_data_ptr<float>();
  float* running_var = unit.running_var.mutable_data_ptr<float>();
  unit.running_mean.unsafeGetTensorImpl()->bump_version();
  const auto n = static_cast<double>(pixels);
  for (int64_t i = 0; i < channels; ++i) {
    const auto at = static_cast<size_t>(i);
    const double mean = sums.sum[at] / n;
    const double variance = std::max(sums.with_other[at] / n - mean * mean, 0.0);
    const double inverse_std = 1 / std::sqrt(variance + unit.eps);
    const double scale = static_cast<double>(gamma[i]) * inverse_std;
    row[i] = static_cast<float>(mean);
    row[channels + i] = static_cast<float>(inverse_std);
    row[2 * channels + i] = static_cast<float>(scale);
    row[3 * channels + i] = static_cast<float>(static_cast<double>(beta[i]) - scale * mean);
    const auto move_towards = [&](float& running, double value) {
      running = static_cast<float>((1 - unit.momentum) * static_cast<double>(running) +
                                   unit.momentum * value);
    };
    if (pixels == 1) continue;  // as apply_batch_norm()
    move_towards(running_mean[i], mean);
    move_towards(running_var[i], variance * n / (n - 1));
  }
  return statistics;
}

// Gradients of gamma and beta, and what BatchNorm does to a gradient, from the sums over pixels of
// the gradient behind it, alone and times dst:
//   grad_dst = gamma / std * (grad - mean(grad) - normalised dst * mean(grad * normalised dst)).
BackwardCoefficients batch_norm_backward(const UnitRecord& unit, const TwoSums& sums,
                                         at::Tensor& grad_gamma, at::Tensor& grad_beta) {
  const auto channels = static_cast<size_t>(unit.gamma.size(0));
  grad_gamma = at::empty_like(unit.gamma), grad_beta = at::empty_like(unit.gamma);
  const float* gamma = unit.gamma.const_data_ptr<float>();
  BackwardCoefficients to{std::vector<float>(channels), std::vector<float>(channels),
                          std::vector<float>(channels)};
  const auto n = static_cast<double>(unit.pixels().pixels);
  for (size_t i = 0; i < channels; ++i) {
    const auto mean = static_cast<double>(unit.statistic(0)[i]);
    const auto inverse_std = static_cast<double>(unit.statistic(1)[i]);
    const double with_normalised = (sums.with_other[i] - mean * sums.sum[i]) * inverse_std;
    grad_gamma.mutable_data_ptr<float>()[i] = static_cast<float>(with_normalised);
    grad_beta.mutable_data_ptr<float>()[i] = static_cast<float>(sums.sum[i]);
    const double by_grad = static_cast<double>(gamma[i]) * inverse_std;
    const double by_dst = -by_grad * inverse_std * with_normalised / n;
    to.by_grad[i] = static_cast<float>(by_grad);
    to.by_dst[i] = static_cast<float>(by_dst);
    to.constant[i] = static_cast<float>(-by_grad * sums.sum[i] / n - by_dst * mean);
  }
  return to;
}

// grad_src = grad where gate > 0 (everywhere where it is undefined); grad_src may be grad, or
// undefined where only the sums are wanted.
TwoSums gradient_sums(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& dst,
                      const at::Tensor& grad_src) {
  TwoSums sums(dst.size(1));
  kernels::backward_sums(pixels_of(dst), grad.const_data_ptr(),
                         gate.defined() ? gate.const_data_ptr() : nullptr, dst.const_data_ptr(),
                         grad_src.defined() ? grad_src.mutable_data_ptr() : nullptr,
                         sums.sum.data(), sums.with_other.data(), all_threads());
  return sums;
}

// The whole chain is one operation of autograd, because its maps are shared: a unit reads what the
// unit before wrote and normalises it in reading, and gradients are added where they lie.
struct ConvChainFunction : torch::autograd::Function<ConvChainFunction> {
  // `tensors`: src, then weight, gamma and beta of each unit, of the downsample last; for autograd
  // to see.
  static at::Tensor forward(AutogradContext* context, const at::TensorList& tensors,
                            const ConvChain& chain, KernelChoice& kernels) {
    const at::Tensor& src = tensors[0];
    std::vector<UnitRecord> records;
    const auto run = [&](const ConvBnUnit& unit, const at::Tensor& from, const UnitRecord* before) {
      UnitRecord r;
      r.weight = unit.weight, r.gamma = unit.gamma;
      r.stride = unit.stride, r.padding = unit.padding;
      r.src = from;
      r.method = kernels.method(r.shape(), type_of(from), true);
      r.normalises_src = before != nullptr && r.method != ConvMethod::kTorch;
      if (before != nullptr && !r.normalises_src) {
        r.src = new_map(from, from.sizes());
        kernels::normalise(before->pixels(), from.const_data_ptr(), before->affine().scale,
                           before->affine().shift, {}, /*relu=*/true, r.src.mutable_data_ptr(),
                           all_threads());
      }
      TwoSums sums(unit.gamma.size(0));
      r.dst = convolve(r.method, r.shape(), r.src, r.normalises_src ? before->affine() : Affine{},
                       r.weight, &sums);
      r.statistics = batch_statistics(unit, r.pixels().pixels, sums);
      records.push_back(r);
    };
    for (const ConvBnUnit& unit : chain.units) {
      if (records.empty()) {
        run(unit, src, nullptr);
      } else {
        const UnitRecord before = records.back();
        run(unit, before.dst, &before);
      }
    }
    const UnitRecord last = records.back();
    kernels::Residual residual;
    if (chain.downsample) {
      run(*chain.downsample, src, nullptr);
      const UnitRecord& down = records.back();
      residual = {down.dst.const_data_ptr(), down.affine().scale, down.affine().shift};
    } else if (chain.residual) {
      residual.map = src.const_data_ptr();
    }
    const at::Tensor result = new_map(last.dst, last.dst.sizes());
    kernels::normalise(last.pixels(), last.dst.const_data_ptr(), last.affine().scale,
                       last.affine().shift, residual, chain.last_relu, result.mutable_data_ptr(),
                       all_threads());
    // Where there is no ReLU to go back through, the result itself is not needed.
    keep(context, chain, records, chain.last_relu ? result : at::Tensor());
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Kept kept = restore(context);
    const std::vector<UnitRecord>& records = kept.records;
    const at::Tensor& result = kept.result;
    const bool residual = kept.residual, downsample = kept.downsample;
    const auto units = records.size() - (downsample ? 1 : 0);
    const bool wants_src = context->needs_input_grad(0);
    variable_list out(1 + 3 * records.size() + 2);  // as forward's arguments

    const at::Tensor& last_dst = records[units - 1].dst;
    at::Tensor grad = new_map(last_dst, last_dst.sizes());
    TwoSums sums =
        gradient_sums(as_map(gradients[0], last_dst.scalar_type()), result, last_dst, grad);
    // Through one unit; `grad` is the gradient behind its BatchNorm, and `sums` are of it.
    const auto back = [&](size_t i, const Affine& before, const at::Tensor& grad_src, bool add,
                          TwoSums* sums_of_src) {
      const UnitRecord& unit = records[i];
      variable_list::iterator to = out.begin() + 1 + static_cast<std::ptrdiff_t>(3 * i);
      const BackwardCoefficients coefficients = batch_norm_backward(unit, sums, to[1], to[2]);
      to[0] = convolve_backward(unit.method, unit.shape(), unit.src, before, unit.weight, grad,
                                unit.dst, &coefficients, grad_src, add, sums_of_src);
    };

    at::Tensor grad_src;  // of the chain
    if (downsample) {
      const TwoSums of_last = sums;
      sums = gradient_sums(grad, {}, records.back().dst, {});
      if (wants_src) grad_src = new_map(records.back().src, records.back().src.sizes());
      back(units, {}, grad_src, false, nullptr);
      sums = of_last;
    } else if (residual) {
      grad_src = grad;  // by the time that something is added, no unit reads it any more
    } else if (wants_src) {
      grad_src = new_map(records.front().src, records.front().src.sizes());
    }
    for (size_t i = units; --i > 0;) {
      const UnitRecord& before = records[i - 1];
      const at::Tensor of_before = new_map(before.dst, before.dst.sizes());
      TwoSums sums_of_before(before.dst.size(1));
      if (records[i].normalises_src) {
        back(i, before.affine(), of_before, false, &sums_of_before);
      } else {
        back(i, {}, of_before, false, nullptr);
        sums_of_before = gradient_sums(of_before, records[i].src, before.dst, of_before);
      }
      grad = of_before, sums = sums_of_before;
    }
    back(0, {}, grad_src, residual || downsample, nullptr);
    if (wants_src) out[0] = grad_src;
    return out;
  }

 private:
  struct Kept {
    std::vector<UnitRecord> records;
    at::Tensor result;
    bool residual, downsample;
  };

  static void keep(AutogradContext* context, const ConvChain& chain,
                   const std::vector<UnitRecord>& records, const at::Tensor& result) {
    variable_list tensors = {result};
    std::vector<int64_t> numbers = {chain.residual, chain.downsample.has_value()};
    for (const UnitRecord& r : records) {
      tensors.insert(tensors.end(), {r.src, r.weight, r.gamma, r.dst, r.statistics});
      numbers.insert(numbers.end(),
                     {r.stride, r.padding, static_cast<int64_t>(r.method), r.normalises_src});
    }
    context->save_for_backward(tensors);
    context->saved_data["numbers"] = numbers;
  }

  static Kept restore(AutogradContext* context) {
    const variable_list tensors = context->get_saved_variables();
    const std::vector<int64_t> numbers = context->saved_data["numbers"].toIntVector();
    Kept kept{{}, tensors[0], numbers[0] != 0, numbers[1] != 0};
    auto number = numbers.begin() + 2;
    for (auto tensor = tensors.begin() + 1; tensor != tensors.end();
         tensor += UnitRecord::kTensors, number += UnitRecord::kNumbers) {
      kept.records.push_back({tensor[0], tensor[1], tensor[2], tensor[3], tensor[4], number[0],
                              number[1], static_cast<ConvMethod>(number[2]), number[3] != 0});
    }
    return kept;
  }
};

struct ConvolutionFunction : torch::autograd::Function<ConvolutionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& src,
                            const at::Tensor& weight, int64_t padding, ConvMethod method) {
    context->save_for_backward({src, weight});
    context->saved_data["padding"] = padding;
    context->saved_data["method"] = static_cast<int64_t>(method);
    return convolve(method, shape_of(src.sizes(), weight, 1, padding), src, {}, weight, nullptr);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &src = saved[0], &weight = saved[1];
    const auto method = static_cast<ConvMethod>(context->saved_data["method"].toInt());
    const at::Tensor grad = as_map(gradients[0], src.scalar_type());
    const at::Tensor grad_src =
        context->needs_input_grad(0) ? new_map(src, src.sizes()) : at::Tensor();
    const at::Tensor grad_weight = convolve_backward(
        method, shape_of(src.sizes(), weight, 1, context->saved_data["padding"].toInt()), src, {},
        weight, grad, {}, nullptr, grad_src, false, nullptr);
    return {grad_src, grad_weight, {}, {}};
  }
};

at::Tensor infer(ConvBnUnit& unit, const at::Tensor& src, const at::Tensor& residual, bool relu,
                 KernelChoice& kernels) {
  const ConvShape shape = shape_of(src.sizes(), unit.weight, unit.stride, unit.padding);
  const ConvMethod method = kernels.method(shape, type_of(src), false);
  return infer(folded(unit, shape, src.scalar_type(), method), shape, src, residual, relu);
}

at::Tensor infer(ConvChain& chain, const at::Tensor& src, KernelChoice& kernels) {
  const at::NoGradGuard no_grad;
  at::Tensor residual = chain.residual ? src : at::Tensor();
  if (chain.downsample) residual = infer(*chain.downsample, src, {}, /*relu=*/false, kernels);
  at::Tensor x = src;
  for (ConvBnUnit& unit : chain.units) {
    const bool last = &unit == &chain.units.back();
    x = infer(unit, x, last ? residual : at::Tensor(), !last || chain.last_relu, kernels);
  }
  return x;
}

at::ScalarType type_of_maps() {
  return at::autocast::is_autocast_enabled(at::kCPU) ? at::autocast::get_autocast_dtype(at::kCPU)
                                                     : at::kFloat;
}

at::Tensor conv_chain_in(at::ScalarType type, ConvChain& chain, const at::Tensor& src,
                         bool training, KernelChoice& kernels) {
  const at::Tensor map = as_map(src, type);
  // What follows is in the types that it names.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (!training) return infer(chain, map, kernels);
  std::vector<at::Tensor> tensors = {map};
  const auto take = [&](ConvBnUnit& unit) {
    tensors.insert(tensors.end(), {unit.weight, unit.gamma, unit.beta});
    unit.folded.reset();  // the weights are about to change
  };
  for (ConvBnUnit& unit : chain.units) take(unit);
  if (chain.downsample) take(*chain.downsample);
  return ConvChainFunction::apply(at::TensorList(tensors), std::as_const(chain), kernels);
}

}  // namespace

const std::vector<std::string>& KernelChoice::words() {
  static const std::vector<std::string> all = {"auto", "winograd", "torch", "reference"};
  return all;
}

ConvMethod KernelChoice::method(const ConvShape& s, Type type, bool training) {
  constexpr int64_t kFew = 8;  // images, for which weights count more than maps
  std::string key =
      fmt::format("{}x{} stride {}, {} to {} channels, {}x{}, {}", s.size, s.size, s.stride, s.c,
                  s.k, s.h, s.w, type == Type::kBf16 ? "bf16" : "fp32");
  // Inference takes what training chose; what it chooses alone was measured without the backward
  // pass and is not for training.
  if (!training && s.n <= kFew)
    key += ", few images";
  else if (!training && !chosen_.contains(key))
    key += ", forward";
  const std::vector<ConvMethod> methods = candidates(s, type, word_);
  std::string& chosen = chosen_[key];
  for (const ConvMethod method : methods)
    if (chosen == name_of(method)) return method;
  constexpr int64_t kPixels = 16 * 32 * 32;  // enough to tell, and little memory
  ConvMethod best = methods.front();
  if (methods.size() > 1) {
    double shortest = std::numeric_limits<double>::infinity();
    for (const ConvMethod method : methods) {
      ConvShape part = s;
      part.n = std::clamp<int64_t>(kPixels / (s.h * s.w), 1, s.n);
      const double seconds = measure_method_s(method, part, type, training, shortest);
      measured_s_[key][name_of(method)] = seconds;
      if (seconds < kMargin * shortest) best = method, shortest = seconds;
    }
  }
  chosen = name_of(best);
  if (best == ConvMethod::kTorch && methods.size() == 1 && word_ != "torch")
    log_info("kernel: LibTorch's for {}: {}", key, kernels::refusal(s));
  return best;
}

kernels::Type KernelChoice::muon_products() {
  if (word_ != "auto" || kernels::instruction_set_in_use() != "avx512_bf16") return Type::kFp32;
  std::string& chosen = chosen_[kMuon];
  if (chosen != kFp32 && chosen != kBf16) {
    const double fp32_s = measure_muon_s(Type::kFp32), bf16_s = measure_muon_s(Type::kBf16);
    measured_s_[kMuon] = {{kFp32, fp32_s}, {kBf16, bf16_s}};
    chosen = bf16_s < kMargin * fp32_s ? kBf16 : kFp32;
  }
  return chosen == kBf16 ? Type::kBf16 : Type::kFp32;
}

std::string KernelChoice::in_use() const {
  std::string best = "torch", set = kernels::instruction_sets().front();
  for (const auto& [shape, method] : chosen_) {
    if (method == "reference") return method;  // the only one then, and without an instruction set
    if (method != "torch" && shape != kMuon) best = "winograd";
  }
  // The instruction set of the products: those in fp32 do not use the bf16 instruction.
  const bool in_bf16 = std::any_of(chosen_.begin(), chosen_.end(), [](const auto& entry) {
    return entry.second.ends_with("-bf16");
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
  ConvChain block{{unit, unit}, /*residual=*/true, std::nullopt};
  const auto shortest_s = [&](at::ScalarType type) {
    const at::Tensor src = as_map(at::ones({kImages, kChannels, kSide, kSide}), type);
    KernelChoice kernels(word);
    double shortest = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i) {  // the first chooses the kernel
      const Stopwatch watch;
      const at::Tensor dst = conv_chain_in(type, block, src, true, kernels);
      dst.backward(at::ones_like(dst));
      shortest = std::min(shortest, watch.seconds());
    }
    return shortest;
  };
  return shortest_s(at::kBFloat16) < shortest_s(at::kFloat);
}

bool conv_chain_supports(const ConvChain& chain, const at::Tensor& src) {
  const auto fits = [](const ConvBnUnit& unit) {
    return unit.weight.scalar_type() == at::kFloat && unit.weight.size(0) % 16 == 0;
  };
  const bool source_fits = !src.requires_grad() || src.size(1) % 16 == 0;
  return src.is_cpu() && source_fits && std::all_of(chain.units.begin(), chain.units.end(), fits) &&
         (!chain.downsample || fits(*chain.downsample));
}

at::Tensor convolution(const at::Tensor& src, const at::Tensor& weight, int64_t padding,
                       KernelChoice& kernels) {
  const at::Tensor map = as_map(src, type_of_maps());
  const at::Tensor filters = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  // Without gradients there is no backward pass to choose for.
  const ConvMethod method = kernels.method(shape_of(map.sizes(), filters, 1, padding), type_of(map),
                                           at::GradMode::is_enabled());
  return ConvolutionFunction::apply(map, filters, padding, method);
}

std::pair<int64_t, int64_t> choose_kernels(const ConvChain& chain, int64_t images, int64_t height,
                                           int64_t width, KernelChoice& kernels) {
  const Type type = type_of_maps() == at::kFloat ? Type::kFp32 : Type::kBf16;
  const auto choose = [&](const ConvBnUnit& unit, int64_t h, int64_t w) {
    const ConvShape shape =
        shape_of({images, unit.weight.size(1), h, w}, unit.weight, unit.stride, unit.padding);
    kernels.method(shape, type, /*training=*/true);
    return std::pair(shape.out_h(), shape.out_w());
  };
  if (chain.downsample) choose(*chain.downsample, height, width);
  for (const ConvBnUnit& unit : chain.units) std::tie(height, width) = choose(unit, height, width);
  return {height, width};
}

at::Tensor conv_chain(ConvChain& chain, const at::Tensor& src, bool training,
                      KernelChoice& kernels) {
  return conv_chain_in(type_of_maps(), chain, src, training, kernels);
}

}  // namespace skipway
