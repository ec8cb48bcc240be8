// The convolutions that are matrix products of a map: conv_im2col and conv_direct.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <tuple>
#include <vector>

#include "kernels/conv_direct.h"
#include "kernels/conv_im2col.h"
#include "kernels/instruction_set.h"
#include "kernels/maps_for_test.h"
#include "kernels/pieces.h"
#include "kernels/reference.h"

namespace skipway::kernels {
namespace {

// Bounds of the relative L2 error. bf16 maps: one rounding of the result, 2^-9 at most. bf16
// products: one of each operand too. Sums of two bf16: one of each operand, 2^-17 at most.
double tolerance(Numbers numbers) {
  if (numbers.products == Type::kBf16x2) return 1e-5;
  if (numbers.operands() == Type::kBf16) return 1e-2;
  return numbers.maps == Type::kBf16 ? 4e-3 : 1e-6;
}

enum class Method { kIm2col, kDirect };
using Case = std::tuple<std::string, Method, Numbers, ConvShape>;

class Conv : public testing::TestWithParam<Case> {
 protected:
  Conv() { EXPECT_TRUE(use_instruction_set(std::get<0>(GetParam()))); }
  ~Conv() override { use_instruction_set(instruction_sets().front()); }

  size_t workspace(Pass pass) const {
    return direct ? direct_workspace_bytes(s, numbers, pass, threads.count)
                  : im2col_workspace_bytes(s, numbers, pass, threads.count);
  }
  void run_forward(const ForwardArguments& a) const {
    Scratch scratch(workspace(Pass::kForward));
    direct ? direct_forward(s, numbers, a, scratch.data(), threads)
           : im2col_forward(s, numbers, a, scratch.data(), threads);
  }
  void run_prepare(void* to) const {
    direct ? direct_prepare(s, numbers, weights.data(), to, threads)
           : im2col_prepare(s, numbers, weights.data(), to, threads);
  }
  void run_backward(const BackwardArguments& a) const {
    Scratch scratch(workspace(Pass::kBackward));
    direct ? direct_backward(s, numbers, a, scratch.data(), threads)
           : im2col_backward(s, numbers, a, scratch.data(), threads);
  }

