// Matrix products of words: a word is an fp32 value or a pair of bf16 that are multiplied and
// summed together, so that one loop serves both types. Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_PRODUCT_INL_H
#undef SKIPWAY_KERNELS_PRODUCT_INL_H
#else
#define SKIPWAY_KERNELS_PRODUCT_INL_H
#endif

#include <algorithm>
#include <type_traits>

#include "kernels/conv.h"
#include "kernels/instruction_set.h"
#include "kernels/pieces.h"
#include "kernels/simd-inl.h"
#include "kernels/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// A product of words: apply() adds one, store() makes operands of a vector, store_pair() makes
// words of two, which lie `first` before `second` along the depth. Where operands have parts, each
// is so many words, `part`, from the next.
struct Fma {
  using Operand = float;
  static constexpr Type kOperands = Type::kFp32;
  static constexpr int64_t kPerWord = values_of_word(kOperands), kParts = parts_of(kOperands);
  static HWY_INLINE V apply(V a, V b, V sum) { return hn::MulAdd(a, b, sum); }
  static HWY_INLINE void store(V v, float* to) { hn::StoreU(v, D(), to); }
};

// Both products of a pair in fp32, where the processor has no instruction for them.
struct PairByFma {
  using Operand = Bf16;
  static constexpr Type kOperands = Type::kBf16;
  static constexpr int64_t kPerWord = values_of_word(kOperands), kParts = parts_of(kOperands);
  static HWY_INLINE V apply(V a, V b, V sum) {
    const auto low = [](V v) {
      return hn::BitCast(D(), hn::ShiftLeft<16>(hn::BitCast(DBits(), v)));
    };
    const auto high = [](V v) { return hn::BitCast(D(), upper_half(hn::BitCast(DBits(), v))); };
    return hn::MulAdd(high(a), high(b), hn::MulAdd(low(a), low(b), sum));
  }
  static HWY_INLINE void store(V v, Bf16* to, int64_t = 0) { HWY_NAMESPACE::store(v, to); }
  static HWY_INLINE void store_pair(V first, V second, float* to, int64_t = 0) {
    HWY_NAMESPACE::store_pair(first, second, to);
  }
};

#if HWY_TARGET == HWY_AVX3
// Highway 1.0.3 has no names for them. The assembler knows them whatever the compiler's target is.
// They round ties to even.
struct PairByDot {
  using Operand = Bf16;
  static constexpr Type kOperands = Type::kBf16;
  static constexpr int64_t kPerWord = values_of_word(kOperands), kParts = parts_of(kOperands);
  static HWY_INLINE V apply(V a, V b, V sum) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
  static HWY_INLINE void store(V v, Bf16* to, int64_t = 0) {
    __m256i halves;
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(v.raw));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
  }
  static HWY_INLINE void store_pair(V first, V second, float* to, int64_t = 0) {
    __m512i halves;  // all of the first, then all of the second
    __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(halves) : "v"(first.raw), "v"(second.raw));
    alignas(64) static constexpr uint16_t kInTurn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                         21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                         11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kInTurn), halves));
  }
};
using Dot = PairByDot;

// Upper and lower bits of each value, on tile registers: the lower ones are what the rounding of
// the upper ones leaves.
struct TwoPartsByDot {
  using Operand = Bf16;
  static constexpr Type kOperands = Type::kBf16x2;
  static constexpr int64_t kPerWord = 2, kParts = parts_of(kOperands);
  static HWY_INLINE void store(V v, Bf16* to, int64_t part) {
    PairByDot::store(v, to);
    PairByDot::store(hn::Sub(v, load(to)), to + part * kPerWord);
  }
  static HWY_INLINE void store_pair(V first, V second, float* to, int64_t part) {
    PairByDot::store_pair(first, second, to);
    const Bits upper = hn::BitCast(DBits(), load(to));
    const V of_first = hn::BitCast(D(), hn::ShiftLeft<16>(upper)),
            of_second = hn::BitCast(D(), upper_half(upper));
    PairByDot::store_pair(hn::Sub(first, of_first), hn::Sub(second, of_second), to + part);
  }
};
#else
using Dot = PairByFma;
#endif

// Calls pass(Types<T, Op>) with the type of maps and the product.
template <class T, class Op>
struct Types {};

template <class Pass>
void with_types(Numbers numbers, const Pass& pass) {
  if (numbers.maps == Type::kFp32)
    pass(Types<float, Fma>());
  else if (numbers.products == Type::kFp32)
    pass(Types<Bf16, Fma>());
  else if (dot_in_use())
    pass(Types<Bf16, Dot>());
  else
    pass(Types<Bf16, PairByFma>());
}

/// C[rows,columns] (+)= A[rows,depth] * B[depth,columns], all in words; C in fp32.
struct Product {
  int64_t rows, columns, depth;
  const float* a;
  int64_t a_row, a_step;  // words from a row to the next, and from a step of the depth to the next
  const float* b;
  int64_t b_panel;  // words from a panel of 64 columns to the next
  int64_t b_step;   // words from a step of the depth to the next; 0: as many as the panel is wide
  float* c;
  int64_t c_row;
  bool add;
  const Bf16* ahead = nullptr;  // what will be B next, if that is not what lies behind it
};

