// The passes of the Winograd convolutions: blocks of tiles go through transform, products and
// transform back while they are in the second-level cache. S is a scheme of transforms-inl.h.
// Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_WINOGRAD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_WINOGRAD_INL_H
#undef SKIPWAY_KERNELS_WINOGRAD_INL_H
#else
#define SKIPWAY_KERNELS_WINOGRAD_INL_H
#endif

#include "kernels/fusion-inl.h"
#include "kernels/product-inl.h"
#include "kernels/rounding-inl.h"
#include "kernels/transforms-inl.h"
#include "kernels/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// A square of pixels of an NHWC map that may hang over the border, where it reads zeros.
template <class T>
struct Window {
  const T* first;  // its upper left pixel; may lie outside
  int64_t row_stride, pixel_stride;
  int64_t row_begin, row_end, column_begin, column_end;  // what of it lies inside
  bool full;

  Window(const T* map, int64_t height, int64_t width, int64_t channels, int64_t image, int64_t y,
         int64_t x, int64_t side)
      : first(map + ((image * height + y) * width + x) * channels),
        row_stride(width * channels),
        pixel_stride(channels),
        row_begin(std::max<int64_t>(0, -y)),
        row_end(std::min(side, height - y)),
        column_begin(std::max<int64_t>(0, -x)),
        column_end(std::min(side, width - x)),
        full(row_begin == 0 && column_begin == 0 && row_end == side && column_end == side) {}

  HWY_INLINE bool contains(int64_t row, int64_t column) const {
    return row >= row_begin && row < row_end && column >= column_begin && column < column_end;
  }
  HWY_INLINE int64_t offset(int64_t row, int64_t column) const {
    return row * row_stride + column * pixel_stride;
  }
};

// Where a tile lies in the result.
struct Place {
  int64_t image, y, x;
  HWY_INLINE Place(const Blocks& blocks, int64_t tile_side, int64_t tile) {
    const int64_t of_image = blocks.rows * blocks.columns, rest = tile % of_image;
    image = tile / of_image;
    y = rest / blocks.columns * tile_side;
    x = rest % blocks.columns * tile_side;
  }
};

// The patches that a forward pass reads.
template <class S, class T, bool kNormalise>
struct Patches : Source<T, kNormalise> {
  using Transform = typename S::ToPoints;
  static constexpr bool kShaped = false;
  static constexpr int64_t kTile = S::kTile;
  int64_t channels;

  template <class Arguments>
  Patches(const Arguments& a, int64_t c) : Source<T, kNormalise>(a), channels(c) {}

  HWY_INLINE Window<T> window(const ConvShape& s, const Place& at) const {
    return {this->map,           s.h,      s.w, channels, at.image, s.stride * at.y - 1,
            s.stride * at.x - 1, S::kPatch};
  }
};

// The tiles of a gradient.
template <class S, class T, bool kBatchNorm>
struct GradientTiles : Gradient<T, kBatchNorm> {
  using Transform = typename S::ToPointsAdjoint;
  static constexpr bool kShaped = S::kTiling.points() == S::kTiling.weight_points();
  static constexpr int64_t kTile = S::kTile;
  int64_t channels;

  GradientTiles(const BackwardArguments& a, int64_t k) : Gradient<T, kBatchNorm>(a), channels(k) {}

  // In the data gradient they meet weights and go through B, in the other they meet patches.
  static const auto& rounding() {
    return shaped_rounding<S, typename S::ToPoints, typename S::WeightsToPoints>();
  }

  HWY_INLINE Window<T> window(const ConvShape& s, const Place& at) const {
    return {this->map, s.out_h(), s.out_w(), channels, at.image, at.y, at.x, S::kTile};
  }
};

