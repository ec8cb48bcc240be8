// The fused step needs equal memory layouts; this file sees to that and to the groups of parameters
// that are treated alike. The step itself is ATen's, or muon.h's.
#include "train/optimizer.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "model/resnet.h"
#include "train/muon.h"

namespace skipway {
namespace {

constexpr double kClipEps = 1e-6;  // as torch has it

// The fused kernel walks memory and never looks at strides: a gradient laid out in another way
// would update the wrong weights without a word.
at::Tensor in_layout_of(const at::Tensor& parameter, const at::Tensor& gradient) {
  if (gradient.strides() == parameter.strides()) return gradient;
  return at::empty_like(parameter).copy_(gradient);
}

// The values as they lie in memory: _fused_sgd_ would copy a tensor that is channels_last.
at::Tensor flat(const at::Tensor& tensor) { return tensor.as_strided({tensor.numel()}, {1}); }

}  // namespace

Optimizer::Optimizer(const NamedTensors& parameters, const OptimizerOptions& options)
    : options_(options) {
  // bn1.bias and downsample.1.bias of torchvision's names, norm1.bias of airbench's.
  const auto is_norm_bias = [](const std::string& name) {
    const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
    return name.ends_with(".bias") && (has("bn") || has("norm") || has("downsample.1"));
  };
  // Muon keeps the norm of filters, which BatchNorm must follow; those of attention have none.
  const auto is_attention = [](const std::string& name) {
    return name.find(".se.") != std::string::npos;
  };
  // Biases are decayed as much as without a rate of their own.
  const double bias_decay = options.decay_all ? options.weight_decay / options.bias_lr : 0;
  Group decayed, plain, biases, filters;
  decayed.weight_decay = options.weight_decay;
  biases.weight_decay = bias_decay, biases.lr_factor = options.bias_lr;
  filters.muon = true;
  std::map<int64_t, std::array<Group, 4>> kinds_by_depth;
  for (const auto& [name, parameter] : parameters) {
    const int64_t depth = options.layer_lr_decay < 1 ? stages_from_head(name) : 0;
    auto [at, is_new] =
        kinds_by_depth.try_emplace(depth, std::array{decayed, plain, biases, filters});
    if (is_new)
      for (Group& group : at->second)
        group.lr_factor *= std::pow(options.layer_lr_decay, static_cast<double>(depth));
    const bool is_filter = parameter.dim() == 4 && !is_attention(name);
    Group& group = at->second[options.muon_lr > 0 && is_filter             ? 3
                              : options.bias_lr != 1 && is_norm_bias(name) ? 2
                              : options.decay_all || parameter.dim() > 1   ? 0
                                                                           : 1];
    group.names.push_back("momentum." + name);
    group.parameters.push_back(parameter);
    group.momenta.push_back(at::zeros_like(parameter).requires_grad_(false));
  }
  for (auto& [depth, kinds] : kinds_by_depth)
    for (Group& group : kinds)
      if (!group.parameters.empty()) groups_.push_back(std::move(group));
}

at::Tensor Optimizer::clip_gradients() {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const Group& group : groups_)
    for (const at::Tensor& parameter : group.parameters)
      if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  if (gradients.empty()) return at::zeros({});
  const at::Tensor norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
  if (options_.clip_grad_norm > 0) {
    const at::Tensor factor =
        norm.add(kClipEps).reciprocal_().mul_(options_.clip_grad_norm).clamp_max_(1);
    // A NaN would spread to all gradients, and hide from which layer it comes.
    at::_foreach_mul_(gradients, at::where(norm.isfinite(), factor, 1));
  }
  return norm;
}