  const bool direct = std::get<1>(GetParam()) == Method::kDirect;
  const Numbers numbers = std::get<2>(GetParam());
  const ConvShape s = std::get<3>(GetParam());
  const Type type = numbers.maps;
  const int64_t depth = s.size * s.size * s.c, pixels = s.n * s.h * s.w,
                out_pixels = s.n * s.out_h() * s.out_w();
  const double of_sums = std::max(1e-5, tolerance(numbers));
  Threads threads = these_threads(2);
  const std::vector<float> weights = random_values(s.k * depth, 2);
  Stored src{type, random_values(pixels*s.c, 1)}, grad{type, random_values(out_pixels*s.k, 3)};
};

TEST_P(Conv, ForwardIsTheDirectSum) {
  Stored dst(type, out_pixels * s.k);
  std::vector<float> want(grad.wide.size());
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  std::vector<double> sum(static_cast<size_t>(s.k)), squares(sum), want_sum(sum), want_squares(sum);
  a.sum = sum.data(), a.sum_of_squares = squares.data();
  run_forward(a);
  a.src = src.wide.data(), a.dst = want.data();
  a.sum = want_sum.data(), a.sum_of_squares = want_squares.data();
  reference_forward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(dst.values_now(), want), tolerance(numbers));
  EXPECT_LT(relative_error(sum, want_sum), of_sums);
  EXPECT_LT(relative_error(squares, want_squares), of_sums);
}

// Of bf16 maps, weights that are kept take half the bytes and are rounded once.
TEST_P(Conv, PreparedWeightsGiveTheSameBits) {
  const bool in_vectors = !direct && numbers.operands() == Type::kBf16;
  const int64_t bytes = s.k * (in_vectors ? ceil_div(depth, 16) * 16 : depth) * bytes_of(type);
  ASSERT_EQ(direct ? direct_prepared_bytes(s, numbers) : im2col_prepared_bytes(s, numbers),
            static_cast<size_t>(bytes));
  Scratch prepared(static_cast<size_t>(bytes));
  run_prepare(prepared.data());
  const Stored rounded(type, weights);
  Stored dst(type, out_pixels * s.k), want(type, out_pixels * s.k);
  ForwardArguments a;
  a.src = src.data(), a.prepared = prepared.data(), a.dst = dst.data();
  run_forward(a);
  // The direct one rounds all weights as it rounds them here, ties as the instruction has them.
  a.prepared = nullptr, a.weights = direct ? weights.data() : rounded.wide.data();
  a.dst = want.data();
  run_forward(a);
  EXPECT_EQ(dst.values_now(), want.values_now());  // the same products in the same order
}

TEST_P(Conv, BackwardIsTheDirectSumOfBothGradients) {
  Stored grad_src(type, pixels * s.c);
  std::vector<float> want_src(src.wide.size());
  std::vector<float> grad_weights(weights.size()), want_weights(weights.size());
  const bool wants_src = s.c % 16 == 0;  // the stem's images need no gradient
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad.data();
  a.grad_src = wants_src ? grad_src.data() : nullptr, a.grad_weights = grad_weights.data();
  run_backward(a);
  BackwardArguments r = a;
  r.src = src.wide.data(), r.grad_dst = grad.wide.data();
  r.grad_src = want_src.data(), r.grad_weights = want_weights.data();
  reference_backward(s, Type::kFp32, r, threads);
  EXPECT_LT(relative_error(grad_weights, want_weights), tolerance(numbers));
  if (!wants_src) return;
  EXPECT_LT(relative_error(grad_src.values_now(), want_src), tolerance(numbers));

  // Each alone gives the same bits.
  Stored alone(type, pixels * s.c);
  a.grad_src = alone.data(), a.grad_weights = nullptr;
  run_backward(a);
  EXPECT_EQ(alone.values_now(), grad_src.values_now());
  std::vector<float> weights_alone(weights.size());
  a.grad_src = nullptr, a.grad_weights = weights_alone.data();
  run_backward(a);
  EXPECT_EQ(weights_alone, grad_weights);
}

// Each thread's share is another one, and some have none.
TEST_P(Conv, AnyNumberOfThreadsGivesTheDirectSum) {
  std::vector<float> want(grad.wide.size()), want_src(src.wide.size()),
      want_weights(weights.size());
  std::vector<double> want_squares(static_cast<size_t>(s.k)), want_sum(want_squares);
  ForwardArguments f;
  f.src = src.wide.data(), f.weights = weights.data(), f.dst = want.data();
  f.sum = want_sum.data(), f.sum_of_squares = want_squares.data();
  reference_forward(s, Type::kFp32, f, threads);
  BackwardArguments b;
  b.src = src.wide.data(), b.weights = weights.data(), b.grad_dst = grad.wide.data();
  b.grad_src = want_src.data(), b.grad_weights = want_weights.data();
  reference_backward(s, Type::kFp32, b, threads);
  const bool wants_src = s.c % 16 == 0;  // the stem's images need no gradient
  for (const int count : {1, 3, 5, 40}) {
    threads = these_threads(count);
    Stored dst(type, out_pixels * s.k), grad_src(type, pixels * s.c);
    std::vector<float> grad_weights(weights.size(), -7);
    std::vector<double> sum(want_sum.size(), -7), squares(sum);
    f.src = src.data(), f.dst = dst.data(), f.sum = sum.data(), f.sum_of_squares = squares.data();
    run_forward(f);
    b.src = src.data(), b.grad_dst = grad.data(), b.grad_weights = grad_weights.data();
    b.grad_src = wants_src ? grad_src.data() : nullptr;
    run_backward(b);
    EXPECT_LT(relative_error(dst.values_now(), want), tolerance(numbers)) << count << " threads";
    EXPECT_LT(relative_error(squares, want_squares), of_sums) << count << " threads";
    EXPECT_LT(relative_error(grad_weights, want_weights), tolerance(numbers)) << count;
    if (wants_src) {
      EXPECT_LT(relative_error(grad_src.values_now(), want_src), tolerance(numbers)) << count;
    }
  }
}

TEST_P(Conv, InferenceAddsBiasAndResidualAndRectifies) {
  Stored dst(type, out_pixels * s.k), residual(type, random_values(out_pixels * s.k, 4));
  const std::vector<float> bias = random_values(s.k, 5);
  std::vector<float> want(grad.wide.size());
  Scratch prepared(direct ? direct_prepared_bytes(s, numbers) : im2col_prepared_bytes(s, numbers));
  run_prepare(prepared.data());
  ForwardArguments a;
  a.src = src.data(), a.prepared = prepared.data(), a.dst = dst.data();
  a.bias = bias.data(), a.residual = residual.data(), a.relu = true;
  run_forward(a);
  a.src = src.wide.data(), a.prepared = nullptr, a.weights = weights.data(), a.dst = want.data();
  a.residual = residual.wide.data();
  reference_forward(s, Type::kFp32, a, threads);
  // Of bf16 maps the weights are kept in bf16 too.
  EXPECT_LT(relative_error(dst.values_now(), want), type == Type::kBf16 ? 1e-2 : of_sums);
}

// BatchNorm behind the convolution on the way in, BatchNorm and ReLU before it on the way out.
TEST_P(Conv, PassesThroughTheBatchNormsAroundIt) {
  if (s.c % 16 != 0) return;  // images have no BatchNorm before them
  const std::vector<float> scale = random_values(s.c, 6), shift = random_values(s.c, 7),
                           by_grad = random_values(s.k, 9), by_dst = random_values(s.k, 10),
                           constant = random_values(s.k, 11);
  Stored dst(type, random_values(out_pixels * s.k, 8)), forward_dst(type, out_pixels * s.k);
  std::vector<float> want_dst(grad.wide.size());
  ForwardArguments f;
  f.src = src.data(), f.src_scale = scale.data(), f.src_shift = shift.data();
  f.weights = weights.data(), f.dst = forward_dst.data();
  run_forward(f);
  f.src = src.wide.data(), f.dst = want_dst.data();
  reference_forward(s, Type::kFp32, f, threads);
  EXPECT_LT(relative_error(forward_dst.values_now(), want_dst), tolerance(numbers));

  Stored grad_src(type, pixels * s.c);
  std::vector<float> want_src(src.wide.size());
  std::vector<float> grad_weights(weights.size()), want_weights(weights.size());
  std::vector<double> sum(scale.size()), with_src(sum), want_sum(sum), want_with_src(sum);
  BackwardArguments a;
  a.src = src.data(), a.src_scale = scale.data(), a.src_shift = shift.data();
  a.weights = weights.data(), a.grad_dst = grad.data(), a.dst = dst.data();
  a.by_grad = by_grad.data(), a.by_dst = by_dst.data(), a.constant = constant.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  a.sum = sum.data(), a.sum_with_src = with_src.data();
  run_backward(a);
  a.src = src.wide.data(), a.grad_dst = grad.wide.data(), a.dst = dst.wide.data();
  a.grad_src = want_src.data(), a.grad_weights = want_weights.data();
  a.sum = want_sum.data(), a.sum_with_src = want_with_src.data();
  reference_backward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(grad_src.values_now(), want_src), tolerance(numbers));
  EXPECT_LT(relative_error(grad_weights, want_weights), tolerance(numbers));
  EXPECT_LT(relative_error(sum, want_sum), of_sums);
  EXPECT_LT(relative_error(with_src, want_with_src), of_sums);
}