// One tile, some channels: to its points, each handed to `sink(point, vector)`.
template <class Source, class Sink>
HWY_INLINE void tile_to_points(const Source& source, const Window<typename Source::Map>& window,
                               int64_t channel, const Sink& sink) {
  using Transform = typename Source::Transform;
  const auto store_at = [&](int row, int column, V v)
                            HWY_ATTR { sink(row * Transform::kOut + column, v); };
  if (window.full) {
    transform_2d<Transform>(
        [&](int row, int column) HWY_ATTR {
          return source.at(window.first + window.offset(row, column) + channel, channel);
        },
        store_at);
  } else {
    transform_2d<Transform>(
        [&](int row, int column) HWY_ATTR {
          if (!window.contains(row, column)) return hn::Zero(D());
          return source.at(window.first + window.offset(row, column) + channel, channel);
        },
        store_at);
  }
}

// Tiles to points, as operands of a product. fp32 has one layout, [point][tile][channel]. bf16:
// `by_channel` is that, in words of neighbouring channels; `by_tile` is [point][tile / 2][channel],
// in words of neighbouring tiles, with zeros after an odd one. Either may be null.
template <class Op, class Source>
void block_to_points(const Source& source, const ConvShape& shape, const Blocks& blocks,
                     const Part& part, int64_t plane, float* by_channel, float* by_tile) {
  using Operand = typename Op::Operand;
  constexpr int kPoints = Source::Transform::kOut * Source::Transform::kOut;
  const int64_t channels = source.channels, step = static_cast<int64_t>(lanes());
  // Where one tile is as wide or high as the map, errors are the largest beside the results, and
  // tiles are few.
  const bool shaped = Source::kShaped && (blocks.rows == 1 || blocks.columns == 1);
  const Share mine = part.share(ceil_div(part.tiles, 2));
  for (int64_t tile = 2 * mine.begin; tile < std::min(2 * mine.end, part.tiles); tile += 2) {
    const bool two = tile + 1 < part.tiles;
    const auto first = source.window(shape, Place(blocks, Source::kTile, part.first_tile + tile));
    const auto second =
        source.window(shape, Place(blocks, Source::kTile, part.first_tile + tile + (two ? 1 : 0)));
    for (int64_t channel = 0; channel < channels; channel += step) {
      const auto store_by_channel = [&](int64_t of_tile, int point, V v) HWY_ATTR {
        Op::store(v, reinterpret_cast<Operand*>(by_channel + point * plane) + of_tile * channels +
                         channel);
      };
      if constexpr (Op::kPerWord == 2) {
        if (by_tile != nullptr || shaped) {
          V kept[2][kPoints];
          const auto keep = [&](const auto& window, V* points) HWY_ATTR {
            tile_to_points(source, window, channel,
                           [&](int point, V v) HWY_ATTR { points[point] = v; });
          };
          const auto store_both = [&](int point, V of_first, V of_second) HWY_ATTR {
            if (by_tile != nullptr)
              Op::store_pair(of_first, of_second,
                             by_tile + point * plane + tile / 2 * channels + channel);
            if (by_channel == nullptr) return;
            store_by_channel(tile, point, of_first);
            if (two) store_by_channel(tile + 1, point, of_second);
          };
          keep(first, kept[0]);
          if (two)
            keep(second, kept[1]);
          else
            for (V& point : kept[1]) point = hn::Zero(D());
          if constexpr (Source::kShaped) {
            if (shaped) {
              Source::rounding().apply(kept, store_both);
              continue;
            }
          }
          for (int point = 0; point < kPoints; ++point)
            store_both(point, kept[0][point], kept[1][point]);
          continue;
        }
      }
      tile_to_points(source, first, channel,
                     [&](int point, V v) HWY_ATTR { store_by_channel(tile, point, v); });
      if (two)
        tile_to_points(source, second, channel,
                       [&](int point, V v) HWY_ATTR { store_by_channel(tile + 1, point, v); });
    }
  }
}

// For a vector of channels that is written at each point soon: planes lie too far apart for a
// processor to foresee it.
template <class S>
HWY_INLINE void prefetch_points(const float* at, int64_t plane) {
  for (int64_t point = 0; point < S::kTiling.weight_points(); ++point)
    __builtin_prefetch(at + point * plane, 1);
}

