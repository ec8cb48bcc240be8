#include "kernels/conv_im2col.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

namespace skipway::kernels {
namespace {

std::vector<float> random_values(int64_t count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(engine);
  return values;
}

// Calls term(index of src, of weights, of dst) for every product of the convolution.
template <class Term>
void for_each_product(const ConvShape& s, const Term& term) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t y = 0; y < s.out_h(); ++y)
      for (int64_t x = 0; x < s.out_w(); ++x)
        for (int64_t r = 0; r < s.size; ++r)
          for (int64_t q = 0; q < s.size; ++q) {
            const int64_t from_y = y * s.stride + r - s.padding;
            const int64_t from_x = x * s.stride + q - s.padding;
            if (from_y < 0 || from_y >= s.h || from_x < 0 || from_x >= s.w) continue;
            for (int64_t k = 0; k < s.k; ++k)
              for (int64_t c = 0; c < s.c; ++c)
                term(static_cast<size_t>(((n * s.h + from_y) * s.w + from_x) * s.c + c),
                     static_cast<size_t>(((k * s.size + r) * s.size + q) * s.c + c),
                     static_cast<size_t>(((n * s.out_h() + y) * s.out_w() + x) * s.k + k));
          }
}

double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d, norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

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

  static constexpr double kTolerance = 1e-6;
  const ConvShape s = std::get<1>(GetParam());
  const Threads threads{2, [](const auto& task) { task(1), task(0); }};
  const std::vector<float> src = random_values(s.n * s.h * s.w * s.c, 1),
                           weights = random_values(s.k * s.size * s.size * s.c, 2),
                           grad = random_values(s.n * s.out_h() * s.out_w() * s.k, 3);
};

TEST_P(ConvIm2col, ForwardIsTheDirectSum) {
  std::vector<float> dst(grad.size());
  std::vector<double> want(dst.size());
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want[to] += static_cast<double>(src[from]) * static_cast<double>(weights[w]);
  });
  Scratch scratch(s, Pass::kForward, threads.count);
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  im2col_forward(s, Type::kFp32, a, scratch.data(), threads);
  EXPECT_LT(relative_error(dst, want), kTolerance);
}

TEST_P(ConvIm2col, BackwardIsTheDirectSumOfBothGradients) {
  std::vector<float> grad_src(src.size()), grad_weights(weights.size());
  std::vector<double> want_src(src.size()), want_weights(weights.size());
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want_src[from] += static_cast<double>(grad[to]) * static_cast<double>(weights[w]);
    want_weights[w] += static_cast<double>(grad[to]) * static_cast<double>(src[from]);
  });
  const bool wants_src = s.c % 16 == 0;  // the stem's images need no gradient
  Scratch scratch(s, Pass::kBackward, threads.count);
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad.data();
  a.grad_src = wants_src ? grad_src.data() : nullptr, a.grad_weights = grad_weights.data();
  im2col_backward(s, Type::kFp32, a, scratch.data(), threads);
  EXPECT_LT(relative_error(grad_weights, want_weights), kTolerance);
  if (wants_src) {
    EXPECT_LT(relative_error(grad_src, want_src), kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ConvIm2col,
    testing::Combine(testing::ValuesIn(instruction_sets()),
                     testing::Values(ConvShape{5, 8, 8, 3, 64, 3, 1, 1},    // CIFAR's stem
                                     ConvShape{3, 15, 15, 3, 64, 7, 2, 3},  // ImageNet's
                                     ConvShape{5, 8, 8, 64, 128, 3, 2, 1},
                                     ConvShape{3, 7, 5, 16, 48, 3, 2, 1},
                                     ConvShape{3, 8, 8, 64, 128, 1, 2, 0},
                                     ConvShape{2, 4, 4, 80, 32, 1, 1, 0})));

}  // namespace
}  // namespace skipway::kernels
