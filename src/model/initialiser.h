// What new parameters are drawn from. Each tensor has a stream of its own, so that it does not
// depend on what was drawn before it.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "base/rng.h"

namespace skipway {

class Initialiser {
 public:
  explicit Initialiser(uint64_t seed) : seed_(seed) {}

  /// Kaiming normal, fan out, gain of ReLU. Shape: [out,in,kernel,kernel].
  at::Tensor conv(int64_t out, int64_t in, int64_t kernel) {
    const double fan_out = static_cast<double>(out * kernel * kernel);
    return at::empty({out, in, kernel, kernel}).normal_(0, std::sqrt(2 / fan_out), next());
  }

  at::Tensor uniform(at::IntArrayRef shape, double bound) {
    return at::empty(shape).uniform_(-bound, bound, next());
  }

 private:
  at::Generator next() {
    return at::detail::createCPUGenerator(Rng(seed_, RngUse::kInit, {drawn_++}).next());
  }

  uint64_t seed_;
  uint64_t drawn_ = 0;
};

}  // namespace skipway
