// Whole blocks as one operation of autograd. Single convolutions are in convolve.h, BatchNorm's
// arithmetic in batch_statistics.h, the loops over pixels in src/kernels.
#include "model/conv_chain.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "kernels/batch_norm.h"
#include "model/maps.h"
#include "model/measure.h"
#include "model/threads.h"

namespace skipway {

// A convolution with its BatchNorm folded in.
struct FoldedConv {
  std::vector<int64_t> versions;  // of the tensors that it was made of
  PreparedConv conv;
};

namespace {

using kernels::ConvShape;
using kernels::Type;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Which values of its tensors a unit has: LibTorch counts the changes that its own operations make,
// the optimizer those of its steps. A training pass drops what is folded.
std::vector<int64_t> versions(const ConvBnUnit& unit) {
  std::vector<int64_t> all;
  for (const at::Tensor* tensor : {&unit.weight, &unit.norm.weight, &unit.norm.bias,
                                   &unit.norm.running_mean, &unit.norm.running_var})
    all.push_back(tensor->_version());
  return all;
}

const PreparedConv& folded(ConvBnUnit& unit, const ConvShape& shape, at::ScalarType type,
                           ConvMethod method) {
  std::vector<int64_t> now = versions(unit);
  if (unit.folded == nullptr || unit.folded->versions != now || unit.folded->conv.type != type ||
      unit.folded->conv.method != method ||
      unit.folded->conv.bytes != prepared_bytes(shape, type, method)) {
    const BatchNorm& norm = unit.norm;
    const at::Tensor scale = norm.weight / (norm.running_var + norm.eps).sqrt();
    const at::Tensor weights =
        (unit.weight * scale.view({-1, 1, 1, 1})).contiguous(at::MemoryFormat::ChannelsLast);
    unit.folded = std::make_shared<const FoldedConv>(
        FoldedConv{std::move(now),
                   prepare(shape, type, method, weights, norm.bias - norm.running_mean * scale)});
  }
  return unit.folded->conv;
}

// What the forward pass of a convolution with BatchNorm leaves for the backward pass.
struct UnitRecord {
  static constexpr int64_t kTensors = 5, kNumbers = 4;

  at::Tensor src;  // what it read
  at::Tensor weight, gamma, dst;
  BatchStatistics statistics;
  int64_t stride = 1, padding = 0;
  ConvMethod method = ConvMethod::kTorch;
  bool normalises_src = false;  // BatchNorm and ReLU of the unit before were applied in reading

  kernels::Map pixels() const { return pixels_of(dst); }
  ConvShape shape() const { return shape_of(src.sizes(), weight, stride, padding); }
  ScaleShift scale_shift() const { return statistics.scale_shift(); }
};

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
      r.weight = unit.weight, r.gamma = unit.norm.weight;
      r.stride = unit.stride, r.padding = unit.padding;
      r.src = from;
      r.method = kernels.method(r.shape(), type_of(from), true);
      r.normalises_src = before != nullptr && r.method != ConvMethod::kTorch;
      if (before != nullptr && !r.normalises_src) {
        r.src = new_map(from, from.sizes());
        kernels::normalise(before->pixels(), from.const_data_ptr(), before->scale_shift().scale,
                           before->scale_shift().shift, {}, /*relu=*/true, r.src.mutable_data_ptr(),
                           all_threads());
      }
      TwoSums sums(unit.norm.weight.size(0));
      r.dst = convolve(r.method, r.shape(), r.src,
                       r.normalises_src ? before->scale_shift() : ScaleShift{}, r.weight, &sums);
      r.statistics = batch_statistics(unit.norm, r.pixels().pixels, sums);
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
      residual = {down.dst.const_data_ptr(), down.scale_shift().scale, down.scale_shift().shift};
    } else if (chain.residual) {
      residual.map = src.const_data_ptr();
    }
    const at::Tensor result = new_map(last.dst, last.dst.sizes());
    kernels::normalise(last.pixels(), last.dst.const_data_ptr(), last.scale_shift().scale,
                       last.scale_shift().shift, residual, chain.last_relu,
                       result.mutable_data_ptr(), all_threads());
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
    const auto back = [&](size_t i, const ScaleShift& before, const at::Tensor& grad_src, bool add,
                          TwoSums* sums_of_src) {
      const UnitRecord& unit = records[i];
      variable_list::iterator to = out.begin() + 1 + static_cast<std::ptrdiff_t>(3 * i);
      const BackwardCoefficients coefficients = batch_norm_backward(
          unit.gamma, unit.statistics, unit.pixels().pixels, sums, to[1], to[2]);
      to[0] = convolve_backward(unit.method, unit.shape(),
                                {.src = unit.src,
                                 .weight = unit.weight,
                                 .grad = grad,
                                 .before = before,
                                 .dst = unit.dst,
                                 .coefficients = &coefficients,
                                 .grad_src = grad_src,
                                 .add = add,
                                 .sums = sums_of_src});
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
        back(i, before.scale_shift(), of_before, false, &sums_of_before);
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
      tensors.insert(tensors.end(), {r.src, r.weight, r.gamma, r.dst, r.statistics.rows});
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
      kept.records.push_back({tensor[0],
                              tensor[1],
                              tensor[2],
                              tensor[3],
                              {tensor[4]},
                              number[0],
                              number[1],
                              static_cast<ConvMethod>(number[2]),
                              number[3] != 0});
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
        method, shape_of(src.sizes(), weight, 1, context->saved_data["padding"].toInt()),
        {.src = src, .weight = weight, .grad = grad, .grad_src = grad_src});
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
    tensors.insert(tensors.end(), {unit.weight, unit.norm.weight, unit.norm.bias});
    unit.folded.reset();  // the weights are about to change
  };
  for (ConvBnUnit& unit : chain.units) take(unit);
  if (chain.downsample) take(*chain.downsample);
  return ConvChainFunction::apply(at::TensorList(tensors), std::as_const(chain), kernels);
}

}  // namespace

