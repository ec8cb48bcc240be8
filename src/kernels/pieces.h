// How kernels cut their work and their memory into pieces.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/types.h"

namespace skipway::kernels {

/// Rows of a tile register, and words of a row.
constexpr int64_t kTileSide = 16;
/// What ldtilecfg takes: eight tile registers, all of their size.
struct TileLayout {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
alignas(64) inline constexpr TileLayout kTileLayout;

/// Of a line of the caches.
constexpr int64_t kLineBytes = 64;

/// Columns of a matrix that lie together, row by row: four vectors of AVX-512.
constexpr int64_t kPanel = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Operands in a word of four bytes.
constexpr int64_t values_of_word(Type operands) { return 4 / bytes_of(operands); }

/// Words that are added up to one of operands.
constexpr int64_t parts_of(Type operands) { return operands == Type::kBf16x2 ? 2 : 1; }

/// Offsets of pieces of scratch memory, in words of four bytes; each begins a line of the cache.
struct ScratchOffsets {
  int64_t words = 0;  // taken
  int64_t take(int64_t count) {
    const int64_t begin = words;
    constexpr int64_t kLineWords = kLineBytes / 4;
    words += ceil_div(count, kLineWords) * kLineWords;
    return begin;
  }
};

/// What one of `threads` threads does of `count` equal pieces.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int thread, int threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

/// The columns of a matrix that are one thread's own, in whole panels.
struct Columns {
  int64_t begin, end;
  Columns(int64_t columns, int thread, int threads) {
    const Share panels(ceil_div(columns, kPanel), thread, threads);
    begin = panels.begin * kPanel, end = std::min(columns, panels.end * kPanel);
  }
  int64_t count() const { return end - begin; }
};

/// Adds up two sums a channel that each of `threads` threads left one after the other, in the order
/// of threads.
inline void add_sums(const double* of_threads, int threads, int64_t channels, double* sum,
                     double* other) {
  for (int64_t i = 0; i < channels; ++i) {
    sum[i] = other[i] = 0;
    for (int thread = 0; thread < threads; ++thread) {
      sum[i] += of_threads[thread * 2 * channels + i];
      other[i] += of_threads[thread * 2 * channels + channels + i];
    }
  }
}

}  // namespace skipway::kernels
