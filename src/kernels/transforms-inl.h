// The one-dimensional transforms of both schemes at the points ±p, ±q, infinity and, for stride 1,
// 0, on vectors of channels. Included once for each instruction set.
//
// With s = p² + q² and p q = 1 the matrices of docs/kernels.md are sparse. p = 2/3, q = 3/2 had the
// smallest error of a grid of points (docs/kernels.md).
#if defined(SKIPWAY_KERNELS_TRANSFORMS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#undef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#else
#define SKIPWAY_KERNELS_TRANSFORMS_INL_H
#endif

#include <algorithm>

#include "kernels/simd-inl.h"
#include "kernels/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

constexpr float kP = 2.0f / 3, kQ = 1.5f;
constexpr float kP2 = kP * kP, kQ2 = kQ * kQ;
constexpr float kP3 = kP2 * kP, kQ3 = kQ2 * kQ;
constexpr float kS = kP2 + kQ2;

HWY_INLINE V constant(float value) { return hn::Set(D(), value); }
HWY_INLINE V mul_add(float a, V b, V c) { return hn::MulAdd(constant(a), b, c); }
HWY_INLINE V neg_mul_add(float a, V b, V c) { return hn::NegMulAdd(constant(a), b, c); }

// What both schemes share, at the points ±p, ±q and infinity: t of five pixels, …
HWY_INLINE void five_to_points(const V* x, V* t) {
  const V even_p = neg_mul_add(kQ2, x[1], x[3]), odd_p = neg_mul_add(kQ2, x[0], x[2]);
  const V even_q = neg_mul_add(kP2, x[1], x[3]), odd_q = neg_mul_add(kP2, x[0], x[2]);
  t[0] = mul_add(kP, odd_p, even_p);
  t[1] = neg_mul_add(kP, odd_p, even_p);
  t[2] = mul_add(kQ, odd_q, even_q);
  t[3] = neg_mul_add(kQ, odd_q, even_q);
  t[4] = hn::Add(neg_mul_add(kS, x[2], x[4]), x[0]);
}

// … and m of a gradient's four.
HWY_INLINE void four_to_points_adjoint(const V* y, V* m) {
  const V even_p = mul_add(kP2, y[2], y[0]), odd_p = mul_add(kP2, y[3], y[1]);
  const V even_q = mul_add(kQ2, y[2], y[0]), odd_q = mul_add(kQ2, y[3], y[1]);
  m[0] = mul_add(kP, odd_p, even_p);
  m[1] = neg_mul_add(kP, odd_p, even_p);
  m[2] = mul_add(kQ, odd_q, even_q);
  m[3] = neg_mul_add(kQ, odd_q, even_q);
  m[4] = y[3];
}

// F(4x4,3x3): overlapping patches of 6x6 pixels.
struct Stride1 {
  static constexpr int kStride = 1;  // pixels from an output to the next
  static constexpr int kPatch = patch_side(kStride), kPoints = points_of_tile(kStride);
  static constexpr float kGp = 1 / (2 * kP2 * (kP2 - kQ2)), kGq = 1 / (2 * kQ2 * (kQ2 - kP2));
  // Which of the transformed weights belongs to a point.
  static constexpr int64_t weight_point(int64_t point) { return point; }

  // t = Bᵀ x: six pixels to six points.
  struct ToPoints {
    static constexpr int kIn = 6, kOut = 6;
    static HWY_INLINE void apply(const V* x, V* t) {
      t[0] = hn::Add(neg_mul_add(kS, x[2], x[4]), x[0]);
      five_to_points(x + 1, t + 1);
    }
  };

  // x = B t, the adjoint of ToPoints.
  struct FromPointsAdjoint {
    static constexpr int kIn = 6, kOut = 6;
    static HWY_INLINE void apply(const V* t, V* x) {
      const V sum_p = hn::Add(t[1], t[2]), difference_p = hn::Sub(t[1], t[2]);
      const V sum_q = hn::Add(t[3], t[4]), difference_q = hn::Sub(t[3], t[4]);
      x[0] = t[0];
      // p q² = q and q p² = p.
      x[1] = neg_mul_add(kQ, difference_p, neg_mul_add(kP, difference_q, t[5]));
      x[2] = neg_mul_add(kQ2, sum_p, neg_mul_add(kP2, sum_q, hn::Mul(constant(-kS), t[0])));
      x[3] = mul_add(kP, difference_p, neg_mul_add(kS, t[5], hn::Mul(constant(kQ), difference_q)));
      x[4] = hn::Add(t[0], hn::Add(sum_p, sum_q));
      x[5] = t[5];
    }
  };