// Words of the transformed weights that transform(i, sink) and transform(i + 1, sink) give.
template <class S, class Op, class Transform>
HWY_INLINE void store_shaped(int64_t i, const Transform& transform, float* to, int64_t plane) {
  V weights[2][S::kTiling.weight_points()];
  for (int64_t of_word = 0; of_word < 2; ++of_word)
    transform(i + of_word, [&](int point, V v) HWY_ATTR { weights[of_word][point] = v; });
  shaped_rounding<S, typename S::ToPoints, typename S::ToPointsAdjoint>().apply(
      weights, [&](int point, V first, V second)
                   HWY_ATTR { Op::store_pair(first, second, to + point * plane); });
}

// [k,3,3,c] -> [point][panel of 64 k][c][k of the panel]: the right side of the forward products.
// bf16: words of two neighbouring c.
template <class S, class Op>
void weights_to_points(const ConvShape& s, const float* weights, int64_t plane, float* to,
                       Share c_groups) {
  const int64_t step = static_cast<int64_t>(lanes());
  // Turned round before the transform, where there are 9 values and not one a point.
  HWY_ALIGN float turned[kWidest][9][kPanel];  // [c][tap][k]
  for (int64_t panel = 0; panel < s.k; panel += kPanel) {
    const int64_t width = std::min(kPanel, s.k - panel);
    for (int64_t c = c_groups.begin * kWidest; c < c_groups.end * kWidest; c += kWidest) {
      for (int64_t k = 0; k < width; k += 4) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const float* from = weights + ((panel + k) * 9 + tap) * s.c + c;
          for (int64_t row = 0; row < 4; ++row)
            __builtin_prefetch(from + row * 9 * s.c + kWidest);  // of the next c
          for (int64_t i = 0; i < kWidest; i += 4)
            transpose_4x4(from + i, 9 * s.c, &turned[i][tap][k], 9 * kPanel);
        }
      }
      for (int64_t i = 0; i < kWidest; i += Op::kPerWord) {
        float* row = to + (panel * s.c + (c + i) * width) / Op::kPerWord;
        for (int64_t k = 0; k < width; k += step) {
          if (begins_line<float>(k)) prefetch_points<S>(row + width + k, plane);
          const auto transform = [&](int64_t of_c, const auto& sink) HWY_ATTR {
            transform_2d<typename S::WeightsToPoints>(
                [&](int y, int x) HWY_ATTR { return load(&turned[of_c][3 * y + x][k]); },
                [&](int y, int x, V v) HWY_ATTR { sink(y * S::kTiling.weight_side + x, v); });
          };
          if constexpr (Op::kPerWord == 1) {
            transform(i, [&](int point, V v) HWY_ATTR { store(v, row + k + point * plane); });
          } else {
            store_shaped<S, Op>(i, transform, row + k, plane);
          }
        }
      }
    }
  }
}

// [k,3,3,c] -> [point][panel of 64 c][k][c of the panel]: the right side of the data gradient's
// products. bf16: words of two neighbouring k.
template <class S, class Op>
void weights_to_points_transposed(const ConvShape& s, const float* weights, int64_t plane,
                                  float* to, Share k_pairs) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t k = k_pairs.begin * 2; k < k_pairs.end * 2; k += 2) {
    for (int64_t c = 0; c < s.c; c += step) {
      const int64_t panel = c / kPanel * kPanel, width = std::min(kPanel, s.c - panel);
      const auto transform = [&](int64_t of_k, const auto& sink) HWY_ATTR {
        const float* from = weights + of_k * 9 * s.c + c;
        if (begins_line<float>(c))
          for (int64_t tap = 0; tap < 9; ++tap)
            __builtin_prefetch(from + tap * s.c + kLineBytes / sizeof(float));
        transform_2d<typename S::WeightsToPoints>(
            [&](int row, int column) HWY_ATTR { return load(from + (3 * row + column) * s.c); },
            [&](int row, int column, V v)
                HWY_ATTR { sink(row * S::kTiling.weight_side + column, v); });
      };
      float* at = to + (panel * s.k + k * width) / Op::kPerWord + c - panel;
      if (begins_line<float>(c))
        for (int64_t row = 2 / Op::kPerWord; row < 4 / Op::kPerWord; ++row)
          prefetch_points<S>(at + row * width, plane);
      if constexpr (Op::kPerWord == 1) {
        transform(k, [&](int point, V v) HWY_ATTR { store(v, at + point * plane); });
        transform(k + 1, [&](int point, V v) HWY_ATTR { store(v, at + point * plane + width); });
      } else {
        store_shaped<S, Op>(k, transform, at, plane);
      }
    }
  }
}

