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
constexpr double kTiny = 1e-12;  // a zero gradient is not divided by zero

}  // namespace

at::Tensor orthogonalise(const at::Tensor& matrix) {
  const bool tall = matrix.size(0) > matrix.size(1);
  const at::Tensor wide = tall ? matrix.t() : matrix;
  const at::Tensor norm = wide.norm().clamp_min(kTiny);
  at::Tensor gram = at::mm(wide, wide.t()).div_(norm.square());
  at::Tensor product;
  for (int i = 0; i < kIterations; ++i) {
    at::Tensor polynomial = at::addmm(gram, gram, gram, kB, kC);
    polynomial.diagonal().add_(kA);
    product = product.defined() ? at::mm(polynomial, product) : polynomial;
    if (i + 1 < kIterations) gram = at::mm(at::mm(polynomial, gram), polynomial);
  }
  const at::Tensor result = at::mm(product.div_(norm), wide);
  return tall ? result.t() : result;
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
  const at::Tensor direction =
      orthogonalise(rows(options.nesterov ? gradient.add(momentum, options.momentum) : momentum));
  at::Tensor values = rows(filters);
  values.mul_(std::sqrt(static_cast<double>(out)) / values.norm()).add_(direction, -lr);
}

}  // namespace skipway
