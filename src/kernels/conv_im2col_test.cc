#include "kernels/conv_im2col.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "kernels/maps_for_test.h"
#include "kernels/reference.h"

namespace skipway::kernels {
namespace {

// As many bytes as were asked for, and none more that could be overwritten without a word.
class Scratch {
 public:
  Scratch(const ConvShape& s, Pass pass, int threads)
      : bytes_(im2col_workspace_bytes(s, pass, threads)),
        memory_(bytes_ + 64 + kGuard, kUntouched) {}
  ~Scratch() {
    for (size_t i = offset() + bytes_; i < memory_.size(); ++i)
      EXPECT_EQ(memory_[i], kUntouched) << "written behind the workspace";
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() { return memory_.data() + offset(); }

 private:
  static constexpr size_t kGuard = 1 << 16;
  static constexpr unsigned char kUntouched = 0xFF;  // NaN wherever it is read before it is written
  size_t offset() const { return 64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64; }
  size_t bytes_;
  std::vector<unsigned char> memory_;
};

using Case = std::tuple<std::string, ConvShape>;

class ConvIm2col : public testing::TestWithParam<Case> {
 protected:
  ConvIm2col() { EXPECT_TRUE(use_instruction_set(std::get<0>(GetParam()))); }
  ~ConvIm2col() override { use_instruction_set(instruction_sets().front()); }

  void run_forward(const ForwardArguments& a) const {
    Scratch scratch(s, Pass::kForward, threads.count);
    im2col_forward(s, Type::kFp32, a, scratch.data(), threads);
  }
  void run_backward(const BackwardArguments& a) const {
    Scratch scratch(s, Pass::kBackward, threads.count);
    im2col_backward(s, Type::kFp32, a, scratch.data(), threads);
  }