// The products of a block with the weights, at each point: [tiles,depth] times [depth,columns], in
// words.
template <class S, class Op>
void multiply_points(int64_t tiles, int64_t depth, Columns columns, const float* left,
                     int64_t left_plane, const float* weights, int64_t weights_plane,
                     float* products, int64_t product_plane, int64_t product_row) {
  const Multiply<Op> multiply;
  for (int64_t point = 0; point < S::kTiling.points(); ++point) {
    multiply({tiles, columns.count(), depth, left + point * left_plane, depth, 1,
              weights + S::weight_point(point) * weights_plane + columns.begin * depth,
              depth * kPanel, 0, products + point * product_plane + columns.begin, product_row,
              false});
  }
}

// For pixels of `map` that `ending` takes soon.
template <class T, class Ending>
HWY_INLINE void prefetch(const Window<T>& window, const T* map, int64_t channel,
                         const Ending& ending) {
  if (!begins_line<T>(channel)) return;
  for (int64_t row = window.row_begin; row < window.row_end; ++row)
    for (int64_t column = window.column_begin; column < window.column_end; ++column)
      ending.prefetch(window.first - map + window.offset(row, column) + channel);
}

// Products of a block back to pixels.
template <class S, class T, class Ending>
void block_from_points(const ConvShape& s, const Blocks& blocks, const Part& part, Columns channels,
                       const float* products, int64_t plane, const T* dst, const Ending& of_all) {
  Ending result = of_all;
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t channel = channels.begin; channel < channels.end; channel += step) {
    result.open(channel);
    const auto window_of = [&](int64_t tile) HWY_ATTR {
      const Place at(blocks, S::kTile, part.first_tile + tile);
      return Window<T>(dst, s.out_h(), s.out_w(), s.k, at.image, at.y, at.x, S::kTile);
    };
    Window<T> next = window_of(0);
    for (int64_t tile = 0; tile < part.tiles; ++tile) {
      const Window<T> window = next;
      if (tile + 1 < part.tiles) {
        next = window_of(tile + 1);
        prefetch(next, dst, channel, result);
      }
      const float* from = products + tile * s.k + channel;
      const auto load_at = [&](int row, int column)
                               HWY_ATTR { return load(from + (row * S::kPatch + column) * plane); };
      const auto put = [&](int row, int column, V v) HWY_ATTR {
        result.put(window.first - dst + window.offset(row, column) + channel, v);
      };
      if (window.full) {
        transform_2d<typename S::FromPoints>(load_at, put);
      } else {
        transform_2d<typename S::FromPoints>(load_at, [&](int row, int column, V v) HWY_ATTR {
          if (window.contains(row, column)) put(row, column, v);
        });
      }
    }
    result.close(channel);
  }
}