TEST_P(Conv, AddsToTheGradientThatIsThere) {
  if (s.c % 16 != 0) return;
  Stored alone(type, pixels * s.c), added = src;
  BackwardArguments a;
  a.weights = weights.data(), a.grad_dst = grad.data(), a.grad_src = alone.data();
  run_backward(a);
  a.grad_src = added.data(), a.add = true;
  run_backward(a);
  std::vector<float> want = alone.values_now();
  for (size_t i = 0; i < want.size(); ++i) want[i] += src.wide[i];
  EXPECT_LE(relative_error(added.values_now(), want), type == Type::kFp32 ? 0 : 4e-3);
}

// A run that diverges has to show it: no ReLU may make a number of what is none.
TEST_P(Conv, NanPassesEveryRelu) {
  std::vector<float> bad = weights, scale(static_cast<size_t>(s.c), 1.0f), zero(scale.size());
  Stored dst(type, out_pixels * s.k);
  ForwardArguments a;
  a.src = src.data(), a.weights = bad.data(), a.dst = dst.data(), a.relu = true;
  const auto count_nan = [&] {
    run_forward(a);
    const std::vector<float> got = dst.values_now();
    return std::count_if(got.begin(), got.end(), [](float v) { return std::isnan(v); });
  };
  EXPECT_EQ(count_nan(), 0);
  const int64_t middle = (s.size * s.size / 2) * s.c;  // of one filter
  bad[static_cast<size_t>(middle)] = NAN;
  EXPECT_EQ(count_nan(), out_pixels);
  if (s.c % 16 != 0) return;  // images have no BatchNorm before them
  bad = weights, scale[3] = NAN;
  a.weights = bad.data(), a.src_scale = scale.data(), a.src_shift = zero.data(), a.relu = false;
  EXPECT_EQ(count_nan(), out_pixels * s.k);
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto& [set, method, numbers, s] = info.param;
  const auto word = [](Type type) {
    return type == Type::kBf16x2 ? "bf16x2" : type == Type::kBf16 ? "bf16" : "fp32";
  };
  return set + "_" + word(numbers.maps) + "_" + word(numbers.products) + "_" + std::to_string(s.n) +
         "_" + std::to_string(s.h) + "_" + std::to_string(s.w) + "_" + std::to_string(s.c) + "_" +
         std::to_string(s.k) + "_" + std::to_string(s.size) + "x" + std::to_string(s.size) +
         "_stride" + std::to_string(s.stride);
}