  static constexpr double kTolerance = 1e-6;
  const ConvShape s = std::get<1>(GetParam());
  const Threads threads{2, [](const auto& task) { task(1), task(0); }};
  const std::vector<float> src = random_values(s.n * s.h * s.w * s.c, 1),
                           weights = random_values(s.k * s.size * s.size * s.c, 2),
                           grad = random_values(s.n * s.out_h() * s.out_w() * s.k, 3);
};

TEST_P(ConvIm2col, ForwardIsTheDirectSum) {
  std::vector<float> dst(grad.size()), want(grad.size());
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  std::vector<double> sum(static_cast<size_t>(s.k)), squares(sum), want_sum(sum), want_squares(sum);
  a.sum = sum.data(), a.sum_of_squares = squares.data();
  run_forward(a);
  a.dst = want.data(), a.sum = want_sum.data(), a.sum_of_squares = want_squares.data();
  reference_forward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(dst, want), kTolerance);
  EXPECT_LT(relative_error(sum, want_sum), 1e-5);
  EXPECT_LT(relative_error(squares, want_squares), 1e-5);
  std::vector<float> prepared(weights.size()), again(dst.size());
  ASSERT_EQ(im2col_prepared_bytes(s, Type::kFp32), prepared.size() * sizeof(float));
  im2col_prepare(s, Type::kFp32, weights.data(), prepared.data(), threads);
  a.weights = nullptr, a.prepared = prepared.data(), a.dst = again.data();
  run_forward(a);
  EXPECT_EQ(again, dst);
}

TEST_P(ConvIm2col, Bf16WeightsArePreparedInHalfTheBytesAndRoundedOnce) {
  const auto narrow = [](const std::vector<float>& values) {
    std::vector<Bf16> half;
    for (const float value : values) half.push_back(narrowed(value));
    return half;
  };
  const std::vector<Bf16> half_src = narrow(src);
  std::vector<float> rounded;
  for (const Bf16 value : narrow(weights)) rounded.push_back(widened(value));
  std::vector<Bf16> prepared(weights.size()), dst(grad.size()), want(grad.size());
  ASSERT_EQ(im2col_prepared_bytes(s, Type::kBf16), prepared.size() * sizeof(Bf16));
  im2col_prepare(s, Type::kBf16, weights.data(), prepared.data(), threads);
  Scratch scratch(s, Pass::kForward, threads.count);
  ForwardArguments a;
  a.src = half_src.data(), a.prepared = prepared.data(), a.dst = dst.data();
  im2col_forward(s, Type::kBf16, a, scratch.data(), threads);
  a.prepared = nullptr, a.weights = rounded.data(), a.dst = want.data();
  im2col_forward(s, Type::kBf16, a, scratch.data(), threads);
  EXPECT_EQ(dst, want);  // the same products in the same order
}

TEST_P(ConvIm2col, BackwardIsTheDirectSumOfBothGradients) {
  std::vector<float> grad_src(src.size()), want_src(src.size());
  std::vector<float> grad_weights(weights.size()), want_weights(weights.size());
  const bool wants_src = s.c % 16 == 0;  // the stem's images need no gradient
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad.data();
  a.grad_src = wants_src ? grad_src.data() : nullptr, a.grad_weights = grad_weights.data();
  run_backward(a);
  a.grad_src = want_src.data(), a.grad_weights = want_weights.data();
  reference_backward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(grad_weights, want_weights), kTolerance);
  if (wants_src) {
    EXPECT_LT(relative_error(grad_src, want_src), kTolerance);
  }
}

// BatchNorm behind the convolution on the way in, BatchNorm and ReLU before it on the way out.
TEST_P(ConvIm2col, PassesThroughTheBatchNormsAroundIt) {
  if (s.c % 16 != 0) return;  // images have no BatchNorm before them
  const std::vector<float> scale = random_values(s.c, 6), shift = random_values(s.c, 7),
                           dst = random_values(static_cast<int64_t>(grad.size()), 8),
                           by_grad = random_values(s.k, 9), by_dst = random_values(s.k, 10),
                           constant = random_values(s.k, 11);
  std::vector<float> forward_dst(grad.size()), want_dst(grad.size());
  ForwardArguments f;
  f.src = src.data(), f.src_scale = scale.data(), f.src_shift = shift.data();
  f.weights = weights.data(), f.dst = forward_dst.data();
  run_forward(f);
  f.dst = want_dst.data();
  reference_forward(s, Type::kFp32, f, threads);
  EXPECT_LT(relative_error(forward_dst, want_dst), kTolerance);

  std::vector<float> grad_src(src.size()), want_src(src.size());
  std::vector<float> grad_weights(weights.size()), want_weights(weights.size());
  std::vector<double> sum(scale.size()), with_src(sum), want_sum(sum), want_with_src(sum);
  BackwardArguments a;
  a.src = src.data(), a.src_scale = scale.data(), a.src_shift = shift.data();
  a.weights = weights.data(), a.grad_dst = grad.data(), a.dst = dst.data();
  a.by_grad = by_grad.data(), a.by_dst = by_dst.data(), a.constant = constant.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  a.sum = sum.data(), a.sum_with_src = with_src.data();
  run_backward(a);
  a.grad_src = want_src.data(), a.grad_weights = want_weights.data();
  a.sum = want_sum.data(), a.sum_with_src = want_with_src.data();
  reference_backward(s, Type::kFp32, a, threads);
  EXPECT_LT(relative_error(grad_src, want_src), kTolerance);
  EXPECT_LT(relative_error(grad_weights, want_weights), kTolerance);
  EXPECT_LT(relative_error(sum, want_sum), 1e-5);
  EXPECT_LT(relative_error(with_src, want_with_src), 1e-5);
}

TEST_P(ConvIm2col, AddsToTheGradientThatIsThere) {
  if (s.c % 16 != 0) return;
  std::vector<float> alone(src.size()), added = src;
  BackwardArguments a;
  a.weights = weights.data(), a.grad_dst = grad.data(), a.grad_src = alone.data();
  run_backward(a);
  a.grad_src = added.data(), a.add = true;
  run_backward(a);
  for (size_t i = 0; i < src.size(); ++i) ASSERT_EQ(added[i], alone[i] + src[i]) << i;
}

INSTANTIATE_TEST_SUITE_P(
    All, ConvIm2col,
    testing::Combine(
        testing::ValuesIn(instruction_sets()),
        testing::Values(ConvShape{5, 8, 8, 3, 64, 3, 1, 1},    // CIFAR's stem
                        ConvShape{3, 15, 15, 3, 64, 7, 2, 3},  // ImageNet's
                        ConvShape{5, 8, 8, 64, 128, 3, 2, 1}, ConvShape{3, 7, 5, 16, 48, 3, 2, 1},
                        ConvShape{3, 8, 8, 64, 128, 1, 2, 0}, ConvShape{2, 4, 4, 80, 32, 1, 1, 0},
                        ConvShape{1, 4, 4, 32, 144, 3, 1, 1})));  // threads share columns

}  // namespace
}  // namespace skipway::kernels
