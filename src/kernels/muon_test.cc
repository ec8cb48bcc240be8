// Against the iterations as they are defined, on the whole matrix in float64.
#include "kernels/muon.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>

#include "kernels/instruction_set.h"
#include "kernels/maps_for_test.h"

namespace skipway::kernels {
namespace {

using Matrix = std::vector<double>;  // [rows,columns]

double norm(const Matrix& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// x <- a x + (b A + c A²) x with A = x xᵀ.
Matrix iterate(const Matrix& x, int64_t rows, int64_t columns) {
  const auto size = static_cast<size_t>(rows);
  const auto width = static_cast<size_t>(columns);
  Matrix gram(size * size), by(size * size), next(x.size());
  for (size_t i = 0; i < size; ++i)
    for (size_t j = 0; j < size; ++j)
      for (size_t k = 0; k < width; ++k) gram[i * size + j] += x[i * width + k] * x[j * width + k];
  for (size_t i = 0; i < size; ++i)
    for (size_t j = 0; j < size; ++j) {
      double square = 0;
      for (size_t k = 0; k < size; ++k) square += gram[i * size + k] * gram[k * size + j];
      by[i * size + j] = (i == j ? kMuonA : 0) + kMuonB * gram[i * size + j] + kMuonC * square;
    }
  for (size_t i = 0; i < size; ++i)
    for (size_t j = 0; j < size; ++j)
      for (size_t k = 0; k < width; ++k) next[i * width + k] += by[i * size + j] * x[j * width + k];
  return next;
}

Matrix orthogonalised(Matrix x, int64_t rows, int64_t columns) {
  const double length = norm(x);
  for (double& value : x) value /= length;
  for (int i = 0; i < kMuonIterations; ++i) x = iterate(x, rows, columns);
  return x;
}

struct Case {
  int64_t rows, columns;
  std::vector<float> filters, gradient, momentum;

  Case(int64_t m, int64_t n)
      : rows(m),
        columns(n),
        filters(random_values(m * n, 1)),
        gradient(random_values(m * n, 2)),
        momentum(random_values(m * n, 3)) {}
  MuonMatrix matrix() { return {rows, columns, filters.data(), gradient.data(), momentum.data()}; }
};

void step(const std::vector<MuonMatrix>& matrices, const MuonRates& rates, Type products,
          int threads = 1) {
  Scratch scratch(muon_workspace_bytes(matrices, threads));
  muon_step(matrices, rates, products, scratch.data(), these_threads(threads));
}

// As muon.h promises it.
double bound(Type products, int64_t rows, int64_t columns) {
  const bool wide = columns >= 2 * rows;
  return products == Type::kFp32 ? (wide ? 1e-5 : 3e-4) : (wide ? 3e-3 : 3e-2);
}

using Parameters = std::tuple<std::string, Type, std::pair<int64_t, int64_t>, bool>;
class MuonStepOf : public testing::TestWithParam<Parameters> {};

TEST_P(MuonStepOf, IsMomentumThenDirectionThenAStepFromFiltersOfGivenNorm) {
  const auto& [set, products, shape, nesterov] = GetParam();
  ASSERT_TRUE(use_instruction_set(set));
  const auto [rows, columns] = shape;
  Case given(rows, columns);
  const Case before = given;
  step({given.matrix()}, {.lr = 0.1, .momentum = 0.8, .nesterov = nesterov}, products);
  use_instruction_set(instruction_sets().front());

  const auto count = before.filters.size();
  Matrix momentum(count), direction(count);
  for (size_t i = 0; i < count; ++i) {
    const auto gradient = static_cast<double>(before.gradient[i]);
    momentum[i] = 0.8 * static_cast<double>(before.momentum[i]) + gradient;
    direction[i] = nesterov ? 0.8 * momentum[i] + gradient : momentum[i];
  }
  EXPECT_LT(relative_error(given.momentum, momentum), 1e-6);
  // What the step added, apart from the filters that it began with.
  const double length = norm({before.filters.begin(), before.filters.end()});
  std::vector<float> moved(count);
  for (size_t i = 0; i < count; ++i)
    moved[i] = static_cast<float>(
        (std::sqrt(static_cast<double>(rows)) / length * static_cast<double>(before.filters[i]) -
         static_cast<double>(given.filters[i])) /
        0.1);
  EXPECT_LT(relative_error(moved, orthogonalised(direction, rows, columns)),
            bound(products, rows, columns));
}

std::string name_of(const testing::TestParamInfo<Parameters>& info) {
  const auto& [set, products, shape, nesterov] = info.param;
  return set + (products == Type::kFp32 ? "_fp32_" : "_bf16_") + std::to_string(shape.first) + "x" +
         std::to_string(shape.second) + (nesterov ? "_nesterov" : "");
}

INSTANTIATE_TEST_SUITE_P(Shapes, MuonStepOf,
                         testing::Combine(testing::ValuesIn(instruction_sets()),
                                          testing::Values(Type::kFp32, Type::kBf16),
                                          testing::Values(std::pair<int64_t, int64_t>{16, 16},
                                                          std::pair<int64_t, int64_t>{48, 80},
                                                          std::pair<int64_t, int64_t>{64, 576},
                                                          std::pair<int64_t, int64_t>{144, 256},
                                                          std::pair<int64_t, int64_t>{144, 576}),
                                          testing::Bool()),
                         name_of);

// So that a loss or gradient that is not finite is seen in the next forward pass at the latest.
TEST(MuonStep, AGradientThatIsNoNumberShows) {
  for (const std::string& set : instruction_sets()) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Case given(16, 48);
      given.gradient[5] = bad;
      ASSERT_TRUE(use_instruction_set(set));
      step({given.matrix()}, {.lr = 0.1, .momentum = 0.8, .nesterov = false}, Type::kFp32);
      use_instruction_set(instruction_sets().front());
      EXPECT_TRUE(std::any_of(given.filters.begin(), given.filters.end(),
                              [](float x) { return !std::isfinite(x); }))
          << set << " " << bad;
    }
  }
}

TEST(MuonStep, HasTheSameBitsForAnyNumberOfThreads) {
  const auto run = [](int threads) {
    std::vector<Case> cases = {{64, 576}, {16, 144}, {128, 128}};
    std::vector<MuonMatrix> matrices;
    for (Case& one : cases) matrices.push_back(one.matrix());
    step(matrices, {.lr = 0.1}, Type::kBf16, threads);
    std::vector<float> all;
    for (const Case& one : cases) all.insert(all.end(), one.filters.begin(), one.filters.end());
    return all;
  };
  const std::vector<float> alone = run(1);
  EXPECT_EQ(run(2), alone);
  EXPECT_EQ(run(5), alone);
}

TEST(MuonStep, AZeroMomentumMovesNothing) {
  for (const Type products : {Type::kFp32, Type::kBf16}) {
    Case given(32, 64);
    given.gradient.assign(given.gradient.size(), 0);
    given.momentum = given.gradient;
    const Case before = given;
    step({given.matrix()}, {.lr = 0.1}, products);
    const double length = norm({before.filters.begin(), before.filters.end()});
    for (size_t i = 0; i < given.filters.size(); ++i)
      ASSERT_NEAR(given.filters[i],
                  static_cast<double>(before.filters[i]) * std::sqrt(32.0) / length, 1e-6);
  }
}

TEST(MuonStep, SaysWhichShapesItTakes) {
  EXPECT_TRUE(muon_supports(64, 576));
  EXPECT_TRUE(muon_supports(64, 64));
  EXPECT_FALSE(muon_supports(128, 64));
  EXPECT_FALSE(muon_supports(64, 1000));
  EXPECT_FALSE(muon_supports(24, 576));
}

}  // namespace
}  // namespace skipway::kernels