void Optimizer::step(double lr, const at::Tensor& skip, kernels::Type muon_products) {
  at::NoGradGuard no_grad;
  for (Group& group : groups_) {
    // Neither step counts its changes, and folded weights (model/conv_chain.cc) ask for the count.
    for (const at::Tensor& parameter : group.parameters)
      if (parameter.grad().defined()) parameter.unsafeGetTensorImpl()->bump_version();
    if (group.muon)
      step_muon(group, lr * options_.muon_lr * group.lr_factor, skip, muon_products);
    else
      step_sgd(group, lr * group.lr_factor, skip);
  }
}

void Optimizer::step_sgd(Group& group, double lr, const at::Tensor& skip) {
  std::vector<at::Tensor> parameters, gradients, momenta;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    at::Tensor& gradient = group.parameters[i].mutable_grad();
    if (!gradient.defined()) continue;
    parameters.push_back(flat(group.parameters[i]));
    gradients.push_back(flat(in_layout_of(group.parameters[i], gradient)));
    // Without momentum the kernel takes no buffers; they then stay zero.
    if (options_.momentum != 0) momenta.push_back(flat(group.momenta[i]));
    gradient = at::Tensor();
  }
  if (parameters.empty()) return;
  // Buffers that start at zero make the first step like any other: torch sets them to the
  // gradient, which is momentum * 0 + gradient as dampening is 0.
  at::_fused_sgd_(parameters, gradients, momenta, group.weight_decay, options_.momentum, lr,
                  /*dampening=*/0.0, options_.nesterov, /*maximize=*/false,
                  /*is_first_step=*/false, /*grad_scale=*/{},
                  skip.defined() ? std::optional(skip) : std::nullopt);
}

void Optimizer::step_muon(Group& group, double lr, const at::Tensor& skip, kernels::Type products) {
  std::vector<MuonFilters> filters;
  std::vector<at::Tensor> changed, before;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    at::Tensor& gradient = group.parameters[i].mutable_grad();
    if (!gradient.defined()) continue;
    filters.push_back(
        {group.parameters[i], in_layout_of(group.parameters[i], gradient), group.momenta[i]});
    gradient = at::Tensor();
    if (!skip.defined()) continue;
    for (const at::Tensor& tensor : {group.parameters[i], group.momenta[i]}) {
      changed.push_back(tensor);
      before.push_back(tensor.detach().clone());
    }
  }
  muon_step(filters, {lr, options_.muon_momentum, options_.nesterov}, products);
  for (size_t i = 0; i < changed.size(); ++i)
    changed[i].copy_(at::where(skip == 1, before[i], changed[i]));
}

void Optimizer::clear_gradients() {
  for (Group& group : groups_)
    for (at::Tensor& parameter : group.parameters) parameter.mutable_grad() = at::Tensor();
}

NamedTensors Optimizer::state() const {
  NamedTensors state;
  for (const Group& group : groups_)
    for (size_t i = 0; i < group.names.size(); ++i)
      state.emplace_back(group.names[i], group.momenta[i]);
  return state;
}

void Optimizer::load_state(const NamedTensors& state, const std::string& where) {
  std::map<std::string, at::Tensor> given(state.begin(), state.end());
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  std::vector<std::string> problems;
  for (const auto& [name, buffer] : this->state()) {
    auto found = given.find(name);
    if (found == given.end()) {
      problems.push_back("missing " + name);
      continue;
    }
    if (found->second.sizes() == buffer.sizes())
      copies.emplace_back(buffer, found->second);
    else
      problems.push_back(fmt::format("{} has shape [{}], expected [{}]", name,
                                     fmt::join(found->second.sizes(), ","),
                                     fmt::join(buffer.sizes(), ",")));
    given.erase(found);
  }
  for (const auto& [name, tensor] : given) problems.push_back("unexpected " + name);
  if (!problems.empty())
    fail(
        ErrorKind::kCheckpoint, "optimizer",
        "expected the momentum of this model's parameters, got {} at {}; resume with the model and "
        "the settings that wrote it",
        fmt::join(problems, "; "), where);
  for (auto& [buffer, tensor] : copies) buffer.copy_(tensor);
}

}  // namespace skipway