INSTANTIATE_TEST_SUITE_P(
    Im2col, Conv,
    testing::Combine(
        testing::ValuesIn(instruction_sets()), testing::Values(Method::kIm2col),
        testing::Values(Numbers{}, Numbers{Type::kBf16, Type::kFp32},
                        Numbers{Type::kBf16, Type::kBf16}),
        testing::Values(ConvShape{5, 8, 8, 3, 64, 3, 1, 1},    // CIFAR's stem
                        ConvShape{3, 15, 15, 3, 64, 7, 2, 3},  // ImageNet's
                        ConvShape{5, 8, 8, 64, 128, 3, 2, 1}, ConvShape{3, 7, 5, 16, 48, 3, 2, 1},
                        ConvShape{3, 8, 8, 64, 128, 1, 2, 0}, ConvShape{2, 4, 4, 80, 32, 1, 1, 0},
                        // Odd numbers of pixels, and of inputs.
                        ConvShape{3, 5, 5, 16, 48, 3, 1, 1}, ConvShape{3, 7, 5, 3, 32, 3, 1, 1},
                        ConvShape{3, 7, 5, 3, 32, 2, 1, 0},    // airbench's whitening
                        ConvShape{2, 4, 5, 20, 32, 1, 1, 0},   // no whole vector of channels
                        ConvShape{9, 16, 12, 3, 64, 3, 1, 1},  // several blocks of images
                        ConvShape{1, 1, 1, 32, 16, 1, 1, 0},
                        ConvShape{1, 4, 4, 32, 144, 3, 1, 1},     // threads share columns
                        ConvShape{9, 16, 16, 16, 32, 3, 1, 1})),  // several blocks a thread
    name_of);

const auto kDirectShapes = testing::Values(
    ConvShape{5, 8, 8, 64, 128, 3, 2, 1}, ConvShape{33, 4, 4, 96, 32, 3, 1, 1},  // two groups
    ConvShape{3, 5, 7, 32, 64, 3, 2, 1},                                         // odd sides
    ConvShape{3, 7, 8, 64, 32, 1, 2, 0},  // pixels without a tap
    ConvShape{1, 1, 1, 32, 32, 3, 1, 1},  // one tap inside
    ConvShape{2, 1, 6, 64, 32, 1, 1, 0}, ConvShape{2, 20, 20, 512, 32, 3, 1, 1},  // bands
    ConvShape{33, 20, 20, 512, 32, 1, 1, 0});                                     // of two groups

INSTANTIATE_TEST_SUITE_P(Direct, Conv,
                         testing::Combine(testing::ValuesIn(instruction_sets()),
                                          testing::Values(Method::kDirect),
                                          testing::Values(Numbers{Type::kBf16, Type::kBf16}),
                                          kDirectShapes),
                         name_of);

std::vector<std::string> sets_that_take_fp32() {
  std::vector<std::string> sets = instruction_sets();
  std::erase_if(sets, [](const std::string& set) {
    use_instruction_set(set);
    return !tiles_in_use();
  });
  use_instruction_set(instruction_sets().front());
  return sets;
}
INSTANTIATE_TEST_SUITE_P(DirectFp32, Conv,
                         testing::Combine(testing::ValuesIn(sets_that_take_fp32()),
                                          testing::Values(Method::kDirect),
                                          testing::Values(Numbers{Type::kFp32, Type::kBf16x2}),
                                          kDirectShapes),
                         name_of);

// What a machine without it leaves out stands among the skipped tests.
TEST(Direct, Fp32NeedsTileRegisters) {
  if (sets_that_take_fp32().empty())
    GTEST_SKIP() << "no instruction set here has tile registers: fp32 as sums of two bf16, and "
                    "products on tile registers, are not tested";
  EXPECT_EQ(sets_that_take_fp32(), std::vector<std::string>{"amx_bf16"});
}

TEST(Direct, RefusesWhatItCannotDo) {
  EXPECT_EQ(direct_refusal({1, 4, 4, 32, 64}), "");
  EXPECT_EQ(direct_refusal({1, 4, 4, 32, 64, 1, 2, 0}), "");
  EXPECT_NE(direct_refusal({1, 4, 4, 48, 64}), "");
  EXPECT_NE(direct_refusal({1, 4, 4, 32, 80}), "");
  EXPECT_NE(direct_refusal({1, 9, 9, 32, 32, 5, 1, 2}), "");
  EXPECT_NE(direct_refusal({0, 4, 4, 32, 32}), "");
}

}  // namespace
}  // namespace skipway::kernels
