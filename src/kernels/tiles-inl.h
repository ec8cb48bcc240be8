// Matrix products of bf16 pairs on Intel's tile registers (AMX): tdpbf16ps multiplies 16 rows of 16
// words with 16 steps of 16 columns. Included once for each instruction set; empty but for AVX-512.
#if defined(SKIPWAY_KERNELS_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_TILES_INL_H
#undef SKIPWAY_KERNELS_TILES_INL_H
#else
#define SKIPWAY_KERNELS_TILES_INL_H
#endif

#include <type_traits>

#include "kernels/instruction_set.h"
#include "kernels/pieces.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX3

// The tile registers are this thread's while one of these lives, where the instruction set in use
// has them: eight of 16 rows. Whoever else uses them, oneDNN for one, sets them up anew.
class TileRegisters {
 public:
  TileRegisters() {
    if (in_use_) __asm__ volatile("ldtilecfg %0" : : "m"(kTileLayout));
  }
  ~TileRegisters() {
    if (in_use_) __asm__ volatile("tilerelease");
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  bool in_use() const { return in_use_; }

 private:
  const bool in_use_ = tiles_in_use();
};

// Registers by number; the compiler knows none of them. `row`: words from a row to the next.
template <int kRegister>
HWY_INLINE void load_tile(const float* from, int64_t row) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(row * 4), "i"(kRegister)
                   : "memory");
}
template <int kRegister>
HWY_INLINE void store_tile(float* to, int64_t row) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(to), "r"(row * 4), "i"(kRegister)
                   : "memory");
}
template <int kRegister>
HWY_INLINE void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}
template <int kSum, int kLeft, int kRight>
HWY_INLINE void dot_tiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

// The left side of a product: words from a row to the next, from 16 rows to the next, and from 16
// steps of the depth to the next.
struct LeftTiles {
  const float* first;
  int64_t row, rows, steps;
};

// Registers 0 to 3 are sums of kRows by kColumns tiles, 4 and 5 their left sides, 6 and 7 their
// right ones. Calls one(register, where it lies in c) for each sum.
template <int kRows, int kColumns, class One>
HWY_INLINE void for_each_sum(float* c, int64_t c_row, const One& one) {
  one(std::integral_constant<int, 0>(), c);
  if constexpr (kColumns == 2) one(std::integral_constant<int, 1>(), c + kTileSide);
  if constexpr (kRows == 2) one(std::integral_constant<int, 2>(), c + kTileSide * c_row);
  if constexpr (kRows == 2 && kColumns == 2)
    one(std::integral_constant<int, 3>(), c + kTileSide * c_row + kTileSide);
}

// Adds products over so many steps of the depth to the sums in registers.
template <int kRows, int kColumns>
HWY_INLINE void add_products(const LeftTiles& left, const float* b, int64_t b_step, int64_t depth) {
  const float* a = left.first;
  for (int64_t step = 0; step < depth; step += kTileSide) {
    load_tile<6>(b, b_step);
    if constexpr (kColumns == 2) load_tile<7>(b + kTileSide, b_step);
    load_tile<4>(a, left.row);
    dot_tiles<0, 4, 6>();
    if constexpr (kColumns == 2) dot_tiles<1, 4, 7>();
    if constexpr (kRows == 2) {
      load_tile<5>(a + left.rows, left.row);
      dot_tiles<2, 5, 6>();
      if constexpr (kColumns == 2) dot_tiles<3, 5, 7>();
    }
    a += left.steps;
    b += kTileSide * b_step;
  }
}

// C (+)= A B of kRows by kColumns tiles.
template <int kRows, int kColumns>
HWY_NOINLINE void multiply_tiles(const LeftTiles& left, const float* b, int64_t b_step,
                                 int64_t depth, float* c, int64_t c_row, bool add) {
  if (add)
    for_each_sum<kRows, kColumns>(
        c, c_row, [&](auto tile, float* at) HWY_ATTR { load_tile<tile>(at, c_row); });
  else
    for_each_sum<kRows, kColumns>(c, c_row, [&](auto tile, float*) HWY_ATTR { zero_tile<tile>(); });
  add_products<kRows, kColumns>(left, b, b_step, depth);
  for_each_sum<kRows, kColumns>(
      c, c_row, [&](auto tile, float* at) HWY_ATTR { store_tile<tile>(at, c_row); });
}

template <class... Arguments>
void multiply_tiles_of(int64_t rows, int64_t columns, const Arguments&... arguments) {
  if (rows > kTileSide)
    columns > kTileSide ? multiply_tiles<2, 2>(arguments...) : multiply_tiles<2, 1>(arguments...);
  else
    columns > kTileSide ? multiply_tiles<1, 2>(arguments...) : multiply_tiles<1, 1>(arguments...);
}

// Adds products of blocks in two parts, upper and lower bits, the lower ones behind the upper ones:
// all but that of the lower parts with each other.
HWY_INLINE void add_products_of_parts(const float* a, const float* b, int64_t blocks) {
  constexpr int64_t kTile = kTileSide * kTileSide, kPart = 2 * kTile;
  const auto load_left = [&](const float* from) HWY_ATTR {
    load_tile<4>(from, kTileSide);
    load_tile<5>(from + kTile, kTileSide);
  };
  const auto load_right = [&](const float* from) HWY_ATTR {
    load_tile<6>(from, 2 * kTileSide);
    load_tile<7>(from + kTileSide, 2 * kTileSide);
  };
  const auto multiply = [] {
    dot_tiles<0, 4, 6>();
    dot_tiles<1, 4, 7>();
    dot_tiles<2, 5, 6>();
    dot_tiles<3, 5, 7>();
  };
  for (int64_t block = 0; block < blocks; ++block, a += 2 * kPart, b += 2 * kPart) {
    load_right(b + kPart), load_left(a), multiply();
    load_right(b), multiply();
    load_left(a + kPart), multiply();
  }
}

// The sum of products of 32 rows with 32 columns, which begin at so many words of left and right:
// each of so many blocks of 32 rows of 16 words, and of 16 words of 32 columns.
template <int64_t kParts, class Operands>
void sum_of_tiles(const Operands* all, int64_t count, int64_t blocks, const float* left,
                  const float* right, float* c, int64_t c_row) {
  constexpr int64_t kTile = kTileSide * kTileSide;
  for_each_sum<2, 2>(c, c_row, [&](auto tile, float*) HWY_ATTR { zero_tile<tile>(); });
  for (int64_t i = 0; i < count; ++i) {
    const float *a = left + all[i].left, *b = right + all[i].right;
    if constexpr (kParts == 1)
      add_products<2, 2>({a, kTileSide, kTile, 2 * kTile}, b, 2 * kTileSide, blocks * kTileSide);
    else
      add_products_of_parts(a, b, blocks);
  }
  for_each_sum<2, 2>(c, c_row, [&](auto tile, float* at) HWY_ATTR { store_tile<tile>(at, c_row); });
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
