// The operator form, for GPUs and the shapes that the kernel does not take; kernels/muon.cc
// explains it.
#include "train/muon.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "model/threads.h"

namespace skipway {
namespace {

// arXiv:2510.16981 has blocks too; a third of the work for 512 filters.
constexpr int64_t kBlock = 256;
constexpr double kTiny = 1e-12;  // a zero gradient is not divided by zero

// The order of the columns does not matter, so the one in memory is taken.
at::Tensor as_rows(const at::Tensor& t) {
  return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast
             ? t.permute({0, 2, 3, 1}).view({t.size(0), -1})
             : t.view({t.size(0), -1});
}

void step_with_operators(at::Tensor values, const at::Tensor& gradient, at::Tensor momentum,
                         const kernels::MuonRates& rates) {
  momentum.mul_(rates.momentum).add_(gradient);
  const at::Tensor moved = rates.nesterov ? gradient.add(momentum, rates.momentum) : momentum;
  const at::Tensor direction = orthogonalise(moved);
  const double norm = std::sqrt(static_cast<double>(values.size(0)));
  values.mul_(values.norm().clamp_min_(kTiny).reciprocal_().mul_(norm)).add_(direction, -rates.lr);
}

}  // namespace

at::Tensor orthogonalise(const at::Tensor& matrix) {
  const bool tall = matrix.size(0) > matrix.size(1);
  const at::Tensor wide = tall ? matrix.t() : matrix;
  const at::Tensor norm = wide.norm().clamp_min_(kTiny);
  at::Tensor gram = at::mm(wide, wide.t()).div_(norm.square());
  at::Tensor product;
  for (int i = 0; i < kernels::kMuonIterations; ++i) {
    at::Tensor polynomial = at::addmm(gram, gram, gram, kernels::kMuonB, kernels::kMuonC);
    polynomial.diagonal().add_(kernels::kMuonA);
    product = product.defined() ? at::mm(polynomial, product) : polynomial;
    if (i + 1 < kernels::kMuonIterations) gram = at::mm(at::mm(polynomial, gram), polynomial);
  }
  const at::Tensor result = at::mm(product.div_(norm), wide);
  return tall ? result.t() : result;
}

void muon_step(const std::vector<MuonFilters>& all, const kernels::MuonRates& rates,
               kernels::Type products) {
  const at::NoGradGuard no_grad;
  std::vector<kernels::MuonMatrix> matrices;
  for (const MuonFilters& filters : all) {
    const at::Tensor values = as_rows(filters.values), gradient = as_rows(filters.gradient);
    const at::Tensor momentum = as_rows(filters.momentum);
    const int64_t out = values.size(0), columns = values.size(1);
    const int64_t block = out % kBlock == 0 ? kBlock : out;
    const bool by_kernel = values.is_cpu() && values.scalar_type() == at::kFloat &&
                           kernels::muon_supports(block, columns);
    for (int64_t row = 0; row < out; row += block) {
      const auto rows = [&](const at::Tensor& t) { return t.narrow(0, row, block); };
      if (by_kernel)
        matrices.push_back({block, columns, rows(values).mutable_data_ptr<float>(),
                            rows(gradient).const_data_ptr<float>(),
                            rows(momentum).mutable_data_ptr<float>()});
      else
        step_with_operators(rows(values), rows(gradient), rows(momentum), rates);
    }
  }
  if (matrices.empty()) return;
  const kernels::Threads threads = all_threads();
  const auto bytes = static_cast<int64_t>(kernels::muon_workspace_bytes(matrices, threads.count));
  const at::Tensor memory = at::empty({bytes}, at::kByte);
  kernels::muon_step(matrices, rates, products, memory.mutable_data_ptr(), threads);
}

}  // namespace skipway
