// Against singular value decompositions in float64.
#include "train/muon.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace skipway {
namespace {

at::Tensor noise(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::kFloat);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// U p(S) Vᵀ with p the four iterations on the singular values alone.
at::Tensor by_singular_values(const at::Tensor& matrix) {
  const at::Tensor wide = matrix.to(at::kDouble) / matrix.to(at::kDouble).norm();
  auto [u, s, vt] = at::linalg_svd(wide, /*full_matrices=*/false);
  for (int i = 0; i < 4; ++i) s = 3.4445 * s - 4.7750 * s.pow(3) + 2.0315 * s.pow(5);
  return at::mm(u * s, vt);
}

class OrthogonaliseShape : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(OrthogonaliseShape, IsThePolynomialOfTheSingularValues) {
  const at::Tensor matrix = noise({GetParam().first, GetParam().second}, 1);
  EXPECT_LT(largest_difference(orthogonalise(matrix), by_singular_values(matrix)), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Shapes, OrthogonaliseShape,
                         testing::Values(std::pair{1, 1}, std::pair{64, 27}, std::pair{64, 576},
                                         std::pair{128, 64}, std::pair{256, 2304},
                                         std::pair{512, 4608}),
                         [](const auto& shape) {
                           return std::to_string(shape.param.first) + "x" +
                                  std::to_string(shape.param.second);
                         });

TEST(Orthogonalise, SingularValuesOfNoiseComeNearOne) {
  const auto values = std::get<1>(at::linalg_svd(orthogonalise(noise({64, 576}, 2)), false));
  EXPECT_GT(values.min().item<double>(), 0.6);
  EXPECT_LT(values.max().item<double>(), 1.3);
}

TEST(Orthogonalise, ScaleDoesNotMatterAndZeroStaysZero) {
  const at::Tensor matrix = noise({16, 40}, 3);
  EXPECT_LT(largest_difference(orthogonalise(matrix), orthogonalise(matrix * 1e-6)), 1e-4);
  EXPECT_EQ(orthogonalise(at::zeros({16, 40})).abs().max().item<double>(), 0);
}

// Shapes for the kernel, for the operators because there are more filters than inputs or because
// their number is odd, and in blocks of 256.
class MuonStepOfFilters : public testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(MuonStepOfFilters, IsMomentumThenDirectionThenAStepFromFiltersOfGivenNorm) {
  const std::vector<int64_t>& shape = GetParam();
  const int64_t out = shape[0], block = out == 512 ? 256 : out;
  for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous})
    for (const bool nesterov : {false, true}) {
      SCOPED_TRACE(nesterov);
      at::Tensor filters = noise(shape, 4).contiguous(format);
      at::Tensor momentum = noise(shape, 5).contiguous(format);
      const at::Tensor gradient = noise(shape, 6).contiguous(format);
      const at::Tensor moved = 0.8 * momentum + gradient;
      const at::Tensor direction = nesterov ? gradient + 0.8 * moved : moved;
      std::vector<at::Tensor> expected;
      for (int64_t row = 0; row < out; row += block) {
        const at::Tensor part = filters.narrow(0, row, block);
        expected.push_back(
            part * (std::sqrt(static_cast<double>(block)) / part.norm()) -
            0.05 * by_singular_values(direction.narrow(0, row, block).reshape({block, -1}))
                       .view_as(part));
      }
      muon_step({{filters, gradient, momentum}},
                {.lr = 0.05, .momentum = 0.8, .nesterov = nesterov}, kernels::Type::kFp32);
      EXPECT_LT(largest_difference(momentum, moved), 1e-6);
      EXPECT_LT(largest_difference(filters, at::cat(expected)), 1e-4);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MuonStepOfFilters,
                         testing::Values(std::vector<int64_t>{32, 16, 3, 3},
                                         std::vector<int64_t>{128, 64, 1, 1},
                                         std::vector<int64_t>{24, 3, 3, 3},
                                         std::vector<int64_t>{512, 32, 3, 3}));

}  // namespace
}  // namespace skipway