// 128 words of 64 columns are 32 KiB: the part of B that stays in the first-level cache while the
// rows pass over it.
constexpr int64_t kDepthPart = 128;

// kRows * kVectors sums live in registers: 24 of 32 (AVX-512), 12 of 16 (AVX2). kVectors of B
// and one of A are in flight. Eight sums hide the latency of four cycles at two a cycle. Each step
// of the depth also brings kLines lines of `ahead` into the second-level cache.
template <class Op, int kRows, int kVectors, int kLines = 0>
HWY_NOINLINE void micro_kernel(int64_t depth, const float* HWY_RESTRICT a, int64_t a_row,
                               int64_t a_step, const float* HWY_RESTRICT b, int64_t b_step,
                               float* HWY_RESTRICT c, int64_t c_row, bool add,
                               const char* ahead = nullptr, int64_t ahead_step_bytes = 0) {
  const D d;
  const size_t n = lanes();
  V sum[kRows][kVectors];
  // Every loop over sums is unrolled by name, and sums begin with zeros whatever `add` says: else
  // GCC keeps them in memory between the loops, which takes as long as six steps of the depth.
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::Zero(d);
  for (int64_t step = 0; step < depth; ++step) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) right[j] = hn::LoadU(d, b + j * n);
    for (int line = 0; line < kLines; ++line)
      __builtin_prefetch(ahead + line * kLineBytes, /*write=*/0, /*second-level cache=*/2);
    ahead += ahead_step_bytes;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V left = hn::Set(d, a[i * a_row]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[i][j] = Op::apply(left, right[j], sum[i][j]);
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      float* at = c + i * c_row + j * n;
      hn::StoreU(add ? hn::Add(hn::LoadU(d, at), sum[i][j]) : sum[i][j], d, at);
    }
  }
}

#if HWY_TARGET == HWY_AVX3
constexpr int kMaxVectors = 4;
#else
constexpr int kMaxVectors = 2;
#endif

// All rows of one strip of kVectors vectors, over one part of the depth. B is read from memory by
// the first rows and from the cache by the others: the first two groups of rows fetch half each of
// the part that comes next, or those that begin it would wait.
template <class Op, int kVectors>
void strip(const Product& p, const float* a, const float* b, int64_t b_step, int64_t depth,
           float* c, bool add, int64_t column) {
  // One group is enough where all vectors of a step are one line.
  constexpr int64_t kFetching = kVectors * sizeof(V) > kLineBytes ? 12 : 6;
  int64_t row = 0;
  const auto fetch = [&](auto lines, const void* next, int64_t step_bytes) {
    for (; row < std::min(kFetching, p.rows - 5); row += 6)
      micro_kernel<Op, 6, kVectors, lines>(
          depth, a + row * p.a_row, p.a_row, p.a_step, b, b_step, c + row * p.c_row, p.c_row, add,
          static_cast<const char*>(next) + row / 6 * lines * kLineBytes, step_bytes);
  };
  if (p.ahead != nullptr)
    fetch(std::integral_constant<int, 1>(), p.ahead + column, 2 * b_step);
  else
    fetch(std::integral_constant<int, std::max(1, kVectors / 2)>(), b + kDepthPart * b_step,
          4 * b_step);
  const auto run = [&](auto kernel, int64_t height) {
    // Eight rows that are left are two times four, which are faster than six and two.
    for (; row + height <= p.rows && (height != 6 || p.rows - row != 8); row += height)
      kernel(depth, a + row * p.a_row, p.a_row, p.a_step, b, b_step, c + row * p.c_row, p.c_row,
             add, nullptr, 0);
  };
  run(micro_kernel<Op, 6, kVectors>, 6);
  run(micro_kernel<Op, 4, kVectors>, 4);
  run(micro_kernel<Op, 2, kVectors>, 2);
  run(micro_kernel<Op, 1, kVectors>, 1);
}

// From step `first` of the depth on.
template <class Op>
void multiply_vectors(const Product& p, int64_t first = 0) {
  const int64_t n = static_cast<int64_t>(lanes());
  for (int64_t panel = 0; panel < p.columns; panel += kPanel) {
    const int64_t width = std::min(kPanel, p.columns - panel);
    const int64_t b_step = p.b_step == 0 ? width : p.b_step;
    for (int64_t begin = first; begin < p.depth; begin += kDepthPart) {
      const int64_t depth = std::min(kDepthPart, p.depth - begin);
      const bool add = p.add || begin > 0;
      const float* a = p.a + begin * p.a_step;
      for (int64_t column = 0; column < width;) {
        const float* b = p.b + panel / kPanel * p.b_panel + begin * b_step + column;
        float* c = p.c + panel + column;
        const int64_t vectors = std::min<int64_t>(kMaxVectors, (width - column) / n);
        switch (vectors) {
#if HWY_TARGET == HWY_AVX3
          case 4:
            strip<Op, 4>(p, a, b, b_step, depth, c, add, column);
            break;
          case 3:
            strip<Op, 3>(p, a, b, b_step, depth, c, add, column);
            break;
#endif
          case 2:
            strip<Op, 2>(p, a, b, b_step, depth, c, add, column);
            break;
          default:
            strip<Op, 1>(p, a, b, b_step, depth, c, add, column);
        }
        column += vectors * n;
      }
    }
  }
}