  // y = Aᵀ m: six points to four outputs.
  struct FromPoints {
    static constexpr int kIn = 6, kOut = 4;
    static HWY_INLINE void apply(const V* m, V* y) {
      const V sum_p = hn::Add(m[1], m[2]), difference_p = hn::Sub(m[1], m[2]);
      const V sum_q = hn::Add(m[3], m[4]), difference_q = hn::Sub(m[3], m[4]);
      y[0] = hn::Add(m[0], hn::Add(sum_p, sum_q));
      y[1] = mul_add(kP, difference_p, hn::Mul(constant(kQ), difference_q));
      y[2] = mul_add(kP2, sum_p, hn::Mul(constant(kQ2), sum_q));
      y[3] = mul_add(kP3, difference_p, mul_add(kQ3, difference_q, m[5]));
    }
  };

  // m = A y, the adjoint of FromPoints: a gradient's four pixels to six points.
  struct ToPointsAdjoint {
    static constexpr int kIn = 4, kOut = 6;
    static HWY_INLINE void apply(const V* y, V* m) {
      m[0] = y[0];
      four_to_points_adjoint(y, m + 1);
    }
  };

  // u = G w: three weights to six points. 1/f'(a) of each point a: f'(0) = p²q² = 1,
  // f'(±p) = 2p²(p²-q²), f'(±q) = 2q²(q²-p²).
  struct WeightsToPoints {
    static constexpr int kIn = 3, kOut = 6;
    static HWY_INLINE void apply(const V* w, V* u) {
      const V even_p = hn::Mul(constant(kGp), mul_add(kP2, w[2], w[0]));
      const V odd_p = hn::Mul(constant(kGp * kP), w[1]);
      const V even_q = hn::Mul(constant(kGq), mul_add(kQ2, w[2], w[0]));
      const V odd_q = hn::Mul(constant(kGq * kQ), w[1]);
      u[0] = w[0];
      u[1] = hn::Add(even_p, odd_p);
      u[2] = hn::Sub(even_p, odd_p);
      u[3] = hn::Add(even_q, odd_q);
      u[4] = hn::Sub(even_q, odd_q);
      u[5] = w[2];
    }
  };

  // w = Gᵀ u, the adjoint of WeightsToPoints.
  struct WeightsFromPointsAdjoint {
    static constexpr int kIn = 6, kOut = 3;
    static HWY_INLINE void apply(const V* u, V* w) {
      const V sum_p = hn::Mul(constant(kGp), hn::Add(u[1], u[2]));
      const V sum_q = hn::Mul(constant(kGq), hn::Add(u[3], u[4]));
      const V difference_p = hn::Sub(u[1], u[2]), difference_q = hn::Sub(u[3], u[4]);
      w[0] = hn::Add(u[0], hn::Add(sum_p, sum_q));
      w[1] = mul_add(kGp * kP, difference_p, hn::Mul(constant(kGq * kQ), difference_q));
      w[2] = mul_add(kP2, sum_p, mul_add(kQ2, sum_q, u[5]));
    }
  };
};

// Polyphase: at stride 2, the outer weights meet the odd pixels x[0], x[2] … of a patch alone, and
// the middle one the even ones between them. F(4,2) serves the first at five points; the second
// needs a product for each result. Patches of 9x9 pixels, 81 products instead of 144.
struct Stride2 {
  static constexpr int kStride = 2;
  static constexpr int kPatch = patch_side(kStride), kPoints = points_of_tile(kStride);
  // 1/f'(a): f'(±p) = ±2p(p²-q²), f'(±q) = ±2q(q²-p²).
  static constexpr float kGp = 1 / (2 * kP * (kP2 - kQ2)), kGq = 1 / (2 * kQ * (kQ2 - kP2));
  // The last four points of a side have the middle weight.
  static constexpr int64_t weight_point(int64_t point) {
    constexpr int64_t kLast = kWeightSide - 1;
    return std::min(point / kPatch, kLast) * kWeightSide + std::min(point % kPatch, kLast);
  }

