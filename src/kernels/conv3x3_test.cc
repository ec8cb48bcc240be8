#include "kernels/conv3x3.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <thread>

namespace skipway::kernels {
namespace {

// Bounds of the relative L2 error. fp32: a few hundred roundings of 6e-8 each, which the transforms
// amplify. bf16 maps: one rounding of the result, 2^-9 at most. bf16 products: the points amplify
// the roundings of both operands, most where a gradient's mean is zero
// (1.2 %) and where a map fills little of a tile (1.8 % at 2x2).
double tolerance(Numbers numbers) {
  if (numbers.products == Type::kBf16) return 2e-2;
  return numbers.maps == Type::kBf16 ? 1e-2 : 1e-5;
}

std::vector<float> random_values(int64_t count, uint64_t seed, bool rectified = false) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) {
    v = normal(engine);
    if (rectified) v = std::max(v, 0.0f);
  }
  return values;
}

// A map in memory of either type.
struct Stored {
  Type type;
  std::vector<float> wide;
  std::vector<uint16_t> narrow;

  Stored(Type t, const std::vector<float>& values) : type(t) {
    if (t == Type::kFp32) wide = values;
    for (const float v : values) {
      uint32_t bits;
      std::memcpy(&bits, &v, 4);
      if (t == Type::kBf16) narrow.push_back(static_cast<uint16_t>((bits + 0x8000u) >> 16));
    }
  }
  Stored(Type t, int64_t count) : Stored(t, std::vector<float>(static_cast<size_t>(count), -7)) {}

  void* data() { return type == Type::kFp32 ? static_cast<void*>(wide.data()) : narrow.data(); }
  std::vector<double> values() const {
    std::vector<double> out(wide.begin(), wide.end());
    for (const uint16_t half : narrow) {
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      float v;
      std::memcpy(&v, &bits, 4);
      out.push_back(static_cast<double>(v));
    }
    return out;
  }
};

// The sums as they are defined, in float64. Calls term(index of src, of weights, of dst) for every
// product of the convolution.
template <class Term>
void for_each_product(const Conv3x3Shape& s, const Term& term) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t y = 0; y < s.h; ++y)
      for (int64_t x = 0; x < s.w; ++x)
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t q = 0; q < 3; ++q) {
            const int64_t from_y = y + r - 1, from_x = x + q - 1;
            if (from_y < 0 || from_y >= s.h || from_x < 0 || from_x >= s.w) continue;
            const int64_t from = ((n * s.h + from_y) * s.w + from_x) * s.c;
            const int64_t to = ((n * s.h + y) * s.w + x) * s.k;
            for (int64_t k = 0; k < s.k; ++k)
              for (int64_t c = 0; c < s.c; ++c)
                term(static_cast<size_t>(from + c),
                     static_cast<size_t>((k * 9 + 3 * r + q) * s.c + c),
                     static_cast<size_t>(to + k));
          }
}

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

Threads two_threads() {
  return {2, [](const std::function<void(int)>& task) {
            std::thread other(task, 1);
            task(0);
            other.join();
          }};
}

class Scratch {
 public:
  Scratch(const Conv3x3Shape& s, Numbers numbers, Pass pass, int threads)
      : memory_(workspace_bytes(s, numbers, pass, threads) + 64, std::byte{0xFF}) {}
  void* data() {
    void* at = memory_.data();
    size_t space = memory_.size();
    return std::align(64, space - 64, at, space);
  }

 private:
  std::vector<std::byte> memory_;  // NaN wherever it is read before it is written
};

struct Case {
  Conv3x3Shape shape;
  Numbers numbers;
  std::string set;
};

std::vector<Case> cases() {
  const std::vector<Conv3x3Shape> shapes = {
      {2, 32, 32, 64, 64}, {3, 16, 16, 128, 128}, {5, 8, 8, 256, 256},
      {3, 4, 4, 512, 512}, {1, 1, 1, 16, 16},     {3, 5, 7, 16, 48},
      {1, 2, 2, 32, 16},   {7, 4, 4, 80, 96},     {2, 14, 13, 64, 32},
  };
  std::vector<Case> all;
  for (const std::string& set : instruction_sets())
    for (const Numbers numbers :
         {Numbers{}, Numbers{Type::kBf16, Type::kFp32}, Numbers{Type::kBf16, Type::kBf16}})
      for (const Conv3x3Shape& shape : shapes) all.push_back({shape, numbers, set});
  return all;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  const Conv3x3Shape& s = info.param.shape;
  std::string name = info.param.set + (info.param.numbers.maps == Type::kFp32       ? "_fp32"
                                       : info.param.numbers.products == Type::kFp32 ? "_bf16maps"
                                                                                    : "_bf16");
  for (const int64_t v : {s.n, s.h, s.w, s.c, s.k}) name += "_" + std::to_string(v);
  return name;
}