#if HWY_TARGET == HWY_AVX3
// 256 words of 32 columns, and of 32 rows, are 32 KiB each.
constexpr int64_t kTileDepth = 256;

// With tile registers, which are set up, what fills them; the rest with vectors.
inline void multiply_in_tiles(const Product& p) {
  const int64_t rows = p.rows / kTileSide * kTileSide, depth = p.depth / kTileSide * kTileSide;
  if (rows == 0 || depth == 0) return multiply_vectors<PairByDot>(p);
  const auto strip = [&](const LeftTiles& left, int64_t row, int64_t column, int64_t begin,
                         int64_t of_depth) {
    const int64_t panel = column / kPanel * kPanel, width = std::min(kPanel, p.columns - panel);
    const int64_t b_step = p.b_step == 0 ? width : p.b_step;
    multiply_tiles_of(rows - row, panel + width - column, left,
                      p.b + panel / kPanel * p.b_panel + begin * b_step + column - panel, b_step,
                      of_depth, p.c + row * p.c_row + column, p.c_row, p.add || begin > 0);
  };
  for (int64_t begin = 0; begin < depth; begin += kTileDepth) {
    const int64_t of_depth = std::min(kTileDepth, depth - begin);
    if (p.a_step == 1) {
      for (int64_t column = 0; column < p.columns; column += 2 * kTileSide)
        for (int64_t row = 0; row < rows; row += 2 * kTileSide)
          strip({p.a + row * p.a_row + begin, p.a_row, kTileSide * p.a_row, kTileSide}, row, column,
                begin, of_depth);
      continue;
    }
    // Columns of the left side lie together: turned round once for all columns of the right one.
    HWY_ALIGN float turned[2 * kTileSide * kTileDepth];
    for (int64_t row = 0; row < rows; row += 2 * kTileSide) {
      for (int64_t i = row; i < std::min(row + 2 * kTileSide, rows); i += kTileSide)
        for (int64_t step = 0; step < of_depth; step += kTileSide)
          transpose_16x16(p.a + i * p.a_row + (begin + step) * p.a_step, p.a_step,
                          turned + (i - row) * kTileDepth + step * kTileSide, kTileSide);
      for (int64_t column = 0; column < p.columns; column += 2 * kTileSide)
        strip({turned, kTileSide, kTileSide * kTileDepth, kTileSide * kTileSide}, row, column,
              begin, of_depth);
    }
  }
  if (depth < p.depth) {
    Product rest = p;
    rest.rows = rows;
    multiply_vectors<PairByDot>(rest, depth);
  }
  if (rows < p.rows) {
    Product rest = p;
    rest.rows -= rows, rest.a += rows * p.a_row, rest.c += rows * p.c_row;
    multiply_vectors<PairByDot>(rest);
  }
}

#endif

// Multiplies, while it lives: `const Multiply<Op> multiply; multiply(product);`. Where words are
// pairs, a_row or a_step is 1.
template <class Op>
struct Multiply {
  void operator()(const Product& p) const { multiply_vectors<Op>(p); }
};
#if HWY_TARGET == HWY_AVX3
template <>
struct Multiply<PairByDot> {
  void operator()(const Product& p) const {
    registers.in_use() ? multiply_in_tiles(p) : multiply_vectors<PairByDot>(p);
  }
  TileRegisters registers;  // setting them up costs as much as a small product
};
#endif

// Multiply<Fma> with B in bf16, in panels of 64 columns one after the other: half the bytes to
// fetch where few rows are multiplied with many weights. Parts of it are widened into the
// first-level cache.
inline void multiply_widened(const Product& p, const Bf16* b) {
  HWY_ALIGN float part[kDepthPart * kPanel];
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t panel = 0; panel < p.columns; panel += kPanel) {
    const int64_t width = std::min(kPanel, p.columns - panel);
    for (int64_t begin = 0; begin < p.depth; begin += kDepthPart) {
      const int64_t depth = std::min(kDepthPart, p.depth - begin);
      const Bf16* from = b + panel * p.depth + begin * width;
      for (int64_t i = 0; i < depth * width; i += step) store(load(from + i), part + i);
      multiply_vectors<Fma>({p.rows, width, depth, p.a + begin * p.a_step, p.a_row, p.a_step, part,
                             0, 0, p.c + panel, p.c_row, p.add || begin > 0, from + depth * width});
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
