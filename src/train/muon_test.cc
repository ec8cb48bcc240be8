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

at::Tensor orthogonalise_one(const at::Tensor& matrix) {
  return orthogonalise(matrix.unsqueeze(0))[0];
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
  EXPECT_LT(largest_difference(orthogonalise_one(matrix), by_singular_values(matrix)), 1e-4);
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
  const auto values = std::get<1>(at::linalg_svd(orthogonalise_one(noise({64, 576}, 2)), false));
  EXPECT_GT(values.min().item<double>(), 0.6);
  EXPECT_LT(values.max().item<double>(), 1.3);
}

TEST(Orthogonalise, ScaleDoesNotMatterAndZeroStaysZero) {
  const at::Tensor matrix = noise({16, 40}, 3);
  EXPECT_LT(largest_difference(orthogonalise_one(matrix), orthogonalise_one(matrix * 1e-6)), 1e-4);
  EXPECT_EQ(orthogonalise_one(at::zeros({16, 40})).abs().max().item<double>(), 0);
}

TEST(MuonStep, IsMomentumThenDirectionThenAStepFromFiltersOfGivenNorm) {
  for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous})
    for (const bool nesterov : {false, true}) {
      SCOPED_TRACE(nesterov);
      at::Tensor filters = noise({32, 16, 3, 3}, 4).contiguous(format);
      at::Tensor momentum = noise({32, 16, 3, 3}, 5).contiguous(format);
      const at::Tensor gradient = noise({32, 16, 3, 3}, 6).contiguous(format);
      const at::Tensor moved = 0.8 * momentum + gradient;
      const at::Tensor direction = nesterov ? gradient + 0.8 * moved : moved;
      const at::Tensor expected =
          filters * (std::sqrt(32.) / filters.norm()) -
          0.05 * by_singular_values(direction.reshape({32, -1})).view({32, 16, 3, 3});
      muon_step(filters, gradient, momentum, 0.05, {.momentum = 0.8, .nesterov = nesterov});
      EXPECT_LT(largest_difference(momentum, moved), 1e-6);
      EXPECT_LT(largest_difference(filters, expected), 1e-4);
    }
}

TEST(MuonStep, TakesFiltersInBlocksOf256) {
  at::Tensor filters = noise({512, 32, 3, 3}, 7), momentum = at::zeros_like(filters);
  const at::Tensor gradient = noise({512, 32, 3, 3}, 8);
  const at::Tensor rows = gradient.view({512, -1});
  const at::Tensor direction = at::cat(
      {by_singular_values(rows.narrow(0, 0, 256)), by_singular_values(rows.narrow(0, 256, 256))});
  const at::Tensor expected =
      filters * (std::sqrt(512.) / filters.norm()) - 0.05 * direction.view_as(filters);
  muon_step(filters, gradient, momentum, 0.05, {.momentum = 0.8, .nesterov = false});
  EXPECT_LT(largest_difference(filters, expected), 1e-4);
}

}  // namespace
}  // namespace skipway
