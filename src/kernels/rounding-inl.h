// Rounding of points to bf16 that sees to the error of the results, not of each point.
// Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_ROUNDING_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_ROUNDING_INL_H
#undef SKIPWAY_KERNELS_ROUNDING_INL_H
#else
#define SKIPWAY_KERNELS_ROUNDING_INL_H
#endif

#include <array>

#include "kernels/simd-inl.h"
#include "kernels/transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

template <int kSide>
using Matrix = std::array<std::array<double, kSide>, kSide>;

// T Tᵀ of the matrix T of a transform.
template <class Transform>
Matrix<Transform::kOut> gram() {
  Matrix<Transform::kOut> sum{};
  for (int at = 0; at < Transform::kIn; ++at) {
    V in[Transform::kIn], out[Transform::kOut];
    for (int i = 0; i < Transform::kIn; ++i) in[i] = hn::Set(D(), i == at ? 1.0f : 0.0f);
    Transform::apply(in, out);
    for (int i = 0; i < Transform::kOut; ++i)
      for (int j = 0; j < Transform::kOut; ++j)
        sum[i][j] +=
            static_cast<double>(hn::GetLane(out[i])) * static_cast<double>(hn::GetLane(out[j]));
  }
  return sum;
}

// Errors e of what one side's points are multiplied with reach the results through the same sums,
// so that one can cancel most of another. Of transformed weights, which meet Bᵀ x and go through Aᵀ
// in the forward pass, and meet A g and go through B in the data gradient, both leave a squared
// error of eᵀ Q e with Q = (A Aᵀ) ⊙ (Bᵀ B), where x or g is independent and of mean zero; on a
// square of points eᵀ (Q ⊗ Q) e. Of a gradient's tiles, which meet weights or patches, Q is
// (Bᵀ B) ⊙ (G Gᵀ). With Q = Fᵀ D F, F upper triangular with a diagonal of ones, that is the sum of
// D |F e|²: so each value, beginning with the last, is rounded after the errors of the later ones
// are taken off it. (LDLQ, for weights of language models: arXiv:2307.13304.)
template <int kSide>
class ShapedRounding {
 public:
  static constexpr int kPoints = kSide * kSide;

  // Gauss's elimination of Q, rows divided by their diagonal.
  explicit ShapedRounding(Matrix<kSide> q) {
    for (int i = 0; i < kSide; ++i) {
      for (int j = i + 1; j < kSide; ++j) {
        const double by = q[i][j] / q[i][i];
        for (int l = j; l < kSide; ++l) q[j][l] -= by * q[i][l];
        factors_[i][j] = static_cast<float>(by);
      }
    }
  }

  // Two squares of values, each to sink(point, of the first, of the second) as what is exact in
  // bf16. Two, because each value waits for the one before.
  template <class Sink>
  HWY_NOINLINE void apply(const V (*squares)[kPoints], const Sink& sink) const {
    V below[2][kPoints];  // F e along each row
    unrolled<kSide>([&](auto from_last) HWY_ATTR {
      constexpr int row = kSide - 1 - from_last;
      V of_rows[2][kSide], target[2][kSide];
#pragma GCC unroll 8
      for (int column = 0; column < kSide; ++column) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          V sum = squares[n][row * kSide + column];
#pragma GCC unroll 8
          for (int i = row + 1; i < kSide; ++i)
            sum = hn::NegMulAdd(factor(row, i), below[n][i * kSide + column], sum);
          of_rows[n][column] = target[n][column] = sum;
        }
      }
#pragma GCC unroll 8
      for (int column = kSide - 1; column >= 0; --column) {
        const int point = row * kSide + column;
        V rounded[2];
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          rounded[n] = hn::BitCast(D(), upper_half(rounded_up_half(target[n][column])));
          const V error = hn::Sub(rounded[n], squares[n][point]);
#pragma GCC unroll 8
          for (int j = 0; j < column; ++j)
            target[n][j] = hn::NegMulAdd(factor(j, column), error, target[n][j]);
          below[n][point] = hn::Add(error, hn::Sub(of_rows[n][column], target[n][column]));
        }
        sink(point, rounded[0], rounded[1]);
      }
    });
  }

 private:
  HWY_INLINE V factor(int i, int j) const { return hn::Set(D(), factors_[i][j]); }

  float factors_[kSide][kSide] = {};
};

// Of points that meet those of First, and go through the adjoint of Second, or the other way round.
// One transformed weight may belong to several points.
template <class S, class First, class Second>
const ShapedRounding<S::kTiling.weight_side>& shaped_rounding() {
  static const ShapedRounding<S::kTiling.weight_side> rounding([] {
    const auto first = gram<First>(), second = gram<Second>();
    Matrix<S::kTiling.weight_side> q{};
    for (size_t i = 0; i < first.size(); ++i)
      for (size_t j = 0; j < first.size(); ++j)
        q[S::weight_point(i)][S::weight_point(j)] += first[i][j] * second[i][j];
    return q;
  }());
  return rounding;
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