// Overlapping patches of a block added up to the gradient of src: along a row of tiles in
// registers, from a row of tiles to the next in `strip`, which has the pixels that both reach.
template <class S, class T, class Ending>
void block_from_points_adjoint(const ConvShape& s, const Blocks& blocks, const Part& part,
                               Columns channels, const float* products, int64_t plane, float* strip,
                               const T* grad_src, const Ending& of_all) {
  using Transform = typename S::FromPointsAdjoint;
  Ending ending = of_all;
  const int64_t step = static_cast<int64_t>(lanes());
  constexpr int kPatch = S::kPatch, kStep = S::kTiling.step, kOverlap = kPatch - kStep;  // pixels
  constexpr int64_t kAhead = 2;  // tiles from one to what is asked for meanwhile, of any image
  const int64_t of_image = blocks.rows * blocks.columns;
  for (int64_t i = 0; i < part.tiles / of_image; ++i) {
    const int64_t image = part.first_tile / of_image + i;
    for (int64_t channel = channels.begin; channel < channels.end; channel += step) {
      ending.open(channel);
      for (int64_t tile_row = 0; tile_row < blocks.rows; ++tile_row) {
        // The first row and column of patches are the padding above and to the left.
        const int64_t top = tile_row * kStep - 1;
        const bool first = tile_row == 0, last = tile_row + 1 == blocks.rows;
        // Column x of the map, of which `points` has a column of a patch.
        const auto finish = [&](int64_t x, const V* points) HWY_ATTR {
          if (x < 0 || x >= s.w) return;
          V pixels[kPatch];
          Transform::apply(points, pixels);
          float* shared = strip + x * kOverlap * step;
          for (int row = 0; row < kOverlap; ++row) {
            if (!first) pixels[row] = hn::Add(pixels[row], load(shared + row * step));
            if (!last) store(pixels[kStep + row], shared + row * step);
          }
          const int64_t to = ((image * s.h + top) * s.w + x) * s.c + channel;
          for (int row = 0; row < kPatch; ++row)
            if ((row < kStep || last) && top + row >= 0 && top + row < s.h)
              ending.put(to + row * s.w * s.c, pixels[row]);
        };
        V right[kOverlap][kPatch];  // what of a patch the next one reaches too
        for (auto& column : right)
          for (V& points : column) points = hn::Zero(D());
        for (int64_t tile_column = 0; tile_column < blocks.columns; ++tile_column) {
          const int64_t tile = (i * blocks.rows + tile_row) * blocks.columns + tile_column;
          const int64_t left = tile_column * kStep - 1;
          if (tile + kAhead < part.tiles) {
            const Place next(blocks, kStep, part.first_tile + tile + kAhead);
            prefetch(Window<T>(grad_src, s.h, s.w, s.c, next.image, next.y, next.x, kStep),
                     grad_src, channel, ending);
          }
          const float* from = products + tile * s.c + channel;
          V columns[kPatch][kPatch];
          // Unrolled by name, or a column's pixels would lie in memory between its loops.
#pragma GCC unroll 9
          for (int row = 0; row < kPatch; ++row) {
            V points[kPatch], pixels[kPatch];
            for (int column = 0; column < kPatch; ++column)
              points[column] = load(from + (row * kPatch + column) * plane);
            Transform::apply(points, pixels);
            for (int column = 0; column < kPatch; ++column) columns[column][row] = pixels[column];
          }
          for (int column = 0; column < kOverlap; ++column) {
            for (int row = 0; row < kPatch; ++row) {
              columns[column][row] = hn::Add(columns[column][row], right[column][row]);
              right[column][row] = columns[kStep + column][row];
            }
          }
#pragma GCC unroll 9
          for (int column = 0; column < kStep; ++column) finish(left + column, columns[column]);
        }
        for (int column = 0; column < kOverlap; ++column)
          finish(blocks.columns * kStep - 1 + column, right[column]);
      }
      ending.close(channel);
    }
  }
}

// Some rows of the gradient of the weights, summed over teams; `from` has the first row.
template <class S>
void grad_weights_from_points(const ConvShape& s, const float* from, int64_t plane, int teams,
                              int64_t team_words, int64_t first_k, int64_t end_k,
                              float* grad_weights) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t k = first_k; k < end_k; ++k, from += s.c) {
    for (int64_t c = 0; c < s.c; c += step) {
      float* to = grad_weights + k * 9 * s.c + c;
      transform_2d<typename S::WeightsFromPointsAdjoint>(
          [&](int row, int column) HWY_ATTR {
            const float* at = from + (row * S::kTiling.weight_side + column) * plane + c;
            V sum = load(at);
            for (int team = 1; team < teams; ++team)
              sum = hn::Add(sum, load(at + team * team_words));
            return sum;
          },
          [&](int row, int column, V v) HWY_ATTR { store(v, to + (3 * row + column) * s.c); });
    }
  }
}

// The weights of a forward pass, in words of [point][c * k].
template <class S, class Op>
void prepare_pass(const ConvShape& s, const float* weights, float* to, const Threads& threads) {
  const int64_t plane = weights_plane_of(s, Op::kOperands);
  threads.run([&](int thread) {
    weights_to_points<S, Op>(s, weights, plane, to, Share(s.c / kWidest, thread, threads.count));
  });
}