  struct ToPoints {
    static constexpr int kIn = 9, kOut = 9;
    static HWY_INLINE void apply(const V* x, V* t) {
      const V odd_pixels[] = {x[0], x[2], x[4], x[6], x[8]};
      five_to_points(odd_pixels, t);
      for (int i = 0; i < 4; ++i) t[5 + i] = x[2 * i + 1];
    }
  };

  struct FromPointsAdjoint {
    static constexpr int kIn = 9, kOut = 9;
    static HWY_INLINE void apply(const V* t, V* x) {
      const V sum_p = hn::Add(t[0], t[1]), difference_p = hn::Sub(t[0], t[1]);
      const V sum_q = hn::Add(t[2], t[3]), difference_q = hn::Sub(t[2], t[3]);
      // p q² = q and q p² = p.
      x[0] = neg_mul_add(kQ, difference_p, neg_mul_add(kP, difference_q, t[4]));
      x[2] = neg_mul_add(kQ2, sum_p, hn::Mul(constant(-kP2), sum_q));
      x[4] = mul_add(kP, difference_p, neg_mul_add(kS, t[4], hn::Mul(constant(kQ), difference_q)));
      x[6] = hn::Add(sum_p, sum_q);
      x[8] = t[4];
      for (int i = 0; i < 4; ++i) x[2 * i + 1] = t[5 + i];
    }
  };

  struct FromPoints {
    static constexpr int kIn = 9, kOut = 4;
    static HWY_INLINE void apply(const V* m, V* y) {
      const V sum_p = hn::Add(m[0], m[1]), difference_p = hn::Sub(m[0], m[1]);
      const V sum_q = hn::Add(m[2], m[3]), difference_q = hn::Sub(m[2], m[3]);
      y[0] = hn::Add(m[5], hn::Add(sum_p, sum_q));
      y[1] = mul_add(kP, difference_p, mul_add(kQ, difference_q, m[6]));
      y[2] = mul_add(kP2, sum_p, mul_add(kQ2, sum_q, m[7]));
      y[3] = mul_add(kP3, difference_p, mul_add(kQ3, difference_q, hn::Add(m[4], m[8])));
    }
  };

  struct ToPointsAdjoint {
    static constexpr int kIn = 4, kOut = 9;
    static HWY_INLINE void apply(const V* y, V* m) {
      four_to_points_adjoint(y, m);
      for (int i = 0; i < 4; ++i) m[5 + i] = y[i];
    }
  };

  struct WeightsToPoints {
    static constexpr int kIn = 3, kOut = 6;
    static HWY_INLINE void apply(const V* w, V* u) {
      const V first_p = hn::Mul(constant(kGp), w[0]), first_q = hn::Mul(constant(kGq), w[0]);
      u[0] = mul_add(kGp * kP, w[2], first_p);
      u[1] = hn::Sub(hn::Mul(constant(kGp * kP), w[2]), first_p);
      u[2] = mul_add(kGq * kQ, w[2], first_q);
      u[3] = hn::Sub(hn::Mul(constant(kGq * kQ), w[2]), first_q);
      u[4] = w[2];
      u[5] = w[1];
    }
  };

  struct WeightsFromPointsAdjoint {
    static constexpr int kIn = 6, kOut = 3;
    static HWY_INLINE void apply(const V* u, V* w) {
      w[0] = hn::MulAdd(constant(kGp), hn::Sub(u[0], u[1]),
                        hn::Mul(constant(kGq), hn::Sub(u[2], u[3])));
      w[1] = u[5];
      w[2] = mul_add(kGp * kP, hn::Add(u[0], u[1]), mul_add(kGq * kQ, hn::Add(u[2], u[3]), u[4]));
    }
  };
};

// The same transform along rows, then along columns. `load_at(row, column)` gives a
// vector, `store_at(row, column, vector)` takes one.
template <class Transform, class Load, class Store>
HWY_INLINE void transform_2d(const Load& load_at, const Store& store_at) {
  constexpr int kIn = Transform::kIn, kOut = Transform::kOut;
  V half[kIn][kOut];
  for (int row = 0; row < kIn; ++row) {
    V in[kIn];
    for (int column = 0; column < kIn; ++column) in[column] = load_at(row, column);
    Transform::apply(in, half[row]);
  }
  for (int column = 0; column < kOut; ++column) {
    V in[kIn], out[kOut];
    for (int row = 0; row < kIn; ++row) in[row] = half[row][column];
    Transform::apply(in, out);
    for (int row = 0; row < kOut; ++row) store_at(row, column, out[row]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
