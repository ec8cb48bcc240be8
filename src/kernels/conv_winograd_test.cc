#include "kernels/conv_winograd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/instruction_set.h"
#include "kernels/maps_for_test.h"
#include "kernels/reference.h"
#include "kernels/winograd.h"

namespace skipway::kernels {
namespace {

// Bounds of the relative L2 error on any shape. fp32: a few hundred roundings of 6e-8 each, which
// the transforms amplify. bf16 maps: one rounding of the result, 2^-8 at most and 0.15 % on the
// whole, more where there are few pixels. bf16 products: the points amplify the roundings of both
// operands, most where tiles hang over the map.
double tolerance(Numbers numbers) {
  if (numbers.products == Type::kBf16) return 1.2e-2;
  return numbers.maps == Type::kBf16 ? 1e-2 : 1e-5;
}

// Of a pass alone on the given shape, as conv_winograd.h promises it: interpolation points a little
// worse would show where tiles fill the map, and weights each rounded for itself (docs/kernels.md).
double tolerance(Numbers numbers, const ConvShape& s) {
  const int64_t least_results = s.n * s.out_h() * s.out_w() * std::min(s.c, s.k);
  if (numbers.products == Type::kFp32)
    return numbers.maps == Type::kBf16 && least_results >= 1000 ? 2e-3 : tolerance(numbers);
  if (s.h % 4 != 0 || s.w % 4 != 0) return tolerance(numbers);
  return s.stride == 2 ? 7e-3 : tile_of(s) == 2 ? 4.3e-3 : 1e-2;
}

double around_batch_norm(Numbers numbers, const ConvShape& s) {
  return numbers.products == Type::kFp32 ? tolerance(numbers, s) : tolerance(numbers);
}

Scratch scratch_of(const ConvShape& s, Numbers numbers, Pass pass, int threads) {
  return Scratch(winograd_workspace_bytes(s, numbers, pass, threads));
}

struct Case {
  ConvShape shape;
  Numbers numbers;
  std::string set;
};

std::vector<Case> cases() {
  const std::vector<ConvShape> shapes = {
      {2, 32, 32, 64, 64},        {3, 16, 16, 128, 128},       {5, 8, 8, 256, 256},
      {3, 4, 4, 512, 512},        {1, 1, 1, 16, 16},           {3, 5, 7, 16, 48},
      {1, 2, 2, 32, 16},          {7, 4, 4, 80, 96},           {2, 14, 13, 64, 32},
      {5, 32, 32, 16, 16},   // several blocks a thread
      {2, 32, 32, 64, 320},  // a sweep for each gradient, blocks of each thread
      {2, 32, 32, 64, 128, 3, 2}, {3, 16, 16, 128, 256, 3, 2}, {4, 8, 8, 256, 512, 3, 2},
      {1, 1, 1, 16, 16, 3, 2},    {3, 5, 7, 16, 48, 3, 2},     {1, 2, 3, 32, 16, 3, 2},
      {5, 32, 32, 32, 16, 3, 2},  {3, 4, 4, 144, 208},         {2, 8, 8, 144, 208, 3, 2},
      {5, 2, 2, 144, 208},        {128, 2, 2, 64, 64},         {5, 4, 4, 512, 512},
      {5, 4, 4, 144, 208},        {1, 5, 7, 16, 48},           {5, 4, 8, 64, 64},
      {5, 2, 9, 64, 64},          {9, 1, 9, 64, 64},           {9, 5, 5, 64, 64},
  };
  std::vector<Case> all;
  for (const std::string& set : instruction_sets())
    for (const Numbers numbers :
         {Numbers{}, Numbers{Type::kBf16, Type::kFp32}, Numbers{Type::kBf16, Type::kBf16}})
      for (const ConvShape& shape : shapes) all.push_back({shape, numbers, set});
  return all;
}

std::string name_of(const Case& c) {
  const ConvShape& s = c.shape;
  std::string name = c.set + (c.numbers.maps == Type::kFp32       ? "_fp32"
                              : c.numbers.products == Type::kFp32 ? "_bf16maps"
                                                                  : "_bf16");
  for (const int64_t v : {s.n, s.h, s.w, s.c, s.k, s.stride}) name += "_" + std::to_string(v);
  return name;
}

// What GoogleTest asks; else it prints the bytes, padding included.
void PrintTo(const Case& c, std::ostream* stream) { *stream << name_of(c); }

class Conv3x3 : public testing::TestWithParam<Case> {
 protected:
  Conv3x3() { EXPECT_TRUE(use_instruction_set(GetParam().set)); }
  ~Conv3x3() override { use_instruction_set(instruction_sets().front()); }

