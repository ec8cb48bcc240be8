#include "kernels/max_pool.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>

#include "kernels/instruction_set.h"
#include "kernels/maps_for_test.h"

namespace skipway::kernels {
namespace {

using Parameters = std::tuple<std::string, Type, int64_t, int64_t, int64_t>;

// Even and odd sides, channels in and out of whole vectors.
class MaxPool : public testing::TestWithParam<Parameters> {
 protected:
  MaxPool() {
    const auto& [set, type, h, w, c] = GetParam();
    EXPECT_TRUE(use_instruction_set(set));
    shape = {3, h, w, c, type};
  }
  ~MaxPool() override { use_instruction_set(instruction_sets().front()); }

  // Of a pixel of the result: the value of `i`, 2 * row + column, of the four it is made of.
  size_t source(size_t result, int64_t i) const {
    const auto index = static_cast<int64_t>(result);
    const int64_t channel = index % shape.c, x = index / shape.c % shape.out_w(),
                  y = index / shape.c / shape.out_w() % shape.out_h(),
                  image = index / shape.c / shape.out_w() / shape.out_h();
    return static_cast<size_t>(
        ((image * shape.h + 2 * y + i / 2) * shape.w + 2 * x + i % 2) * shape.c + channel);
  }

  PoolShape shape;
  const Threads threads = these_threads(3);
};

TEST_P(MaxPool, IsTheFirstOfTheLargestAndTheGradientGoesBackToIt) {
  const int64_t count = shape.n * shape.h * shape.w * shape.c;
  const auto results = static_cast<size_t>(shape.n * shape.out_h() * shape.out_w() * shape.c);
  std::vector<float> values = random_values(count, 1);
  for (float& v : values) v = std::round(v);  // many are equal
  Stored src(shape.type, values), dst(shape.type, static_cast<int64_t>(results)),
      grad_dst(shape.type, random_values(static_cast<int64_t>(results), 2)),
      grad_src(shape.type, count);
  std::vector<uint8_t> place(results, 9);
  max_pool(shape, src.data(), dst.data(), place.data(), threads);
  max_unpool(shape, grad_dst.data(), place.data(), grad_src.data(), threads);
  std::vector<float> want_grad(static_cast<size_t>(count));
  const std::vector<float> got = dst.values_now();
  for (size_t r = 0; r < results; ++r) {
    int64_t best = 0;
    for (int64_t i = 1; i < 4; ++i)
      if (src.wide[source(r, i)] > src.wide[source(r, best)]) best = i;
    ASSERT_EQ(got[r], src.wide[source(r, best)]) << r;
    ASSERT_EQ(place[r], best) << r;
    want_grad[source(r, best)] = grad_dst.wide[r];
  }
  EXPECT_EQ(grad_src.values_now(), want_grad);
  Stored alone(shape.type, static_cast<int64_t>(results));
  max_pool(shape, src.data(), alone.data(), nullptr, threads);
  EXPECT_EQ(alone.values_now(), got);
}

TEST_P(MaxPool, ANanIsTheLargest) {
  const int64_t count = shape.n * shape.h * shape.w * shape.c;
  const auto results = static_cast<size_t>(shape.n * shape.out_h() * shape.out_w() * shape.c);
  for (int64_t i = 0; i < 4; ++i) {
    std::vector<float> values = random_values(count, 3);
    values[source(1, i)] = NAN;
    Stored src(shape.type, values), dst(shape.type, static_cast<int64_t>(results));
    std::vector<uint8_t> place(results);
    max_pool(shape, src.data(), dst.data(), place.data(), threads);
    EXPECT_TRUE(std::isnan(dst.values_now()[1]));
    EXPECT_FALSE(std::isnan(dst.values_now()[0]));
    EXPECT_EQ(place[1], i);
  }
}

std::string name_of(const testing::TestParamInfo<Parameters>& info) {
  const auto& [set, type, h, w, c] = info.param;
  return set + (type == Type::kFp32 ? "_fp32_" : "_bf16_") + std::to_string(h) + "x" +
         std::to_string(w) + "_" + std::to_string(c);
}

INSTANTIATE_TEST_SUITE_P(All, MaxPool,
                         testing::Combine(testing::ValuesIn(instruction_sets()),
                                          testing::Values(Type::kFp32, Type::kBf16),
                                          testing::Values(2, 7), testing::Values(3, 8),
                                          testing::Values(16, 48)),
                         name_of);

}  // namespace
}  // namespace skipway::kernels
