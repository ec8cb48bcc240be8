// Muon (Keller Jordan, 2024): momentum whose matrix is made orthogonal before it is applied, so
// that every direction a filter bank can learn moves at the same rate.
#pragma once
#include <ATen/core/Tensor.h>

namespace skipway {

struct MuonOptions {
  double momentum = 0.9;
  bool nesterov = true;
};

/// For each of `matrices` [b,m,n] one with its singular vectors and singular values near one (0.7
/// to 1.2), by Newton-Schulz iterations; directions under a thousandth of the largest come out
/// smaller. fp32 in, fp32 out; zero stays zero.
at::Tensor orthogonalise(const at::Tensor& matrices);

/// One update of convolution filters [out,in,h,w] that BatchNorm follows, so that their scale does
/// not matter: they are brought to the norm sqrt(out), and moved by `lr` times the orthogonalised
/// momentum, which for in*h*w >= out has the same norm. `gradient` and `momentum` are laid out as
/// `filters`.
void muon_step(at::Tensor& filters, const at::Tensor& gradient, at::Tensor& momentum, double lr,
               const MuonOptions& options);

}  // namespace skipway
