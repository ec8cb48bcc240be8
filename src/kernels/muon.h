// Muon's step (Keller Jordan, 2024; train/muon.h says what it is for) on matrices of filters,
// in two passes over memory: for CPUs, where the step would otherwise cost as much as the backward
// pass of small images. No LibTorch in here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/types.h"

namespace skipway::kernels {

/// A matrix of filters, each a row; row-major.
struct MuonMatrix {
  int64_t rows = 0, columns = 0;
  float* filters = nullptr;
  const float* gradient = nullptr;
  float* momentum = nullptr;
};

struct MuonRates {
  double lr = 0;
  double momentum = 0.9;
  bool nesterov = true;
};

/// Rows and columns in multiples of 16, and no more rows than columns.
bool muon_supports(int64_t rows, int64_t columns);

/// Bytes of scratch memory for muon_step(), aligned to 64.
size_t muon_workspace_bytes(const std::vector<MuonMatrix>& matrices, int threads);

/// For each matrix: momentum = rates.momentum * momentum + gradient; filters are brought to the
/// norm sqrt(rows) and moved by lr times the orthogonalised momentum, U p(S) Vᵀ where U S Vᵀ is its
/// singular value decomposition at Frobenius norm one, and p four iterations of
/// x <- kMuonA x + kMuonB x³ + kMuonC x⁵. A zero momentum moves nothing.
/// Numbers: `products` is the type of the operands of the products with the momentum; sums, and
/// products of the small matrices between, are fp32, or on tile registers of 16 bits of each value.
/// Relative L2 error of the direction against
/// float64 at most 3e-4 in fp32 and 3 % in bf16: the polynomial enlarges a rounding of the Gram
/// matrix some thousand times where a singular value is near 0.003, as of square matrices; 1e-5 and
/// 0.3 % where there are twice as many columns as rows. Same bits for any number of threads.
void muon_step(const std::vector<MuonMatrix>& matrices, const MuonRates& rates, Type products,
               void* workspace, const Threads& threads);

constexpr double kMuonA = 3.4445, kMuonB = -4.7750, kMuonC = 2.0315;
constexpr int kMuonIterations = 4;

}  // namespace skipway::kernels