  void run_forward(const ForwardArguments& a) const {
    Scratch scratch = scratch_of(s, numbers, Pass::kForward, threads.count);
    winograd_forward(s, numbers, a, scratch.data(), threads);
  }
  void run_backward(const BackwardArguments& a) const {
    Scratch scratch = scratch_of(s, numbers, Pass::kBackward, threads.count);
    winograd_backward(s, numbers, a, scratch.data(), threads);
  }

  const ConvShape s = GetParam().shape;
  const Numbers numbers = GetParam().numbers;
  const Type type = numbers.maps;
  const int64_t pixels = s.n * s.h * s.w, out_pixels = s.n * s.out_h() * s.out_w();
  const Threads threads = these_threads(2);
  const std::vector<float> weights = random_values(s.k * 9 * s.c, 1);
};

TEST_P(Conv3x3, ForwardIsTheDirectSum) {
  Stored src(type, random_values(pixels * s.c, 2, /*rectified=*/true)), dst(type, out_pixels * s.k);
  std::vector<float> want(static_cast<size_t>(out_pixels * s.k));
  std::vector<double> sum(static_cast<size_t>(s.k)), squares(sum);
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  a.sum = sum.data(), a.sum_of_squares = squares.data();
  run_forward(a);
  a.src = src.wide.data(), a.dst = want.data(), a.sum = nullptr;
  reference_forward(s, Type::kFp32, a, threads);
  const std::vector<float> got = dst.values_now();
  EXPECT_LT(relative_error(got, want), tolerance(numbers, s));
  RecordProperty("relative_error", std::to_string(relative_error(got, want)));

  std::vector<double> want_sum(sum.size()), want_squares(sum.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const auto value = static_cast<double>(got[i]);
    want_sum[i % sum.size()] += value;
    want_squares[i % sum.size()] += value * value;
  }
  EXPECT_LT(relative_error(squares, want_squares), tolerance(numbers));
  double scale = 0;
  for (const double square : want_squares)
    scale += std::sqrt(square * static_cast<double>(out_pixels));
  for (size_t i = 0; i < sum.size(); ++i)
    EXPECT_NEAR(sum[i], want_sum[i], tolerance(numbers) * scale / static_cast<double>(s.k));
}

TEST_P(Conv3x3, InferenceAddsBiasAndResidualAndRectifies) {
  Stored src(type, random_values(pixels * s.c, 2, true)), dst(type, out_pixels * s.k),
      residual(type, random_values(out_pixels * s.k, 3));
  const std::vector<float> bias = random_values(s.k, 4);
  std::vector<float> want(static_cast<size_t>(out_pixels * s.k));
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  a.bias = bias.data(), a.residual = residual.data(), a.relu = true;
  std::vector<float> prepared(winograd_prepared_bytes(s, numbers) / sizeof(float));
  winograd_prepare(s, numbers, weights.data(), prepared.data(), threads);
  a.weights = nullptr, a.prepared = prepared.data();
  run_forward(a);
  a.weights = weights.data();
  a.src = src.wide.data(), a.residual = residual.wide.data(), a.dst = want.data();
  reference_forward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(dst.values_now(), want), around_batch_norm(numbers, s));
}

TEST_P(Conv3x3, BackwardIsTheDirectSumOfBothGradients) {
  Stored src(type, random_values(pixels * s.c, 2, true)),
      grad_dst(type, random_values(out_pixels * s.k, 5)), grad_src(type, pixels * s.c);
  std::vector<float> grad_weights(weights.size(), -7), want_weights(weights.size());
  std::vector<float> want_src(static_cast<size_t>(pixels * s.c));
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad_dst.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  run_backward(a);
  BackwardArguments r = a;
  r.src = src.wide.data(), r.grad_dst = grad_dst.wide.data();
  r.grad_src = want_src.data(), r.grad_weights = want_weights.data();
  reference_backward(s, Type::kFp32, r, threads);
  const double of_src = relative_error(grad_src.values_now(), want_src);
  const double of_weights = relative_error(grad_weights, want_weights);
  EXPECT_LT(of_src, tolerance(numbers, s));
  EXPECT_LT(of_weights, tolerance(numbers, s));
  RecordProperty("relative_error_data", std::to_string(of_src));
  RecordProperty("relative_error_weights", std::to_string(of_weights));

  // Each alone gives the same; the weights' sums may be added up in another order.
  Stored alone(type, pixels * s.c);
  a.grad_src = alone.data(), a.grad_weights = nullptr;
  run_backward(a);
  EXPECT_EQ(alone.values_now(), grad_src.values_now());
  std::vector<float> weights_alone(weights.size(), -7);
  a.grad_src = nullptr, a.grad_weights = weights_alone.data();
  run_backward(a);
  EXPECT_LT(relative_error(weights_alone, grad_weights), 1e-5);
}

// BatchNorm behind the convolution on the way in, BatchNorm and ReLU before it on the way out.
TEST_P(Conv3x3, PassesThroughTheBatchNormsAroundIt) {
  // A constant that is not small beside the gradient is most of its transform at some points.
  constexpr double kTwice = 2;
  Stored src(type, random_values(pixels * s.c, 2)), dst(type, random_values(out_pixels * s.k, 6)),
      grad_dst(type, random_values(out_pixels * s.k, 5)), grad_src(type, pixels * s.c),
      forward_dst(type, out_pixels * s.k);
  const std::vector<float> scale = random_values(s.c, 3), shift = random_values(s.c, 4),
                           by_grad = random_values(s.k, 7), by_dst = random_values(s.k, 8),
                           constant = random_values(s.k, 9);

  std::vector<float> want_dst(static_cast<size_t>(out_pixels * s.k));
  ForwardArguments f;
  f.src = src.data(), f.src_scale = scale.data(), f.src_shift = shift.data();
  f.weights = weights.data(), f.dst = forward_dst.data();
  run_forward(f);
  f.src = src.wide.data(), f.dst = want_dst.data();
  reference_forward(s, Type::kFp32, f, threads);
  EXPECT_LT(relative_error(forward_dst.values_now(), want_dst), around_batch_norm(numbers, s));

  std::vector<float> grad_weights(weights.size(), -7), want_weights(weights.size());
  std::vector<float> want_src(static_cast<size_t>(pixels * s.c));
  std::vector<double> sum(static_cast<size_t>(s.c)), with_src(sum), want_sum(sum), want_with(sum);
  BackwardArguments a;
  a.src = src.data(), a.src_scale = scale.data(), a.src_shift = shift.data();
  a.weights = weights.data(), a.grad_dst = grad_dst.data(), a.dst = dst.data();
  a.by_grad = by_grad.data(), a.by_dst = by_dst.data(), a.constant = constant.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  a.sum = sum.data(), a.sum_with_src = with_src.data();
  run_backward(a);
  BackwardArguments r = a;
  r.src = src.wide.data(), r.grad_dst = grad_dst.wide.data(), r.dst = dst.wide.data();
  r.grad_src = want_src.data(), r.grad_weights = want_weights.data();
  r.sum = want_sum.data(), r.sum_with_src = want_with.data();
  reference_backward(s, Type::kFp32, r, threads);
  EXPECT_LT(relative_error(grad_src.values_now(), want_src),
            kTwice * around_batch_norm(numbers, s));
  EXPECT_LT(relative_error(grad_weights, want_weights), kTwice * around_batch_norm(numbers, s));
  // Sums of terms of both signs: an error counts against the terms, not against their sum.
  double terms = 0;
  for (const float g : want_src) terms += std::abs(static_cast<double>(g));
  const double bound = kTwice * tolerance(numbers) * terms / static_cast<double>(s.c) + 1e-6;
  for (size_t i = 0; i < sum.size(); ++i) {
    EXPECT_NEAR(sum[i], want_sum[i], 2 * bound);
    EXPECT_NEAR(with_src[i], want_with[i], 4 * bound);
  }
}

TEST_P(Conv3x3, AddsToTheGradientThatIsThere) {
  Stored grad_dst(type, random_values(out_pixels * s.k, 5)), alone(type, pixels * s.c),
      added(type, random_values(pixels * s.c, 6));
  std::vector<float> want = added.values_now();
  BackwardArguments a;
  a.weights = weights.data(), a.grad_dst = grad_dst.data(), a.grad_src = alone.data();
  run_backward(a);
  a.grad_src = added.data(), a.add = true;
  run_backward(a);
  const std::vector<float> addend = alone.values_now();
  for (size_t i = 0; i < want.size(); ++i) want[i] += addend[i];
  EXPECT_LT(relative_error(added.values_now(), want), type == Type::kFp32 ? 1e-6 : 4e-3);
}

TEST_P(Conv3x3, SameThreadsGiveSameBits) {
  Stored src(type, random_values(pixels * s.c, 2, true)),
      grad_dst(type, random_values(out_pixels * s.k, 5));
  const auto run = [&] {
    Stored dst(type, out_pixels * s.k), grad_src(type, pixels * s.c);
    std::vector<float> grad_weights(weights.size());
    std::vector<double> sum(static_cast<size_t>(s.k)), squares(sum);
    ForwardArguments f;
    f.src = src.data(), f.weights = weights.data(), f.dst = dst.data();
    f.sum = sum.data(), f.sum_of_squares = squares.data();
    run_forward(f);
    BackwardArguments a;
    a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad_dst.data();
    a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
    run_backward(a);
    return std::tuple(dst.values_now(), sum, squares, grad_src.values_now(), grad_weights);
  };
  EXPECT_EQ(run(), run());
}

INSTANTIATE_TEST_SUITE_P(All, Conv3x3, testing::ValuesIn(cases()),
                         [](const auto& test) { return name_of(test.param); });

// Each thread's share is another one, and some have none. Where there are many channels and few
// pixels, threads share a block.
TEST(Conv3x3Threads, AnyNumberGivesTheDirectSum) {
  for (const ConvShape& s : {ConvShape{5, 9, 7, 16, 48, 3, 1}, ConvShape{5, 9, 7, 16, 48, 3, 2},
                             ConvShape{5, 4, 4, 512, 512, 3, 1}, ConvShape{3, 4, 4, 512, 512, 3, 1},
                             ConvShape{3, 4, 4, 256, 320, 3, 2}}) {
    for (const Type type : {Type::kFp32, Type::kBf16}) {
      const Numbers numbers{type, type};
      const int64_t out_values = s.n * s.out_h() * s.out_w() * s.k;
      const std::vector<float> weights = random_values(s.k * 9 * s.c, 2);
      Stored src(type, random_values(s.n * s.h * s.w * s.c, 1, true)),
          grad_dst(type, random_values(out_values, 3)), dst(type, out_values),
          grad_src(type, s.n * s.h * s.w * s.c);
      std::vector<float> grad_weights(weights.size());
      std::vector<double> sum(static_cast<size_t>(s.k)), squares(sum);
      ForwardArguments f;
      f.src = src.data(), f.weights = weights.data(), f.dst = dst.data();
      f.sum = sum.data(), f.sum_of_squares = squares.data();
      BackwardArguments b;
      b.src = src.data(), b.weights = weights.data(), b.grad_dst = grad_dst.data();
      b.grad_src = grad_src.data(), b.grad_weights = grad_weights.data();
      reference_forward(s, type, f, {});
      reference_backward(s, type, b, {});
      const std::vector<float> want = dst.values_now(), want_src = grad_src.values_now(),
                               want_weights = grad_weights;
      const std::vector<double> want_squares = squares;
      for (const int count : {1, 3, 5, 16, 40}) {
        const Threads threads = these_threads(count);
        dst.clear(), grad_src.clear();
        std::ranges::fill(grad_weights, -7);
        std::ranges::fill(squares, -7);
        Scratch of_forward = scratch_of(s, numbers, Pass::kForward, count),
                of_backward = scratch_of(s, numbers, Pass::kBackward, count);
        winograd_forward(s, numbers, f, of_forward.data(), threads);
        winograd_backward(s, numbers, b, of_backward.data(), threads);
        EXPECT_LT(relative_error(dst.values_now(), want), tolerance(numbers))
            << count << " threads";
        EXPECT_LT(relative_error(squares, want_squares), tolerance(numbers)) << count << " threads";
        EXPECT_LT(relative_error(grad_src.values_now(), want_src), tolerance(numbers))
            << count << " threads";
        EXPECT_LT(relative_error(grad_weights, want_weights), tolerance(numbers))
            << count << " threads";
      }
    }
  }
}

// A run that diverges has to show it: no ReLU may make a number of what is none.
TEST(Conv3x3Nan, PassesEveryRelu) {
  for (const std::string& set : instruction_sets()) {
    ASSERT_TRUE(use_instruction_set(set));
    for (const Numbers numbers :
         {Numbers{}, Numbers{Type::kBf16, Type::kFp32}, Numbers{Type::kBf16, Type::kBf16}}) {
      for (const ConvShape& s : {ConvShape{1, 9, 6, 16, 16}, ConvShape{1, 2, 2, 16, 16},
                                 ConvShape{1, 5, 6, 16, 16, 3, 2}}) {
        Stored src(numbers.maps, random_values(s.h * s.w * s.c, 1)),
            dst(numbers.maps, s.out_h() * s.out_w() * s.k);
        std::vector<float> weights = random_values(s.k * 9 * s.c, 2), scale(16, 1.0f), zero(16);
        Scratch scratch = scratch_of(s, numbers, Pass::kForward, 1);
        ForwardArguments a;
        a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
        a.src_scale = scale.data(), a.src_shift = zero.data();
        const auto count_nan = [&](bool reference) {
          reference ? reference_forward(s, numbers.maps, a, {})
                    : winograd_forward(s, numbers, a, scratch.data(), {});
          const std::vector<float> got = dst.values_now();
          return std::count_if(got.begin(), got.end(), [](float v) { return std::isnan(v); });
        };
        const int64_t out_pixels = s.out_h() * s.out_w();
        for (const bool reference : {false, true}) {
          SCOPED_TRACE(set + (reference ? ", reference, " : ", ") + std::to_string(s.h) +
                       " rows, stride " + std::to_string(s.stride));
          EXPECT_EQ(count_nan(reference), 0);
          scale[3] = NAN;  // the ReLU in reading
          EXPECT_EQ(count_nan(reference), out_pixels * s.k);
          scale[3] = 1;
          weights[static_cast<size_t>(4 * s.c)] = NAN;  // the middle of one filter
          a.relu = true;
          EXPECT_EQ(count_nan(reference), out_pixels);
          weights[static_cast<size_t>(4 * s.c)] = 1;
          a.relu = false;
        }
      }
    }
  }
  use_instruction_set(instruction_sets().front());
}

// As in LibTorch: the gradient of a ReLU whose input is no number is what came, not zero.
TEST(Conv3x3Nan, LetsTheGradientPass) {
  for (const std::string& set : instruction_sets()) {
    ASSERT_TRUE(use_instruction_set(set));
    for (const ConvShape& s : {ConvShape{1, 9, 6, 16, 16}, ConvShape{1, 2, 2, 16, 16},
                               ConvShape{1, 5, 6, 16, 16, 3, 2}}) {
      const int64_t pixels = s.h * s.w;
      const std::vector<float> src = random_values(pixels * s.c, 1),
                               weights = random_values(s.k * 9 * s.c, 2),
                               grad_dst = random_values(s.out_h() * s.out_w() * s.k, 3);
      Scratch scratch = scratch_of(s, {}, Pass::kBackward, 1);
      const auto gradient = [&](float shift_of_first, bool reference) {
        std::vector<float> scale(16, 0.0f), shift(16, 1.0f), grad_src(src.size());
        std::vector<double> sum(16), with_src(16);
        shift[0] = shift_of_first;
        BackwardArguments a;
        a.src = src.data(), a.src_scale = scale.data(), a.src_shift = shift.data();
        a.weights = weights.data(), a.grad_dst = grad_dst.data(), a.grad_src = grad_src.data();
        a.sum = sum.data(), a.sum_with_src = with_src.data();
        reference ? reference_backward(s, Type::kFp32, a, {})
                  : winograd_backward(s, {}, a, scratch.data(), {});
        return grad_src;
      };
      for (const bool reference : {false, true}) {
        SCOPED_TRACE(set + (reference ? ", reference, " : ", ") + std::to_string(s.h) +
                     " rows, stride " + std::to_string(s.stride));
        EXPECT_EQ(gradient(NAN, reference), gradient(1, reference));
        EXPECT_NE(gradient(0, reference), gradient(1, reference));
      }
    }
  }
  use_instruction_set(instruction_sets().front());
}

TEST(Conv3x3Refusal, NamesTheReason) {
  EXPECT_EQ(winograd_refusal({2, 8, 8, 64, 64}), "");
  EXPECT_NE(winograd_refusal({2, 8, 8, 3, 64}), "");
  EXPECT_NE(winograd_refusal({2, 8, 8, 64, 20}), "");
  EXPECT_NE(winograd_refusal({0, 8, 8, 64, 64}), "");
  EXPECT_NE(winograd_refusal({2, 8, 8, 64, 64, 1, 1, 0}), "");
  EXPECT_NE(winograd_refusal({2, 8, 8, 64, 64, 3, 3, 1}), "");
  EXPECT_FALSE(use_instruction_set("z80"));
}

}  // namespace
}  // namespace skipway::kernels
