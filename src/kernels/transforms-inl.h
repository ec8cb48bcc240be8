// The one-dimensional transforms of all schemes, at pairs of points ±a, infinity and, for stride 1,
// 0, on vectors of channels. Included once for each instruction set.
//
// A pair shares its arithmetic: the polynomial that vanishes at all other points has an even and an
// odd part, which are added for a and subtracted for -a. scripts/winograd_points.py has the
// matrices, docs/kernels.md says how the points were chosen.
#if defined(SKIPWAY_KERNELS_TRANSFORMS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#undef SKIPWAY_KERNELS_TRANSFORMS_INL_H
#else
#define SKIPWAY_KERNELS_TRANSFORMS_INL_H
#endif

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/simd-inl.h"
#include "kernels/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// body(0), body(1) … with the number as a constant.
template <int kCount, class Body>
HWY_INLINE void unrolled(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) HWY_ATTR {
    (body(std::integral_constant<int, i>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

HWY_INLINE V constant(float value) { return hn::Set(D(), value); }
// Factors are constants where these are inlined. Those of one are left out: an addition does not
// wait for the units that multiply.
HWY_INLINE V mul(float a, V b) { return a == 1 ? b : hn::Mul(constant(a), b); }
HWY_INLINE V mul_add(float a, V b, V c) {
  return a == 1 ? hn::Add(b, c) : hn::MulAdd(constant(a), b, c);
}

// sum of coefficients[i] * x[i * kStep].
template <int kStep, size_t kCount>
HWY_INLINE V dot(const std::array<float, kCount>& coefficients, const V* x) {
  constexpr int kLast = static_cast<int>(kCount) - 1;
  V sum = mul(coefficients[kLast], x[kLast * kStep]);
  for (int i = kLast; --i >= 0;) sum = mul_add(coefficients[i], x[i * kStep], sum);
  return sum;
}

// The points ±a of a tile with kPairs of them, and the polynomials that follow from them.
template <int kPairs>
struct Points {
  static constexpr std::array<double, kPairs> points() {
    if constexpr (kPairs == 1) return {1};
    if constexpr (kPairs == 2) return {2.0 / 3, 1.5};
  }
  static constexpr std::array<double, kPairs> kExact = points();
  static constexpr float a(int i) { return static_cast<float>(kExact[i]); }

  // Coefficients of the product of y - a² over all pairs, or all but one.
  template <int kFactors>
  static constexpr std::array<float, kFactors + 1> product(int without) {
    std::array<double, kFactors + 1> c{1};
    int degree = 0;
    for (int i = 0; i < kPairs; ++i) {
      if (i == without) continue;
      const double square = kExact[i] * kExact[i];
      ++degree;
      for (int j = degree; j >= 0; --j) c[j] = (j > 0 ? c[j - 1] : 0) - square * c[j];
    }
    std::array<float, kFactors + 1> rounded{};
    for (int j = 0; j <= kFactors; ++j) rounded[j] = static_cast<float>(c[j]);
    return rounded;
  }
  static constexpr std::array<float, kPairs + 1> kAll = product<kPairs>(-1);
  static constexpr std::array<float, kPairs> others(int i) { return product<kPairs - 1>(i); }

  static constexpr float power(int i, int exponent) {
    double value = 1;
    for (int e = 0; e < exponent; ++e) value *= kExact[i];
    return static_cast<float>(value);
  }
  // The product of the differences between a and all other points but 0: a * f'(a) / a² where 0 is
  // one of them, f'(a) else.
  static constexpr double slope(int i) {
    const std::array<float, kPairs> g = others(i);
    double at_a = 0;
    for (int j = kPairs; --j >= 0;)
      at_a = at_a * static_cast<double>(power(i, 2)) + static_cast<double>(g[j]);
    return 2 * kExact[i] * at_a;
  }

  // t of 2 kPairs + 1 values x at stride kStep, at ±a for each pair and infinity.
  template <int kStep>
  static HWY_INLINE void to_points(const V* x, V* t) {
    unrolled<kPairs>([&](auto pair) HWY_ATTR {
      constexpr int i = pair;
      constexpr std::array<float, kPairs> g = others(i);
      const V odd = dot<2 * kStep>(g, x), even = dot<2 * kStep>(g, x + kStep);
      t[2 * i] = mul_add(a(i), odd, even);
      t[2 * i + 1] = mul_add(-a(i), odd, even);
    });
    t[2 * kPairs] = dot<2 * kStep>(kAll, x);
  }

  // The adjoint of to_points.
  template <int kStep>
  static HWY_INLINE void from_points_adjoint(const V* t, V* x) {
    for (int j = 0; j <= kPairs; ++j) x[2 * j * kStep] = mul(kAll[j], t[2 * kPairs]);
    unrolled<kPairs>([&](auto pair) HWY_ATTR {
      constexpr int i = pair;
      constexpr std::array<float, kPairs> g = others(i);
      const V sum = hn::Add(t[2 * i], t[2 * i + 1]), difference = hn::Sub(t[2 * i], t[2 * i + 1]);
      for (int j = 0; j < kPairs; ++j) {
        V* at = x + 2 * j * kStep;
        at[0] = mul_add(a(i) * g[j], difference, at[0]);
        at[kStep] = i == 0 ? mul(g[j], sum) : mul_add(g[j], sum, at[kStep]);
      }
    });
  }

  // y of 2 kPairs outputs from m at ±a for each pair, added to y.
  static HWY_INLINE void add_from_points(const V* m, V* y) {
    unrolled<kPairs>([&](auto pair) HWY_ATTR {
      constexpr int i = pair;
      const V sum = hn::Add(m[2 * i], m[2 * i + 1]), difference = hn::Sub(m[2 * i], m[2 * i + 1]);
      y[0] = hn::Add(y[0], sum);
      for (int j = 1; j < 2 * kPairs; ++j)
        y[j] = mul_add(power(i, j), j % 2 == 0 ? sum : difference, y[j]);
    });
  }

  // m of a gradient's 2 kPairs values at ±a for each pair, and infinity.
  static HWY_INLINE void to_points_adjoint(const V* y, V* m) {
    unrolled<kPairs>([&](auto pair) HWY_ATTR {
      constexpr int i = pair;
      V even = y[0], odd = mul(a(i), y[1]);
      for (int j = 2; j < 2 * kPairs; j += 2) {
        even = mul_add(power(i, j), y[j], even);
        odd = mul_add(power(i, j + 1), y[j + 1], odd);
      }
      m[2 * i] = hn::Add(even, odd);
      m[2 * i + 1] = hn::Sub(even, odd);
    });
    m[2 * kPairs] = y[2 * kPairs - 1];
  }
};

// F(m x m,3x3) with m = 2 kPairs: overlapping patches of m + 2 pixels a side.
template <int kPairs>
struct Stride1 {
  using At = Points<kPairs>;
  static constexpr Tiling kTiling = tiling_of_stride1(2 * kPairs);
  static constexpr int kTile = kTiling.tile, kPatch = kTiling.patch;
  // Which of the transformed weights belongs to a point.
  static constexpr int64_t weight_point(int64_t point) { return point; }

  // t = Bᵀ x: the pixels of a patch to as many points.
  struct ToPoints {
    static constexpr int kIn = kPatch, kOut = kPatch;
    static HWY_INLINE void apply(const V* x, V* t) {
      t[0] = dot<2>(At::kAll, x);
      At::template to_points<1>(x + 1, t + 1);
    }
  };

  // x = B t, the adjoint of ToPoints.
  struct FromPointsAdjoint {
    static HWY_INLINE void apply(const V* t, V* x) {
      At::template from_points_adjoint<1>(t + 1, x + 1);
      x[0] = mul(At::kAll[0], t[0]);
      for (int j = 1; j <= kPairs; ++j) x[2 * j] = mul_add(At::kAll[j], t[0], x[2 * j]);
    }
  };

  // y = Aᵀ m: points to outputs.
  struct FromPoints {
    static constexpr int kIn = kPatch, kOut = kTile;
    static HWY_INLINE void apply(const V* m, V* y) {
      for (int j = 1; j < kTile - 1; ++j) y[j] = hn::Zero(D());
      y[0] = m[0], y[kTile - 1] = m[kPatch - 1];
      At::add_from_points(m + 1, y);
    }
  };

  // m = A y, the adjoint of FromPoints: a gradient's pixels to points.
  struct ToPointsAdjoint {
    static constexpr int kIn = kTile, kOut = kPatch;
    static HWY_INLINE void apply(const V* y, V* m) {
      m[0] = y[0];
      At::to_points_adjoint(y, m + 1);
    }
  };

  // f'(a) of a point a: a * slope(a), and at 0 the product of all -a².
  static constexpr float kGain0 = 1 / At::kAll[0];
  static constexpr float gain(int i) {
    return static_cast<float>(1 / (At::kExact[i] * At::slope(i)));
  }

  // u = G w: three weights to as many points as a patch has.
  struct WeightsToPoints {
    static constexpr int kIn = 3, kOut = kPatch;
    static HWY_INLINE void apply(const V* w, V* u) {
      u[0] = mul(kGain0, w[0]);
      unrolled<kPairs>([&](auto pair) HWY_ATTR {
        constexpr int i = pair;
        const V even = mul_add(gain(i) * At::power(i, 2), w[2], mul(gain(i), w[0]));
        const V odd = mul(gain(i) * At::a(i), w[1]);
        u[2 * i + 1] = hn::Add(even, odd);
        u[2 * i + 2] = hn::Sub(even, odd);
      });
      u[kPatch - 1] = w[2];
    }
  };

  // w = Gᵀ u, the adjoint of WeightsToPoints.
  struct WeightsFromPointsAdjoint {
    static constexpr int kIn = kPatch, kOut = 3;
    static HWY_INLINE void apply(const V* u, V* w) {
      w[0] = mul(kGain0, u[0]), w[1] = hn::Zero(D()), w[2] = u[kPatch - 1];
      unrolled<kPairs>([&](auto pair) HWY_ATTR {
        constexpr int i = pair;
        const V sum = hn::Add(u[2 * i + 1], u[2 * i + 2]);
        w[0] = mul_add(gain(i), sum, w[0]);
        w[1] = mul_add(gain(i) * At::a(i), hn::Sub(u[2 * i + 1], u[2 * i + 2]), w[1]);
        w[2] = mul_add(gain(i) * At::power(i, 2), sum, w[2]);
      });
    }
  };
};

// Polyphase: at stride 2, the outer weights meet the odd pixels x[0], x[2] … of a patch alone, and
// the middle one the even ones between them. F(4,2) serves the first at five points; the second
// needs a product for each result. Patches of 9x9 pixels, 81 products instead of 144.
struct Stride2 {
  using At = Points<2>;
  static constexpr Tiling kTiling = kStride2Tiling;
  static constexpr int kTile = kTiling.tile, kPatch = kTiling.patch;
  static constexpr float gain(int i) { return static_cast<float>(1 / At::slope(i)); }
  // The last four points of a side have the middle weight.
  static constexpr int64_t weight_point(int64_t point) {
    const int64_t last = kTiling.weight_side - 1;
    return std::min(point / kPatch, last) * kTiling.weight_side + std::min(point % kPatch, last);
  }

  struct ToPoints {
    static constexpr int kIn = 9, kOut = 9;
    static HWY_INLINE void apply(const V* x, V* t) {
      At::to_points<2>(x, t);
      for (int i = 0; i < 4; ++i) t[5 + i] = x[2 * i + 1];
    }
  };

  struct FromPointsAdjoint {
    static HWY_INLINE void apply(const V* t, V* x) {
      At::from_points_adjoint<2>(t, x);
      for (int i = 0; i < 4; ++i) x[2 * i + 1] = t[5 + i];
    }
  };

  struct FromPoints {
    static constexpr int kIn = 9, kOut = 4;
    static HWY_INLINE void apply(const V* m, V* y) {
      for (int i = 0; i < 4; ++i) y[i] = m[5 + i];
      y[3] = hn::Add(m[4], y[3]);
      At::add_from_points(m, y);
    }
  };

  struct ToPointsAdjoint {
    static constexpr int kIn = 4, kOut = 9;
    static HWY_INLINE void apply(const V* y, V* m) {
      At::to_points_adjoint(y, m);
      for (int i = 0; i < 4; ++i) m[5 + i] = y[i];
    }
  };

  struct WeightsToPoints {
    static constexpr int kIn = 3, kOut = 6;
    static HWY_INLINE void apply(const V* w, V* u) {
      unrolled<2>([&](auto pair) HWY_ATTR {
        constexpr int i = pair;
        const V first = mul(gain(i), w[0]);
        const V last = mul(gain(i) * At::a(i), w[2]);
        u[2 * i] = hn::Add(last, first);
        u[2 * i + 1] = hn::Sub(last, first);
      });
      u[4] = w[2];
      u[5] = w[1];
    }
  };

  struct WeightsFromPointsAdjoint {
    static constexpr int kIn = 6, kOut = 3;
    static HWY_INLINE void apply(const V* u, V* w) {
      w[0] = hn::Zero(D()), w[1] = u[5], w[2] = u[4];
      unrolled<2>([&](auto pair) HWY_ATTR {
        constexpr int i = pair;
        w[0] = mul_add(gain(i), hn::Sub(u[2 * i], u[2 * i + 1]), w[0]);
        w[2] = mul_add(gain(i) * At::a(i), hn::Add(u[2 * i], u[2 * i + 1]), w[2]);
      });
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
