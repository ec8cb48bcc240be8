// Muon (Keller Jordan, 2024): momentum whose matrix is made orthogonal before it is applied, so
// that every direction a filter bank can learn moves at the same rate.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/muon.h"

namespace skipway {

/// Convolution filters [out,in,h,w] that BatchNorm follows, so that their scale does not matter;
/// gradient and momentum laid out as they are.
struct MuonFilters {
  at::Tensor values, gradient, momentum;
};

/// A matrix [m,n] with the singular vectors of `matrix` and singular values near one (0.7 to 1.2),
/// by Newton-Schulz iterations; directions under a thousandth of the largest come out smaller. fp32
/// in, fp32 out; zero stays zero.
at::Tensor orthogonalise(const at::Tensor& matrix);

/// One update of each: filters are brought to the norm sqrt(out), and moved by `rates.lr` times the
/// orthogonalised momentum, which for in*h*w >= out has the same norm. More than 256 filters are
/// taken 256 at a time where that divides them, each block as if it were a layer of its own. On a
/// CPU by kernels/muon.h with products in the given type, for the shapes that it takes; else by
/// orthogonalise().
void muon_step(const std::vector<MuonFilters>& all, const kernels::MuonRates& rates,
               kernels::Type products);

}  // namespace skipway
