// The one-dimensional transforms of F(4,3) at the points 0, ±p, ±q and infinity, on vectors of
// channels. Included once for each instruction set.
//
// With s = p² + q² and p q = 1 the matrices of docs/kernels.md are sparse enough for 12, 8 and 12
// operations. p = 2/3, q = 3/2 had the smallest error of a grid of points (docs/kernels.md).
#if defined(SKIPWAY_KERNELS_TRANSFORMS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#undef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#else
#define SKIPWAY_KERNELS_TRANSFORMS_INL_H
#endif

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

constexpr int kTile = 4;                  // outputs a side
constexpr int kPatch = 6;                 // inputs a side, and points a side
constexpr int kPoints = kPatch * kPatch;  // products of a tile

constexpr float kP = 2.0f / 3, kQ = 1.5f;
constexpr float kP2 = kP * kP, kQ2 = kQ * kQ;
constexpr float kP3 = kP2 * kP, kQ3 = kQ2 * kQ;
constexpr float kS = kP2 + kQ2;

HWY_INLINE V constant(float value) { return hn::Set(D(), value); }
HWY_INLINE V mul_add(float a, V b, V c) { return hn::MulAdd(constant(a), b, c); }
HWY_INLINE V neg_mul_add(float a, V b, V c) { return hn::NegMulAdd(constant(a), b, c); }

// t = Bᵀ x: six pixels to six points.
struct ToPoints {
  static constexpr int kIn = kPatch, kOut = kPatch;
  static HWY_INLINE void apply(const V* x, V* t) {
    const V even_p = neg_mul_add(kQ2, x[2], x[4]);
    const V odd_p = neg_mul_add(kQ2, x[1], x[3]);
    const V even_q = neg_mul_add(kP2, x[2], x[4]);
    const V odd_q = neg_mul_add(kP2, x[1], x[3]);
    t[0] = hn::Add(neg_mul_add(kS, x[2], x[4]), x[0]);
    t[1] = mul_add(kP, odd_p, even_p);
    t[2] = neg_mul_add(kP, odd_p, even_p);
    t[3] = mul_add(kQ, odd_q, even_q);
    t[4] = neg_mul_add(kQ, odd_q, even_q);
    t[5] = hn::Add(neg_mul_add(kS, x[3], x[5]), x[1]);
  }
};

// x = B t, the adjoint of ToPoints.
struct FromPointsAdjoint {
  static constexpr int kIn = kPatch, kOut = kPatch;
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
  static constexpr int kIn = kPatch, kOut = kTile;
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
  static constexpr int kIn = kTile, kOut = kPatch;
  static HWY_INLINE void apply(const V* y, V* m) {
    const V even_p = mul_add(kP2, y[2], y[0]), odd_p = mul_add(kP2, y[3], y[1]);
    const V even_q = mul_add(kQ2, y[2], y[0]), odd_q = mul_add(kQ2, y[3], y[1]);
    m[0] = y[0];
    m[1] = mul_add(kP, odd_p, even_p);
    m[2] = neg_mul_add(kP, odd_p, even_p);
    m[3] = mul_add(kQ, odd_q, even_q);
    m[4] = neg_mul_add(kQ, odd_q, even_q);
    m[5] = y[3];
  }
};

// u = G w: three weights to six points. 1/f of each point: f(0) = p²q² = 1, f(±p) = 2p²(p²-q²),
// f(±q) = 2q²(q²-p²).
constexpr float kGp = 1 / (2 * kP2 * (kP2 - kQ2)), kGq = 1 / (2 * kQ2 * (kQ2 - kP2));

struct WeightsToPoints {
  static constexpr int kIn = 3, kOut = kPatch;
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
  static constexpr int kIn = kPatch, kOut = 3;
  static HWY_INLINE void apply(const V* u, V* w) {
    const V sum_p = hn::Mul(constant(kGp), hn::Add(u[1], u[2]));
    const V sum_q = hn::Mul(constant(kGq), hn::Add(u[3], u[4]));
    const V difference_p = hn::Sub(u[1], u[2]), difference_q = hn::Sub(u[3], u[4]);
    w[0] = hn::Add(u[0], hn::Add(sum_p, sum_q));
    w[1] = mul_add(kGp * kP, difference_p, hn::Mul(constant(kGq * kQ), difference_q));
    w[2] = mul_add(kP2, sum_p, mul_add(kQ2, sum_q, u[5]));
  }
};

// The same transform along rows, then along columns. `load(row, column)` gives a vector,
// `store(row, column, vector)` takes one.
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
