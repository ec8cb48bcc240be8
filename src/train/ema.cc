#include "train/ema.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"

namespace skipway {
namespace {

// Taking all weights in costs some percent of a step of small images.
constexpr int64_t kEvery = 5;  // steps
constexpr double kLookaheadDecay = 0.95;

}  // namespace

Ema::Ema(const NamedTensors& state, double decay, bool lookahead)
    : decay_(lookahead ? kLookaheadDecay : decay), lookahead_(lookahead) {
  if (decay_ == 0) return;
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state) {
    if (!tensor.is_floating_point()) continue;
    names_.push_back(name);
    live_.push_back(tensor);
    averages_.push_back(tensor.detach().clone());
    if (!spare_.defined() || spare_.numel() < tensor.numel())
      spare_ = at::empty({tensor.numel()}, tensor.options());
  }
}

void Ema::update(int64_t step, int64_t total) {
  if (averages_.empty()) return;
  const at::NoGradGuard no_grad;
  // A run may end before the first average is due; new weights must not be taken for its result.
  if (step < kEvery) at::_foreach_copy_(averages_, live_);
  if (step % kEvery != 0) return;
  const auto updates = static_cast<double>(step) / kEvery;
  const double full = std::pow(decay_, kEvery);
  const double done = static_cast<double>(step) / static_cast<double>(total);
  const double decay =
      lookahead_ ? full * done * done * done : std::min(full, updates / (updates + 10));
  at::_foreach_lerp_(averages_, live_, 1 - decay);
  if (lookahead_) at::_foreach_copy_(live_, averages_);
}

void Ema::exchange() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < live_.size(); ++i) {
    const at::Tensor kept = spare_.as_strided(live_[i].sizes(), live_[i].strides());
    kept.copy_(live_[i]);
    live_[i].copy_(averages_[i]);
    averages_[i].copy_(kept);
  }
}

NamedTensors Ema::state() const {
  NamedTensors state;
  for (size_t i = 0; i < names_.size(); ++i) state.emplace_back(names_[i], averages_[i]);
  return state;
}

void Ema::load_state(const NamedTensors& state, const std::string& where) {
  const std::map<std::string, at::Tensor> given(state.begin(), state.end());
  for (size_t i = 0; i < names_.size(); ++i) {
    const auto found = given.find(names_[i]);
    if (found == given.end() || found->second.sizes() != averages_[i].sizes())
      fail(ErrorKind::kCheckpoint, "ema",
           "expected the average {} of this model's weights, got none of its shape at {}; resume "
           "with the model and the settings that wrote it",
           names_[i], where);
  }
  for (size_t i = 0; i < names_.size(); ++i) averages_[i].copy_(given.at(names_[i]));
}

}  // namespace skipway
