#include "train/initialise.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "base/error.h"
#include "data/augment.h"

namespace skipway {
namespace {

constexpr int64_t kImages = 5000;   // enough for 27 x 27 covariances
constexpr double kSmallest = 5e-4;  // added to the eigenvalues, as in the source

}  // namespace

void zero_gamma(ResNet& model) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& gamma : model.last_gammas()) gamma.zero_();
}

void whiten_stem(ResNet& model, const at::Tensor& images) {
  const at::NoGradGuard no_grad;
  const at::Tensor stem = model.parameters().front().second;  // conv1.weight, [64,3,3,3]
  if (stem.size(2) != 3)
    fail(ErrorKind::kUsage, "model", "expected a stem of 3x3 filters with --whiten-stem, got {}x{}",
         stem.size(2), stem.size(3));
  const at::Tensor some = images.narrow(0, 0, std::min(kImages, images.size(0)));
  const at::Tensor patches = normalise(some, model.spec().normalisation, at::kFloat)
                                 .contiguous()
                                 .unfold(2, 3, 1)
                                 .unfold(3, 3, 1)  // [n,3,h,w,3,3]
                                 .permute({0, 2, 3, 1, 4, 5})
                                 .reshape({-1, 27});
  const at::Tensor covariance =
      at::mm(patches.t(), patches).to(at::kDouble) / static_cast<double>(patches.size(0));
  const auto [values, vectors] = at::linalg_eigh(covariance);
  const at::Tensor filters =
      (vectors / (values + kSmallest).sqrt()).t().flip(0).to(stem.options()).view({27, 3, 3, 3});
  stem.narrow(0, 0, 27).copy_(filters);
  stem.narrow(0, 27, 27).copy_(-filters);
}

}  // namespace skipway
