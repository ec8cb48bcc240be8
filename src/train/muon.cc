// The iterations run on the Gram matrix of the shorter side. With A = X Xᵀ an iteration
// X <- (a + b A + c A²) X commutes with A, so the whole of it is one m x m polynomial that is
// applied to X at the end: products of m x m matrices in place of m x n ones, half the work for
// filters of 3x3.
#include "train/muon.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

namespace skipway {
namespace {

// Coefficients and the idea: Keller Jordan, https://kellerjordan.github.io/posts/muon
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
constexpr int kIterations = 4;
// Filters are taken so many at a time where that divides them (arXiv:2510.16981 has blocks too): a
// third of the work for 512 filters.
constexpr int64_t kBlock = 256;
constexpr double kTiny = 1e-12;  // a zero gradient is not divided by zero

}  // namespace

at::Tensor orthogonalise(const at::Tensor& matrices) {
  const bool tall = matrices.size(1) > matrices.size(2);
  const at::Tensor wide = tall ? matrices.transpose(1, 2) : matrices;
  const at::Tensor norm =
      at::linalg_vector_norm(wide, 2, at::IntArrayRef({1, 2}), /*keepdim=*/true).clamp_min_(kTiny);
  at::Tensor gram = at::bmm(wide, wide.transpose(1, 2)).div_(norm.square());
  at::Tensor product;
  for (int i = 0; i < kIterations; ++i) {
    at::Tensor polynomial = at::baddbmm(gram, gram, gram, kB, kC);
    polynomial.diagonal(0, 1, 2).add_(kA);
    product = product.defined() ? at::bmm(polynomial, product) : polynomial;
    if (i + 1 < kIterations) gram = at::bmm(at::bmm(polynomial, gram), polynomial);
  }
  const at::Tensor result = at::bmm(product.div_(norm), wide);
  return tall ? result.transpose(1, 2) : result;
}

void muon_step(at::Tensor& filters, const at::Tensor& gradient, at::Tensor& momentum, double lr,
               const MuonOptions& options) {
  const at::NoGradGuard no_grad;
  const int64_t out = filters.size(0);
  // The order of the columns does not matter, so the one in memory is taken.
  const auto rows = [out](const at::Tensor& t) {
    return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast
               ? t.permute({0, 2, 3, 1}).view({out, -1})
               : t.view({out, -1});
  };
  momentum.mul_(options.momentum).add_(gradient);
  const at::Tensor moved =
      rows(options.nesterov ? gradient.add(momentum, options.momentum) : momentum);
  const int64_t block = out % kBlock == 0 ? kBlock : out;
  const at::Tensor direction =
      orthogonalise(moved.view({out / block, block, -1})).reshape({out, -1});
  at::Tensor values = rows(filters);
  values.mul_(std::sqrt(static_cast<double>(out)) / values.norm()).add_(direction, -lr);
}

}  // namespace skipway