class Conv3x3 : public testing::TestWithParam<Case> {
 protected:
  Conv3x3() { EXPECT_TRUE(use_instruction_set(GetParam().set)); }
  ~Conv3x3() override { use_instruction_set(instruction_sets().front()); }

  const Conv3x3Shape s = GetParam().shape;
  const Numbers numbers = GetParam().numbers;
  const Type type = numbers.maps;
  const int64_t pixels = s.n * s.h * s.w;
  const Threads threads = two_threads();
  const std::vector<float> weights = random_values(s.k * 9 * s.c, 1);
};

TEST_P(Conv3x3, ForwardIsTheDirectSum) {
  Stored src(type, random_values(pixels * s.c, 2, /*rectified=*/true)), dst(type, pixels * s.k);
  std::vector<double> want(static_cast<size_t>(pixels * s.k));
  const std::vector<double> x = src.values();
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want[to] += x[from] * static_cast<double>(weights[w]);
  });
  std::vector<double> sum(static_cast<size_t>(s.k)), squares(static_cast<size_t>(s.k));
  Scratch scratch(s, numbers, Pass::kForward, threads.count);
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  a.sum = sum.data(), a.sum_of_squares = squares.data();
  forward(s, numbers, a, scratch.data(), threads);
  const std::vector<double> got = dst.values();
  EXPECT_LT(relative_error(got, want), tolerance(numbers));
  RecordProperty("relative_error", std::to_string(relative_error(got, want)));

  std::vector<double> want_sum(sum.size()), want_squares(sum.size());
  for (size_t i = 0; i < got.size(); ++i) {
    want_sum[i % sum.size()] += got[i];
    want_squares[i % sum.size()] += got[i] * got[i];
  }
  EXPECT_LT(relative_error(squares, want_squares), tolerance(numbers));
  double scale = 0;
  for (const double square : want_squares) scale += std::sqrt(square * static_cast<double>(pixels));
  for (size_t i = 0; i < sum.size(); ++i)
    EXPECT_NEAR(sum[i], want_sum[i], tolerance(numbers) * scale / static_cast<double>(s.k));
}

TEST_P(Conv3x3, InferenceAddsBiasAndResidualAndRectifies) {
  Stored src(type, random_values(pixels * s.c, 2, true)), dst(type, pixels * s.k),
      residual(type, random_values(pixels * s.k, 3));
  const std::vector<float> bias = random_values(s.k, 4);
  std::vector<double> want = residual.values();
  const std::vector<double> x = src.values();
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want[to] += x[from] * static_cast<double>(weights[w]);
  });
  for (size_t i = 0; i < want.size(); ++i)
    want[i] = std::max(0.0, want[i] + static_cast<double>(bias[i % bias.size()]));
  Scratch scratch(s, numbers, Pass::kForward, threads.count);
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  a.bias = bias.data(), a.residual = residual.data(), a.relu = true;
  forward(s, numbers, a, scratch.data(), threads);
  EXPECT_LT(relative_error(dst.values(), want), tolerance(numbers));
}

