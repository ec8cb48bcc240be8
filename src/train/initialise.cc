#include "train/initialise.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "base/error.h"
#include "data/augment.h"

namespace skipway {
namespace {

constexpr int64_t kImages = 5000;  // enough for the covariances of patches
constexpr int64_t kImagesAtOnce = 100;
constexpr double kSmallest = 5e-4;  // added to the eigenvalues, as in the source
// Of the largest eigenvalue: the images have nothing there. CIFAR-10's smallest is 3e-6.
constexpr double kNone = 1e-7;
constexpr int64_t kRows = 1 << 15;  // patches whose sums may be fp32

}  // namespace

void zero_gamma(Model& model, bool skipped_only) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& gamma : model.last_gammas(skipped_only)) gamma.zero_();
}

void whiten_stem(Model& model, const at::Tensor& images) {
  const at::NoGradGuard no_grad;
  const at::Tensor stem = model.stem_weight();
  const int64_t size = stem.size(2), inputs = 3 * size * size;
  if (2 * inputs > stem.size(0))
    fail(ErrorKind::kUsage, "model",
         "expected a stem of 3x3 filters or smaller with --whiten-stem, got {}x{}", size, size);
  if (std::min(images.size(1), images.size(2)) < size) return;
  at::Tensor covariance =
      at::zeros({inputs, inputs}, at::dtype(at::kDouble).device(images.device()));
  double count = 0;
  // A few images at a time: each is nine times as large as patches, or more.
  for (const at::Tensor& some :
       images.narrow(0, 0, std::min(kImages, images.size(0))).split(kImagesAtOnce)) {
    const at::Tensor patches = normalise(some, model.spec().normalisation, at::kFloat)
                                   .contiguous()
                                   .unfold(2, size, 1)
                                   .unfold(3, size, 1)  // [n,3,h,w,size,size]
                                   .permute({0, 2, 3, 1, 4, 5})
                                   .reshape({-1, inputs});
    for (const at::Tensor& rows : patches.split(kRows)) covariance += at::mm(rows.t(), rows);
    count += static_cast<double>(patches.size(0));
  }
  covariance /= count;
  const auto [values, vectors] = at::linalg_eigh(covariance);
  const at::Tensor filters = (vectors / (values + kSmallest).sqrt())
                                 .t()
                                 .flip(0)
                                 .to(stem.options())
                                 .view({inputs, 3, size, size});
  // Grey images, say, have no colours to tell apart: a filter for them would give zeros.
  const at::Tensor seen =
      (values > kNone * values.max()).flip(0).to(stem.device()).view({inputs, 1, 1, 1});
  for (const int sign : {1, -1}) {
    const at::Tensor own = stem.narrow(0, sign > 0 ? 0 : inputs, inputs);
    own.copy_(at::where(seen, sign * filters, own));
  }
}

}  // namespace skipway