// The patches of the source, behind BatchNorm and ReLU if the arguments say so.
template <class S, class T, class Op, class Arguments>
void src_to_points(const ConvShape& s, const Arguments& a, const Blocks& blocks, const Part& part,
                   int64_t plane, float* by_channel, float* by_tile) {
  const auto read = [&](const auto& patches) {
    block_to_points<Op>(patches, s, blocks, part, plane, by_channel, by_tile);
  };
  a.src_scale != nullptr ? read(Patches<S, T, true>(a, s.c)) : read(Patches<S, T, false>(a, s.c));
}

template <class S, class T, class Op>
void forward_pass(const ConvShape& s, const ForwardArguments& a, float* scratch,
                  const Threads& threads) {
  const Workspace at(s, Op::kOperands, Sweep::kForward, threads.count);
  const Blocks& blocks = at.blocks;
  const float* weights = static_cast<const float*>(a.prepared);
  if (weights == nullptr) {
    prepare_pass<S, Op>(s, a.weights, scratch + at.weights, threads);
    weights = scratch + at.weights;
  }
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  std::fill(sums, sums + threads.count * 2 * s.k, 0.0);
  const auto read_src = [&](const Part& part) {
    src_to_points<S, T, Op>(s, a, blocks, part, at.src_plane,
                            scratch + part.team * at.team_words + at.src, nullptr);
  };
  const auto write_dst = [&](const Part& part) {
    float* memory = scratch + part.team * at.team_words;
    const Columns columns = part.columns(s.k);
    multiply_points<S, Op>(part.tiles, s.c / Op::kPerWord, columns, memory + at.src, at.src_plane,
                           weights, at.weights_plane, memory + at.products, at.product_plane, s.k);
    write_result<T>(a, s.k, sums + part.thread * 2 * s.k, [&](const auto& result) {
      block_from_points<S>(s, blocks, part, columns, memory + at.products, at.product_plane,
                           static_cast<const T*>(a.dst), result);
    });
  };
  for_each_block(blocks, threads, read_src, write_dst);
  if (a.sum != nullptr) add_sums(sums, threads.count, s.k, a.sum, a.sum_of_squares);
}