TEST_P(Conv3x3, BackwardIsTheDirectSumOfBothGradients) {
  Stored src(type, random_values(pixels * s.c, 2, true)),
      grad_dst(type, random_values(pixels * s.k, 5)), grad_src(type, pixels * s.c);
  std::vector<float> grad_weights(weights.size(), -7);
  std::vector<double> want_src(static_cast<size_t>(pixels * s.c)), want_weights(weights.size());
  const std::vector<double> x = src.values(), g = grad_dst.values();
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want_src[from] += g[to] * static_cast<double>(weights[w]);
    want_weights[w] += g[to] * x[from];
  });
  Scratch scratch(s, numbers, Pass::kBackward, threads.count);
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad_dst.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  backward(s, numbers, a, scratch.data(), threads);
  const std::vector<double> got_weights(grad_weights.begin(), grad_weights.end());
  EXPECT_LT(relative_error(grad_src.values(), want_src), tolerance(numbers));
  EXPECT_LT(relative_error(got_weights, want_weights), tolerance(numbers));
  RecordProperty("relative_error_data",
                 std::to_string(relative_error(grad_src.values(), want_src)));
  RecordProperty("relative_error_weights",
                 std::to_string(relative_error(got_weights, want_weights)));

  // Each alone gives the same bits.
  Stored alone(type, pixels * s.c);
  a.grad_src = alone.data(), a.grad_weights = nullptr;
  backward(s, numbers, a, scratch.data(), threads);
  EXPECT_EQ(alone.values(), grad_src.values());
  std::vector<float> weights_alone(weights.size(), -7);
  a.grad_src = nullptr, a.grad_weights = weights_alone.data();
  backward(s, numbers, a, scratch.data(), threads);
  EXPECT_EQ(weights_alone, grad_weights);
}

TEST_P(Conv3x3, BackwardAppliesBatchNormOnTheWayIn) {
  // A constant that is not small beside the gradient is most of its transform at some points.
  constexpr double kTwice = 2;
  Stored src(type, random_values(pixels * s.c, 2, true)),
      grad_dst(type, random_values(pixels * s.k, 5)), dst(type, random_values(pixels * s.k, 6)),
      grad_src(type, pixels * s.c);
  const std::vector<float> by_grad = random_values(s.k, 7), by_dst = random_values(s.k, 8),
                           constant = random_values(s.k, 9);
  std::vector<float> grad_weights(weights.size(), -7);
  std::vector<double> want_src(static_cast<size_t>(pixels * s.c)), want_weights(weights.size());
  const std::vector<double> x = src.values(), g = grad_dst.values(), y = dst.values();
  std::vector<double> applied(g.size());
  for (size_t i = 0; i < g.size(); ++i) {
    const size_t k = i % by_grad.size();
    applied[i] = static_cast<double>(by_grad[k]) * g[i] + static_cast<double>(by_dst[k]) * y[i] +
                 static_cast<double>(constant[k]);
  }
  for_each_product(s, [&](size_t from, size_t w, size_t to) {
    want_src[from] += applied[to] * static_cast<double>(weights[w]);
    want_weights[w] += applied[to] * x[from];
  });
  Scratch scratch(s, numbers, Pass::kBackward, threads.count);
  BackwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad_dst.data();
  a.dst = dst.data(), a.by_grad = by_grad.data(), a.by_dst = by_dst.data();
  a.constant = constant.data();
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  backward(s, numbers, a, scratch.data(), threads);
  EXPECT_LT(relative_error(grad_src.values(), want_src), kTwice * tolerance(numbers));
  EXPECT_LT(relative_error({grad_weights.begin(), grad_weights.end()}, want_weights),
            kTwice * tolerance(numbers));
}

TEST_P(Conv3x3, SameThreadsGiveSameBits) {
  Stored src(type, random_values(pixels * s.c, 2, true)),
      grad_dst(type, random_values(pixels * s.k, 5));
  const auto run = [&] {
    Stored grad_src(type, pixels * s.c);
    std::vector<float> grad_weights(weights.size());
    Scratch scratch(s, numbers, Pass::kBackward, threads.count);
    BackwardArguments a;
    a.src = src.data(), a.weights = weights.data(), a.grad_dst = grad_dst.data();
    a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
    backward(s, numbers, a, scratch.data(), threads);
    return std::pair(grad_src.values(), grad_weights);
  };
  EXPECT_EQ(run(), run());
}

INSTANTIATE_TEST_SUITE_P(All, Conv3x3, testing::ValuesIn(cases()), case_name);

TEST(Conv3x3Refusal, NamesTheReason) {
  EXPECT_EQ(refusal({2, 8, 8, 64, 64}), "");
  EXPECT_NE(refusal({2, 8, 8, 3, 64}), "");
  EXPECT_NE(refusal({2, 8, 8, 64, 20}), "");
  EXPECT_NE(refusal({0, 8, 8, 64, 64}), "");
  EXPECT_FALSE(use_instruction_set("z80"));
}

}  // namespace
}  // namespace skipway::kernels
