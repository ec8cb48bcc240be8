#include "kernels/batch_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>

#include "kernels/instruction_set.h"
#include "kernels/maps_for_test.h"

namespace skipway::kernels {
namespace {

using Parameters = std::tuple<std::string, Type, int64_t, int64_t>;

// Pixels that are no multiple of any block, channels in and out of groups of 64.
class BatchNorm : public testing::TestWithParam<Parameters> {
 protected:
  BatchNorm() { EXPECT_TRUE(use_instruction_set(std::get<0>(GetParam()))); }
  ~BatchNorm() override { use_instruction_set(instruction_sets().front()); }

  Stored random_map(uint64_t seed) const {
    return {map.type, random_values(map.pixels * map.c, seed, false, 0.3f)};
  }
  // Of a value that is written: bf16 has eight bits of it.
  double rounding(float value) const {
    return map.type == Type::kBf16 ? std::abs(static_cast<double>(value)) / 256 + 2e-5 : 2e-5;
  }

  const Map map{std::get<2>(GetParam()), std::get<3>(GetParam()), std::get<1>(GetParam())};
  const size_t count = static_cast<size_t>(map.pixels * map.c);
  const size_t c = static_cast<size_t>(map.c);
  const Threads threads = these_threads(3);
  Stored src = random_map(1), other = random_map(2), gate = random_map(3);
  const std::vector<float> a = random_values(map.c, 4), b = random_values(map.c, 5),
                           d = random_values(map.c, 6);
};

TEST_P(BatchNorm, SumsAreTheSums) {
  std::vector<double> sum(c), squares(c), want_sum(c), want_squares(c);
  channel_sums(map, src.data(), sum.data(), squares.data(), threads);
  for (size_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(src.wide[i]);
    want_sum[i % c] += value;
    want_squares[i % c] += value * value;
  }
  for (size_t i = 0; i < c; ++i) {
    EXPECT_NEAR(sum[i], want_sum[i], 1e-6 * static_cast<double>(map.pixels + 30));
    EXPECT_NEAR(squares[i], want_squares[i], 2e-6 * static_cast<double>(map.pixels + 30));
  }
}

TEST_P(BatchNorm, NormaliseScalesShiftsAddsAndRectifies) {
  const Residual residuals[] = {{}, {other.data()}, {other.data(), d.data(), a.data()}};
  for (const bool relu : {false, true}) {
    for (const Residual& residual : residuals) {
      Stored dst(map.type, map.pixels * map.c);
      normalise(map, src.data(), a.data(), b.data(), residual, relu, dst.data(), threads);
      const std::vector<float> got = dst.values_now();
      for (size_t i = 0; i < count; ++i) {
        float want = a[i % c] * src.wide[i] + b[i % c];
        if (residual.scale != nullptr)
          want += d[i % c] * other.wide[i] + a[i % c];
        else if (residual.map != nullptr)
          want += other.wide[i];
        if (relu) want = std::max(want, 0.0f);
        ASSERT_NEAR(got[i], want, rounding(want)) << i;
      }
    }
  }
}

TEST_P(BatchNorm, NanStaysNan) {
  std::vector<float> with_nan = src.wide;
  with_nan[1] = NAN;
  Stored bad(map.type, with_nan), dst(map.type, map.pixels * map.c);
  for (const Residual& residual : {Residual{}, Residual{other.data()}}) {
    for (const bool relu : {false, true}) {
      normalise(map, bad.data(), a.data(), b.data(), residual, relu, dst.data(), threads);
      EXPECT_TRUE(std::isnan(dst.values_now()[1])) << relu;
      EXPECT_FALSE(std::isnan(dst.values_now()[0])) << relu;
    }
  }
  std::vector<double> sum(c), squares(c);
  channel_sums(map, bad.data(), sum.data(), squares.data(), threads);
  EXPECT_TRUE(std::isnan(sum[1]) && std::isnan(squares[1]));
  // As in LibTorch, a gradient passes where the map is no number, as it does not where it is zero.
  backward_sums(map, other.data(), bad.data(), src.data(), dst.data(), sum.data(), squares.data(),
                threads);
  EXPECT_EQ(dst.values_now()[1], other.wide[1]);
}

TEST_P(BatchNorm, BackwardSumsGateTheGradient) {
  for (const bool gated : {false, true}) {
    Stored out(map.type, map.pixels * map.c);
    std::vector<double> sum(c), with_src(c), want_sum(c), want_with_src(c);
    const void* by = gated ? gate.data() : nullptr;
    backward_sums(map, other.data(), by, src.data(), out.data(), sum.data(), with_src.data(),
                  threads);
    const std::vector<float> got = out.values_now();
    for (size_t i = 0; i < count; ++i) {
      const float want = !gated || gate.wide[i] > 0 ? other.wide[i] : 0;
      ASSERT_EQ(got[i], want) << i;
      want_sum[i % c] += static_cast<double>(want);
      want_with_src[i % c] += static_cast<double>(want) * static_cast<double>(src.wide[i]);
    }
    // The sums alone, and in place.
    std::vector<double> sum_alone(c), with_src_alone(c);
    backward_sums(map, other.data(), by, src.data(), nullptr, sum_alone.data(),
                  with_src_alone.data(), threads);
    EXPECT_EQ(sum_alone, sum);
    EXPECT_EQ(with_src_alone, with_src);
    Stored in_place = other;
    backward_sums(map, in_place.data(), by, src.data(), in_place.data(), sum_alone.data(),
                  with_src_alone.data(), threads);
    EXPECT_EQ(in_place.values_now(), got);
    for (size_t i = 0; i < c; ++i) {
      EXPECT_NEAR(sum[i], want_sum[i], 1e-6 * static_cast<double>(map.pixels + 30));
      EXPECT_NEAR(with_src[i], want_with_src[i], 2e-6 * static_cast<double>(map.pixels + 30));
    }
  }
}

double gelu(double z) { return z * 0.5 * std::erfc(-z / std::sqrt(2.0)); }
double gelu_slope(double z) {
  return 0.5 * std::erfc(-z / std::sqrt(2.0)) + z * std::exp(-z * z / 2) / std::sqrt(2 * M_PI);
}

TEST_P(BatchNorm, GeluIsTheExactOneForwardAndBack) {
  for (float& v : src.wide) v *= 3;  // into the tails
  src = Stored(map.type, src.wide);
  Stored dst(map.type, map.pixels * map.c), grad(map.type, map.pixels * map.c);
  normalise_gelu(map, src.data(), a.data(), b.data(), dst.data(), threads);
  std::vector<double> sum(c), with_src(c), want_sum(c), want_with_src(c);
  gelu_backward_sums(map, other.data(), src.data(), a.data(), b.data(), grad.data(), sum.data(),
                     with_src.data(), threads);
  const std::vector<float> got = dst.values_now(), got_grad = grad.values_now();
  for (size_t i = 0; i < count; ++i) {
    const double z = static_cast<double>(a[i % c] * src.wide[i] + b[i % c]);
    const double want = gelu(z), want_grad = static_cast<double>(other.wide[i]) * gelu_slope(z);
    const double rounded = map.type == Type::kBf16 ? rounding(static_cast<float>(want)) : 0;
    ASSERT_NEAR(got[i], want, rounded + 5e-7 + 4e-7 * std::abs(z)) << z;
    ASSERT_NEAR(got_grad[i], want_grad, rounding(static_cast<float>(want_grad))) << z;
    want_sum[i % c] += want_grad;
    want_with_src[i % c] += want_grad * static_cast<double>(src.wide[i]);
  }
  for (size_t i = 0; i < c; ++i) {
    EXPECT_NEAR(sum[i], want_sum[i], 1e-5 * static_cast<double>(map.pixels + 30));
    EXPECT_NEAR(with_src[i], want_with_src[i], 5e-5 * static_cast<double>(map.pixels + 30));
  }
  // The sums alone, and in place.
  std::vector<double> sum_alone(c), with_src_alone(c);
  gelu_backward_sums(map, other.data(), src.data(), a.data(), b.data(), nullptr, sum_alone.data(),
                     with_src_alone.data(), threads);
  EXPECT_EQ(sum_alone, sum);
  EXPECT_EQ(with_src_alone, with_src);
  Stored in_place = src;
  normalise_gelu(map, in_place.data(), a.data(), b.data(), in_place.data(), threads);
  EXPECT_EQ(in_place.values_now(), got);
}

TEST_P(BatchNorm, GeluOfNanIsNanAndOfTheLargestIsItself) {
  std::vector<float> odd(count, 0);
  odd[0] = NAN, odd[1] = 1e30f, odd[2] = -1e30f, odd[3] = -40;
  Stored bad(map.type, odd), dst(map.type, map.pixels * map.c), grad(map.type, other.wide);
  const std::vector<float> one(c, 1), zero(c, 0);
  normalise_gelu(map, bad.data(), one.data(), zero.data(), dst.data(), threads);
  const std::vector<float> got = dst.values_now();
  EXPECT_TRUE(std::isnan(got[0]));
  EXPECT_EQ(got[1], bad.wide[1]);
  for (const size_t i : {2, 3, 4}) EXPECT_EQ(got[i], 0) << i;
  std::vector<double> sum(c), with_src(c);
  gelu_backward_sums(map, grad.data(), bad.data(), one.data(), zero.data(), grad.data(), sum.data(),
                     with_src.data(), threads);
  EXPECT_TRUE(std::isnan(grad.values_now()[0]) && std::isnan(sum[0]));
  EXPECT_EQ(grad.values_now()[1], other.wide[1]);
  EXPECT_EQ(grad.values_now()[2], 0);
}

TEST_P(BatchNorm, BackwardApplyIsLinear) {
  Stored out(map.type, map.pixels * map.c);
  backward_apply(map, other.data(), src.data(), a.data(), b.data(), d.data(), out.data(), threads);
  const std::vector<float> got = out.values_now();
  for (size_t i = 0; i < count; ++i) {
    const float want = a[i % c] * other.wide[i] + b[i % c] * src.wide[i] + d[i % c];
    ASSERT_NEAR(got[i], want, rounding(want)) << i;
  }
}

std::string name_of(const testing::TestParamInfo<Parameters>& info) {
  const auto& [set, type, pixels, channels] = info.param;
  return set + (type == Type::kFp32 ? "_fp32_" : "_bf16_") + std::to_string(pixels) + "_" +
         std::to_string(channels);
}

INSTANTIATE_TEST_SUITE_P(All, BatchNorm,
                         testing::Combine(testing::ValuesIn(instruction_sets()),
                                          testing::Values(Type::kFp32, Type::kBf16),
                                          testing::Values(1, 37, 2100),
                                          testing::Values(16, 64, 80)),
                         name_of);

TEST(BatchNormBf16, RoundsToNearestAndKeepsZeros) {
  const Map map{1, 16, Type::kBf16};
  const std::vector<float> one(16, 1.0f), zero(16, 0.0f);
  std::vector<uint16_t> src(16, 0x3F81), dst(16);   // 1 + 2^-7
  std::vector<float> scale(16, 1.0f + 1.0f / 512);  // to 1.0098, nearest 1.0078
  normalise(map, src.data(), scale.data(), zero.data(), {}, true, dst.data(), {});
  EXPECT_EQ(dst[0], 0x3F81);
  scale.assign(16, 1.0f + 3.0f / 512);  // to 1.0137, nearest 1.015625
  normalise(map, src.data(), scale.data(), zero.data(), {}, true, dst.data(), {});
  EXPECT_EQ(dst[15], 0x3F82);
  scale.assign(16, -1.0f);
  normalise(map, src.data(), scale.data(), zero.data(), {}, true, dst.data(), {});
  EXPECT_EQ(dst[7], 0);
}

}  // namespace
}  // namespace skipway::kernels