template <class S, class T, class Op>
void backward_sweep(const ConvShape& s, const BackwardArguments& a, Sweep sweep, float* scratch,
                    const Threads& threads) {
  constexpr bool kPairs = Op::kPerWord == 2;
  const Workspace at(s, Op::kOperands, sweep, threads.count);
  const Blocks& blocks = at.blocks;
  float* weights = scratch + at.weights;
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  if (to_source(sweep)) {
    std::fill(sums, sums + threads.count * 2 * s.c, 0.0);
    threads.run([&](int thread) {
      weights_to_points_transposed<S, Op>(s, a.weights, at.weights_plane, weights,
                                          Share(s.k / 2, thread, threads.count));
    });
  }
  const auto read_grad_dst = [&](const Part& part) {
    float* memory = scratch + part.team * at.team_words;
    const auto read = [&](const auto& gradient) {
      block_to_points<Op>(gradient, s, blocks, part, at.dst_plane,
                          to_source(sweep) || !kPairs ? memory + at.dst : nullptr,
                          to_weights(sweep) && kPairs ? memory + at.dst_pairs : nullptr);
    };
    a.dst != nullptr ? read(GradientTiles<S, T, true>(a, s.k))
                     : read(GradientTiles<S, T, false>(a, s.k));
  };
  const auto write_grad_src = [&](const Part& part) {
    if (!to_source(sweep)) return;
    float* memory = scratch + part.team * at.team_words;
    const Columns columns = part.columns(s.c);
    multiply_points<S, Op>(part.tiles, s.k / Op::kPerWord, columns, memory + at.dst, at.dst_plane,
                           weights, at.weights_plane, memory + at.products, at.product_plane, s.c);
    write_source_gradient<T>(a, s.c, sums + part.thread * 2 * s.c, [&](const auto& grad_src) {
      block_from_points_adjoint<S>(s, blocks, part, columns, memory + at.products, at.product_plane,
                                   scratch + at.strips + part.thread * at.strip_words,
                                   static_cast<const T*>(a.grad_src), grad_src);
    });
  };
  const auto read_src = [&](const Part& part) {
    if (!to_weights(sweep)) return;
    float* src = scratch + part.team * at.team_words + at.src;
    src_to_points<S, T, Op>(s, a, blocks, part, at.src_plane, kPairs ? nullptr : src,
                            kPairs ? src : nullptr);
  };
  const auto add_grad_weights = [&](const Part& part) {
    if (!to_weights(sweep)) return;
    float* memory = scratch + part.team * at.team_words;
    float* sum = memory + at.grad_weights + part.rank * at.thread_grad_weights;
    const Share rows = part.share(s.k / kWidest);
    const int64_t at_once = blocks.shared ? shared_rows(Op::kOperands) : s.k,
                  stop = rows.end * kWidest;
    const Multiply<Op> multiply;
    for (int64_t row = rows.begin * kWidest; row < stop; row += at_once) {
      const int64_t end = std::min(row + at_once, stop);
      bool begun[S::kTiling.weight_points()] = {};
      for (int64_t point = 0; point < S::kTiling.points(); ++point) {
        const int64_t of_weights = S::weight_point(point);
        multiply({end - row, s.c, ceil_div(part.tiles, Op::kPerWord),
                  memory + at.dst_pairs + point * at.dst_plane + row, 1, s.k,
                  memory + at.src + point * at.src_plane, kPanel, s.c,
                  sum + of_weights * at.grad_weights_plane, s.c, !part.first || begun[of_weights]});
        begun[of_weights] = true;
      }
      if (blocks.shared)
        grad_weights_from_points<S>(s, sum, at.grad_weights_plane, 1, 0, row, end, a.grad_weights);
    }
  };
  for_each_block(blocks, threads, read_grad_dst, write_grad_src, read_src, add_grad_weights);
  if (to_source(sweep) && a.sum != nullptr)
    add_sums(sums, threads.count, s.c, a.sum, a.sum_with_src);
  if (!to_weights(sweep) || blocks.shared) return;
  threads.run([&](int thread) {
    const Share of_k(s.k, thread, threads.count);
    grad_weights_from_points<S>(s, scratch + at.grad_weights + of_k.begin * s.c,
                                at.grad_weights_plane, blocks.teams, at.team_words, of_k.begin,
                                of_k.end, a.grad_weights);
  });
}

template <class S, class T, class Op>
void backward_pass(const ConvShape& s, const BackwardArguments& a, float* scratch,
                   const Threads& threads) {
  const auto sweep = [&](Sweep which) { backward_sweep<S, T, Op>(s, a, which, scratch, threads); };
  if (a.grad_src != nullptr && a.grad_weights != nullptr && gradients_go_together(s, Op::kOperands))
    return sweep(Sweep::kBothGradients);
  if (a.grad_weights != nullptr) sweep(Sweep::kWeightsGradient);
  if (a.grad_src != nullptr) sweep(Sweep::kSourceGradient);
}

/// The passes of a scheme, with this instruction set.
template <class S>
const SchemePasses& scheme_passes() {
  static const SchemePasses passes = {
      [](const ConvShape& s, Numbers numbers, const ForwardArguments& a, float* scratch,
         const Threads& threads) {
        with_types(numbers, [&]<class T, class Op>(Types<T, Op>) {
          forward_pass<S, T, Op>(s, a, scratch, threads);
        });
      },
      [](const ConvShape& s, Numbers numbers, const float* weights, float* to,
         const Threads& threads) {
        with_types(numbers, [&]<class T, class Op>(Types<T, Op>) {
          prepare_pass<S, Op>(s, weights, to, threads);
        });
      },
      [](const ConvShape& s, Numbers numbers, const BackwardArguments& a, float* scratch,
         const Threads& threads) {
        with_types(numbers, [&]<class T, class Op>(Types<T, Op>) {
          backward_pass<S, T, Op>(s, a, scratch, threads);
        });
      }};
  return passes;
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