bool bf16_is_as_fast(const std::string& word) {
  constexpr int64_t kImages = 32, kChannels = 64, kSide = 32;
  constexpr int kRounds = 6;
  ConvBnUnit unit;
  unit.weight = varied_map(kChannels, kChannels, 3, 3).requires_grad_(true);
  unit.padding = 1;
  unit.norm = {at::ones({kChannels}), at::zeros({kChannels}), at::zeros({kChannels}),
               at::ones({kChannels})};
  ConvChain block{{unit, unit}, /*residual=*/true, std::nullopt};
  const auto pass_in = [&](at::ScalarType type) {
    const at::Tensor src = as_map(varied_map(kImages, kChannels, kSide, kSide), type);
    return [&, type, src, kernels = KernelChoice(word)]() mutable {
      const at::Tensor dst = conv_chain_in(type, block, src, true, kernels);
      dst.backward(dst.detach());
    };
  };
  const std::vector<double> seconds =
      shortest_s({pass_in(at::kBFloat16), pass_in(at::kFloat)}, kRounds);
  return seconds[0] * kMargin < seconds[1];  // bf16 has half the bytes
}

bool conv_chain_supports(const ConvChain& chain, const at::Tensor& src) {
  const auto fits = [](const ConvBnUnit& unit) {
    return unit.weight.scalar_type() == at::kFloat && unit.weight.size(0) % 16 == 0 &&
           unit.weight.is_contiguous(at::MemoryFormat::ChannelsLast);
  };
  const auto takes_source = [&](const ConvBnUnit& unit) {
    return unit.weight.size(1) == src.size(1);
  };
  return src.is_cpu() && (!src.requires_grad() || src.size(1) % 16 == 0) &&
         takes_source(chain.units.front()) && std::ranges::all_of(chain.units, fits) &&
         (!chain.downsample || (fits(*chain.downsample) && takes_source(*chain.downsample)));
}

at::Tensor convolution(const at::Tensor& src, const at::Tensor& weight, int64_t padding,
                       KernelChoice& kernels) {
  if (src.size(1) != weight.size(1))
    fail(ErrorKind::kInternal, "model", "expected {} channels, got {}", weight.size(1),
         src.size(1));
  const at::Tensor map = as_map(src, type_of_maps());
  const at::Tensor filters = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  // Without gradients there is no backward pass to choose for.
  const bool training =
      at::GradMode::is_enabled() && (map.requires_grad() || filters.requires_grad());
  const ConvMethod method =
      kernels.method(shape_of(map.sizes(), filters, 1, padding), type_of(map), training,
                     /*prepared=*/false);
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
