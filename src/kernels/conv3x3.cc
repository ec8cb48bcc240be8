// The passes of the Winograd convolutions: blocks of images go through transform, products and
// transform back while they are in the second-level cache.
#include "kernels/conv3x3.h"

#include <algorithm>
#include <atomic>

#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv3x3.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/fusion-inl.h"
#include "kernels/product-inl.h"
#include "kernels/transforms-inl.h"

#ifndef SKIPWAY_KERNELS_CONV3X3_LAYOUT
#define SKIPWAY_KERNELS_CONV3X3_LAYOUT
namespace skipway::kernels {

// 64 tiles of 64 channels at 36 points are 590 KB in fp32: two such buffers and the transformed
// weights stay in 2 MB. With more channels they do not, and more tiles read the weights less often.
constexpr int64_t tiles_of_block(int64_t channels) { return channels <= 64 ? 64 : 128; }
// Planes of a power of two would all begin in one set of the cache.
constexpr int64_t kPlanePadding = 16;
constexpr int64_t kWidest = 16;  // lanes

// How a pass cuts its work: blocks of whole images, so that the overlapping patches of a gradient
// are one thread's own.
struct Blocks {
  int64_t rows, columns;  // tiles of an image
  int64_t images, count;  // images of a block; blocks
  int64_t tiles;          // of a full block, rounded up to pairs

  Blocks(const Conv3x3Shape& s, int threads) {
    rows = ceil_div(s.h, 4), columns = ceil_div(s.w, 4);
    const int64_t share = std::max<int64_t>(1, ceil_div(s.n, threads));
    images =
        std::clamp<int64_t>(ceil_div(tiles_of_block(std::max(s.c, s.k)), rows * columns), 1, share);
    count = ceil_div(s.n, images);
    tiles = ceil_div(images * rows * columns, 2) * 2;
  }
};

// Scratch memory in words of four bytes. A plane holds one of the 36 points.
struct Workspace {
  int64_t weights_plane, src_plane, dst_plane, product_plane;
  int64_t weights, sums;                                       // shared
  int64_t src, dst, dst_pairs, products, strip, grad_weights;  // of each thread
  int64_t thread_words, total_words;

  Workspace(const Conv3x3Shape& s, Type operands, Pass pass, int threads) {
    const Blocks blocks(s, threads);
    const int64_t per_word = operands == Type::kBf16 ? 2 : 1;
    const bool back = pass == Pass::kBackward;
    int64_t used = 0;
    const auto take = [&used](int64_t words) {
      const int64_t begin = used;
      used += ceil_div(words, kWidest) * kWidest;
      return begin;
    };
    weights_plane = s.c * s.k / per_word;
    src_plane = blocks.tiles * s.c / per_word + kPlanePadding;
    dst_plane = blocks.tiles * s.k / per_word + kPlanePadding;
    product_plane = blocks.tiles * (back ? s.c : s.k) + kPlanePadding;
    weights = take(36 * weights_plane);
    sums = take(threads * 2 * (back ? s.c : s.k) * 2);  // doubles
    const int64_t shared = used;
    used = 0;
    src = take(36 * src_plane);
    products = take(36 * product_plane);
    dst = dst_pairs = strip = grad_weights = 0;
    if (back) {
      dst = take(36 * dst_plane);
      dst_pairs = per_word == 2 ? take(36 * dst_plane) : dst;
      strip = take(6 * (4 * blocks.columns + 2) * kWidest);
      grad_weights = take(36 * s.c * s.k);
    }
    thread_words = used;
    for (int64_t* offset : {&src, &products, &dst, &dst_pairs, &strip, &grad_weights})
      *offset += shared;
    total_words = shared + threads * thread_words;
  }
};

}  // namespace skipway::kernels
#endif

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

  Window(const T* map, const Conv3x3Shape& s, int64_t channels, int64_t image, int64_t y, int64_t x,
         int64_t side)
      : first(map + ((image * s.h + y) * s.w + x) * channels),
        row_stride(s.w * channels),
        pixel_stride(channels),
        row_begin(std::max<int64_t>(0, -y)),
        row_end(std::min(side, s.h - y)),
        column_begin(std::max<int64_t>(0, -x)),
        column_end(std::min(side, s.w - x)),
        full(row_begin == 0 && column_begin == 0 && row_end == side && column_end == side) {}

  HWY_INLINE bool contains(int64_t row, int64_t column) const {
    return row >= row_begin && row < row_end && column >= column_begin && column < column_end;
  }
  HWY_INLINE int64_t offset(int64_t row, int64_t column) const {
    return row * row_stride + column * pixel_stride;
  }
};

// Where tile number `tile` of a block lies.
struct Place {
  int64_t image, y, x;
  HWY_INLINE Place(const Blocks& blocks, int64_t first_image, int64_t tile) {
    const int64_t of_image = blocks.rows * blocks.columns, rest = tile % of_image;
    image = first_image + tile / of_image;
    y = rest / blocks.columns * kTile;
    x = rest % blocks.columns * kTile;
  }
};

// The patches that a forward pass reads.
template <class T, bool kNormalise>
struct Patches : Source<T, kNormalise> {
  using Map = T;
  using Transform = ToPoints;
  int64_t channels;

  template <class Arguments>
  Patches(const Arguments& a, int64_t c) : Source<T, kNormalise>(a), channels(c) {}

  HWY_INLINE Window<T> window(const Conv3x3Shape& s, const Place& at) const {
    return {this->src, s, channels, at.image, at.y - 1, at.x - 1, kPatch};
  }
};

// The tiles of a gradient.
template <class T, bool kBatchNorm>
struct GradientTiles : Gradient<T, kBatchNorm> {
  using Map = T;
  using Transform = ToPointsAdjoint;
  int64_t channels;

  GradientTiles(const BackwardArguments& a, int64_t k) : Gradient<T, kBatchNorm>(a), channels(k) {}

  HWY_INLINE Window<T> window(const Conv3x3Shape& s, const Place& at) const {
    return {this->grad, s, channels, at.image, at.y, at.x, kTile};
  }
};

// One tile, some channels: to its 36 points, each handed to `sink(point, vector)`.
template <class Source, class Sink>
HWY_INLINE void tile_to_points(const Source& source, const Window<typename Source::Map>& window,
                               int64_t channel, const Sink& sink) {
  const auto store_at = [&](int row, int column, V v) HWY_ATTR { sink(row * kPatch + column, v); };
  if (window.full) {
    transform_2d<typename Source::Transform>(
        [&](int row, int column) HWY_ATTR {
          return source.at(window.first + window.offset(row, column) + channel, channel);
        },
        store_at);
  } else {
    transform_2d<typename Source::Transform>(
        [&](int row, int column) HWY_ATTR {
          if (!window.contains(row, column)) return hn::Zero(D());
          return source.at(window.first + window.offset(row, column) + channel, channel);
        },
        store_at);
  }
}

// W, the products' operand: fp32 has one layout, [point][tile][channel]. bf16: `by_channel` is
// that, with pairs of neighbouring channels in a word; `by_tile` is [point][tile / 2][channel],
// with pairs of neighbouring tiles. Either may be null.
template <class W, class Source>
void block_to_points(const Source& source, const Conv3x3Shape& shape, const Blocks& blocks,
                     int64_t first_image, int64_t tiles, int64_t plane, float* by_channel,
                     float* by_tile) {
  const int64_t channels = source.channels, step = static_cast<int64_t>(lanes());
  for (int64_t tile = 0; tile < tiles; tile += 2) {
    const bool two = tile + 1 < tiles;
    const auto first = source.window(shape, Place(blocks, first_image, tile));
    const auto second = source.window(shape, Place(blocks, first_image, tile + (two ? 1 : 0)));
    for (int64_t channel = 0; channel < channels; channel += step) {
      const auto store_by_channel = [&](int64_t of_tile, int point, V v) HWY_ATTR {
        W* to = reinterpret_cast<W*>(by_channel + point * plane) + of_tile * channels + channel;
        store(v, to);
      };
      if (std::is_same_v<W, float> || by_tile == nullptr) {
        tile_to_points(source, first, channel,
                       [&](int point, V v) HWY_ATTR { store_by_channel(tile, point, v); });
        if (two)
          tile_to_points(source, second, channel,
                         [&](int point, V v) HWY_ATTR { store_by_channel(tile + 1, point, v); });
      } else {
        V kept[kPoints];
        tile_to_points(source, first, channel, [&](int point, V v) HWY_ATTR {
          kept[point] = v;
          if (by_channel != nullptr) store_by_channel(tile, point, v);
        });
        float* pairs = by_tile + tile / 2 * channels + channel;
        if (two) {
          tile_to_points(source, second, channel, [&](int point, V v) HWY_ATTR {
            store_pair(kept[point], v, pairs + point * plane);
            if (by_channel != nullptr) store_by_channel(tile + 1, point, v);
          });
        } else {
          for (int point = 0; point < kPoints; ++point)
            store_pair(kept[point], hn::Zero(D()), pairs + point * plane);
        }
      }
    }
  }
}

// [k,3,3,c] -> [point][panel of 64 k][c][k of the panel]: the right side of the forward products.
// bf16: words of two neighbouring c.
template <class W>
void weights_to_points(const Conv3x3Shape& s, const float* weights, int64_t plane, float* to,
                       Share k_groups) {
  constexpr int64_t kGroup = 16;
  constexpr bool kFp32 = std::is_same_v<W, float>;
  const int64_t step = static_cast<int64_t>(lanes());
  // Turned round before the transform, where there are 9 values and not 36.
  HWY_ALIGN float turned[kGroup][9][kGroup];  // [c][tap][k]
  for (int64_t k = k_groups.begin * kGroup; k < k_groups.end * kGroup; k += kGroup) {
    const int64_t panel = k / kPanel * kPanel, width = std::min(kPanel, s.k - panel);
    for (int64_t c = 0; c < s.c; c += kGroup) {
      for (int64_t i = 0; i < kGroup; ++i)
        for (int64_t tap = 0; tap < 9; ++tap)
          for (int64_t j = 0; j < kGroup; ++j)
            turned[j][tap][i] = weights[((k + i) * 9 + tap) * s.c + c + j];
      for (int64_t i = 0; i < kGroup; i += step) {
        const auto transform = [&](int64_t j, const auto& sink) HWY_ATTR {
          transform_2d<WeightsToPoints>(
              [&](int row, int column) HWY_ATTR { return load(&turned[j][3 * row + column][i]); },
              [&](int row, int column, V v) HWY_ATTR { sink(row * kPatch + column, v); });
        };
        float* at =
            to + panel * (kFp32 ? s.c : s.c / 2) + (kFp32 ? c : c / 2) * width + k - panel + i;
        for (int64_t j = 0; j < kGroup; j += kFp32 ? 1 : 2) {
          float* row = at + (kFp32 ? j : j / 2) * width;
          if constexpr (kFp32) {
            transform(j, [&](int point, V v) HWY_ATTR { store(v, row + point * plane); });
          } else {
            V kept[kPoints];
            transform(j, [&](int point, V v) HWY_ATTR { kept[point] = v; });
            transform(j + 1, [&](int point, V v)
                                 HWY_ATTR { store_pair(kept[point], v, row + point * plane); });
          }
        }
      }
    }
  }
}

// [k,3,3,c] -> [point][panel of 64 c][k][c of the panel]: the right side of the data gradient's
// products. bf16: words of two neighbouring k.
template <class W>
void weights_to_points_transposed(const Conv3x3Shape& s, const float* weights, int64_t plane,
                                  float* to, Share k_pairs) {
  const int64_t step = static_cast<int64_t>(lanes());
  constexpr bool kFp32 = std::is_same_v<W, float>;
  for (int64_t k = k_pairs.begin * 2; k < k_pairs.end * 2; k += 2) {
    for (int64_t c = 0; c < s.c; c += step) {
      const int64_t panel = c / kPanel * kPanel, width = std::min(kPanel, s.c - panel);
      const auto transform = [&](int64_t of_k, const auto& sink) HWY_ATTR {
        const float* from = weights + of_k * 9 * s.c + c;
        transform_2d<WeightsToPoints>(
            [&](int row, int column) HWY_ATTR { return load(from + (3 * row + column) * s.c); },
            [&](int row, int column, V v) HWY_ATTR { sink(row * kPatch + column, v); });
      };
      float* at = to + panel * (kFp32 ? s.k : s.k / 2) + (kFp32 ? k : k / 2) * width + c - panel;
      if constexpr (kFp32) {
        transform(k, [&](int point, V v) HWY_ATTR { store(v, at + point * plane); });
        transform(k + 1, [&](int point, V v) HWY_ATTR { store(v, at + point * plane + width); });
      } else {
        V kept[kPoints];
        transform(k, [&](int point, V v) HWY_ATTR { kept[point] = v; });
        transform(k + 1,
                  [&](int point, V v) HWY_ATTR { store_pair(kept[point], v, at + point * plane); });
      }
    }
  }
}

// Products of a block back to pixels, with what follows a convolution on the way.
template <class T, bool kSums, bool kInference>
void block_from_points(const Conv3x3Shape& s, const Blocks& blocks, int64_t first_image,
                       int64_t tiles, const float* products, int64_t plane,
                       const ForwardArguments& a, double* sums) {
  const int64_t step = static_cast<int64_t>(lanes());
  T* dst = static_cast<T*>(a.dst);
  const T* residual = static_cast<const T*>(a.residual);
  for (int64_t channel = 0; channel < s.k; channel += step) {
    V sum = hn::Zero(D()), sum_of_squares = hn::Zero(D());
    const V bias = kInference && a.bias != nullptr ? load(a.bias + channel) : hn::Zero(D());
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Place at(blocks, first_image, tile);
      const Window<T> window(dst, s, s.k, at.image, at.y, at.x, kTile);
      const float* from = products + tile * s.k + channel;
      const auto load_at = [&](int row, int column)
                               HWY_ATTR { return load(from + (row * kPatch + column) * plane); };
      const auto put = [&](int row, int column, V v) HWY_ATTR {
        const int64_t offset = window.first - dst + window.offset(row, column) + channel;
        if constexpr (kInference) {
          v = hn::Add(v, bias);
          if (residual != nullptr) v = hn::Add(v, load(residual + offset));
          if (a.relu) v = hn::Max(v, hn::Zero(D()));
        }
        if constexpr (kSums) {
          sum = hn::Add(sum, v);
          sum_of_squares = hn::MulAdd(v, v, sum_of_squares);
        }
        store(v, dst + offset);
      };
      if (window.full) {
        transform_2d<FromPoints>(load_at, put);
      } else {
        transform_2d<FromPoints>(load_at, [&](int row, int column, V v) HWY_ATTR {
          if (window.contains(row, column)) put(row, column, v);
        });
      }
    }
    if constexpr (kSums) {
      add_to(sums + channel, sum);
      add_to(sums + s.k + channel, sum_of_squares);
    }
  }
}

// Overlapping patches of a block added up to the gradient of src. A strip of six rows moves down
// each image: its upper four are done after a row of tiles.
template <class Ending>
void block_from_points_adjoint(const Conv3x3Shape& s, const Blocks& blocks, int64_t first_image,
                               int64_t images, const float* products, int64_t plane, float* strip,
                               const Ending& grad_src) {
  Ending ending = grad_src;
  const int64_t step = static_cast<int64_t>(lanes());
  const int64_t width = kTile * blocks.columns + 2;  // pixels of the strip
  const int64_t row_words = width * step;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t channel = 0; channel < s.c; channel += step) {
      std::fill(strip, strip + 6 * row_words, 0.0f);
      ending.open(channel);
      for (int64_t tile_row = 0; tile_row < blocks.rows; ++tile_row) {
        for (int64_t tile_column = 0; tile_column < blocks.columns; ++tile_column) {
          const int64_t tile = (image * blocks.rows + tile_row) * blocks.columns + tile_column;
          const float* from = products + tile * s.c + channel;
          float* to = strip + tile_column * kTile * step;
          transform_2d<FromPointsAdjoint>(
              [&](int row, int column)
                  HWY_ATTR { return load(from + (row * kPatch + column) * plane); },
              [&](int row, int column, V v) HWY_ATTR {
                float* at = to + row * row_words + column * step;
                store(hn::Add(load(at), v), at);
              });
        }
        // The strip's first row and column are the padding above and to the left.
        const int64_t top = tile_row * kTile - 1;
        const bool last = tile_row + 1 == blocks.rows;
        for (int64_t row = 0; row < (last ? 6 : 4); ++row) {
          const int64_t y = top + row;
          if (y < 0 || y >= s.h) continue;
          const float* done = strip + row * row_words + step;
          const int64_t to = ((first_image + image) * s.h + y) * s.w * s.c + channel;
          for (int64_t x = 0; x < s.w; ++x) ending.put(to + x * s.c, load(done + x * step));
        }
        std::copy(strip + 4 * row_words, strip + 6 * row_words, strip);
        std::fill(strip + 2 * row_words, strip + 6 * row_words, 0.0f);
      }
      ending.close(channel);
    }
  }
}

// The gradient of the weights, summed over threads.
void grad_weights_from_points(const Conv3x3Shape& s, const float* first_thread,
                              int64_t thread_words, int threads, float* grad_weights, Share of_k) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t k = of_k.begin; k < of_k.end; ++k) {
    for (int64_t c = 0; c < s.c; c += step) {
      const float* from = first_thread + k * s.c + c;
      float* to = grad_weights + k * 9 * s.c + c;
      transform_2d<WeightsFromPointsAdjoint>(
          [&](int row, int column) HWY_ATTR {
            const float* at = from + (row * kPatch + column) * s.k * s.c;
            V sum = load(at);
            for (int thread = 1; thread < threads; ++thread)
              sum = hn::Add(sum, load(at + thread * thread_words));
            return sum;
          },
          [&](int row, int column, V v) HWY_ATTR { store(v, to + (3 * row + column) * s.c); });
    }
  }
}

template <class T, class W, class Op>
void forward_pass(const Conv3x3Shape& s, const ForwardArguments& a, float* scratch,
                  const Threads& threads) {
  constexpr int64_t kPerWord = sizeof(float) / sizeof(W);
  constexpr Type kOperands = kPerWord == 1 ? Type::kFp32 : Type::kBf16;
  const Blocks blocks(s, threads.count);
  const Workspace at(s, kOperands, Pass::kForward, threads.count);
  const int workers = static_cast<int>(std::min<int64_t>(threads.count, blocks.count));
  float* weights = scratch + at.weights;
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  threads.run([&](int thread) {
    weights_to_points<W>(s, a.weights, at.weights_plane, weights,
                         Share(s.k / 16, thread, threads.count));
  });
  threads.run([&](int thread) {
    if (thread >= workers) return;
    float* mine = scratch + thread * at.thread_words;
    double* my_sums = sums + thread * 2 * s.k;
    std::fill(my_sums, my_sums + 2 * s.k, 0.0);
    const Share range(blocks.count, thread, workers);
    for (int64_t block = range.begin; block < range.end; ++block) {
      const int64_t image = block * blocks.images;
      const int64_t images = std::min(blocks.images, s.n - image);
      const int64_t tiles = images * blocks.rows * blocks.columns;
      const auto read = [&](const auto& patches) {
        block_to_points<W>(patches, s, blocks, image, tiles, at.src_plane, mine + at.src, nullptr);
      };
      a.src_scale != nullptr ? read(Patches<T, true>(a, s.c)) : read(Patches<T, false>(a, s.c));
      const int64_t depth = s.c / kPerWord;
      for (int64_t point = 0; point < kPoints; ++point) {
        multiply<Op>({tiles, s.k, depth, mine + at.src + point * at.src_plane, depth, 1,
                      weights + point * at.weights_plane, depth * kPanel, 0,
                      mine + at.products + point * at.product_plane, s.k, false});
      }
      const auto finish = [&](auto pass) {
        pass(s, blocks, image, tiles, mine + at.products, at.product_plane, a, my_sums);
      };
      if (a.sum != nullptr)
        finish(block_from_points<T, true, false>);
      else if (a.bias != nullptr || a.residual != nullptr || a.relu)
        finish(block_from_points<T, false, true>);
      else
        finish(block_from_points<T, false, false>);
    }
  });
  if (a.sum != nullptr) add_sums(sums, workers, s.k, a.sum, a.sum_of_squares);
}

template <class T, class W, class Op>
void backward_pass(const Conv3x3Shape& s, const BackwardArguments& a, float* scratch,
                   const Threads& threads) {
  constexpr int64_t kPerWord = sizeof(float) / sizeof(W);
  constexpr bool kPairs = kPerWord == 2;
  constexpr Type kOperands = kPairs ? Type::kBf16 : Type::kFp32;
  const Blocks blocks(s, threads.count);
  const Workspace at(s, kOperands, Pass::kBackward, threads.count);
  const int workers = static_cast<int>(std::min<int64_t>(threads.count, blocks.count));
  float* weights = scratch + at.weights;
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  if (a.grad_src != nullptr) {
    threads.run([&](int thread) {
      weights_to_points_transposed<W>(s, a.weights, at.weights_plane, weights,
                                      Share(s.k / 2, thread, threads.count));
    });
  }
  threads.run([&](int thread) {
    if (thread >= workers) return;
    float* mine = scratch + thread * at.thread_words;
    double* my_sums = sums + thread * 2 * s.c;
    std::fill(my_sums, my_sums + 2 * s.c, 0.0);
    const Share range(blocks.count, thread, workers);
    for (int64_t block = range.begin; block < range.end; ++block) {
      const int64_t image = block * blocks.images;
      const int64_t images = std::min(blocks.images, s.n - image);
      const int64_t tiles = images * blocks.rows * blocks.columns;
      float* by_channel = kPairs && a.grad_src == nullptr ? nullptr : mine + at.dst;
      float* by_tile = kPairs && a.grad_weights != nullptr ? mine + at.dst_pairs : nullptr;
      const auto read = [&](const auto& gradient) {
        block_to_points<W>(gradient, s, blocks, image, tiles, at.dst_plane, by_channel, by_tile);
      };
      a.dst != nullptr ? read(GradientTiles<T, true>(a, s.k))
                       : read(GradientTiles<T, false>(a, s.k));
      if (a.grad_src != nullptr) {
        const int64_t depth = s.k / kPerWord;
        for (int64_t point = 0; point < kPoints; ++point) {
          multiply<Op>({tiles, s.c, depth, mine + at.dst + point * at.dst_plane, depth, 1,
                        weights + point * at.weights_plane, depth * kPanel, 0,
                        mine + at.products + point * at.product_plane, s.c, false});
        }
        const auto write = [&](const auto& grad_src) {
          block_from_points_adjoint(s, blocks, image, images, mine + at.products, at.product_plane,
                                    mine + at.strip, grad_src);
        };
        write_source_gradient<T>(a, s.c, my_sums, write);
      }
      if (a.grad_weights != nullptr) {
        float* src = mine + at.src;
        const auto read_source = [&](const auto& patches) {
          block_to_points<W>(patches, s, blocks, image, tiles, at.src_plane, kPairs ? nullptr : src,
                             kPairs ? src : nullptr);
        };
        a.src_scale != nullptr ? read_source(Patches<T, true>(a, s.c))
                               : read_source(Patches<T, false>(a, s.c));
        const float* dst = mine + (kPairs ? at.dst_pairs : at.dst);
        for (int64_t point = 0; point < kPoints; ++point) {
          multiply<Op>({s.k, s.c, ceil_div(tiles, kPerWord), dst + point * at.dst_plane, 1, s.k,
                        src + point * at.src_plane, kPanel, s.c,
                        mine + at.grad_weights + point * s.c * s.k, s.c, block > range.begin});
        }
      }
    }
  });
  if (a.sum != nullptr) add_sums(sums, workers, s.c, a.sum, a.sum_with_src);
  if (a.grad_weights == nullptr) return;
  threads.run([&](int thread) {
    grad_weights_from_points(s, scratch + at.grad_weights, at.thread_words, workers, a.grad_weights,
                             Share(s.k, thread, threads.count));
  });
}

#if HWY_TARGET == HWY_AVX3
using Dot = PairByDot;
#else
using Dot = PairByFma;
#endif

void run_forward(const Conv3x3Shape& s, Numbers numbers, bool dot, const ForwardArguments& a,
                 float* scratch, const Threads& threads) {
  if (numbers.maps == Type::kFp32)
    forward_pass<float, float, Fma>(s, a, scratch, threads);
  else if (numbers.products == Type::kFp32)
    forward_pass<Bf16, float, Fma>(s, a, scratch, threads);
  else if (dot)
    forward_pass<Bf16, Bf16, Dot>(s, a, scratch, threads);
  else
    forward_pass<Bf16, Bf16, PairByFma>(s, a, scratch, threads);
}

void run_backward(const Conv3x3Shape& s, Numbers numbers, bool dot, const BackwardArguments& a,
                  float* scratch, const Threads& threads) {
  if (numbers.maps == Type::kFp32)
    backward_pass<float, float, Fma>(s, a, scratch, threads);
  else if (numbers.products == Type::kFp32)
    backward_pass<Bf16, float, Fma>(s, a, scratch, threads);
  else if (dot)
    backward_pass<Bf16, Bf16, Dot>(s, a, scratch, threads);
  else
    backward_pass<Bf16, Bf16, PairByFma>(s, a, scratch, threads);
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {

HWY_EXPORT(run_forward);
HWY_EXPORT(run_backward);

// Whether the pair product may use vdpbf16ps; false also when a test asks for plain AVX-512.
std::atomic<bool> dot_allowed{true};

// What the machine can run, whatever use_instruction_set() said.
int64_t targets_of_machine() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

bool has_dot() { return __builtin_cpu_supports("avx512bf16") && (targets_of_machine() & HWY_AVX3); }

const std::vector<std::pair<std::string, int64_t>>& known_sets() {
  static const std::vector<std::pair<std::string, int64_t>> sets = {
      {"avx512_bf16", HWY_AVX3}, {"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"scalar", HWY_EMU128}};
  return sets;
}

}  // namespace

std::string refusal(const Conv3x3Shape& s) {
  if (s.n < 1 || s.h < 1 || s.w < 1) return "an empty map";
  if (s.c % 16 != 0 || s.k % 16 != 0) return "channels that are no multiple of 16";
  return "";
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  const int64_t here = targets_of_machine();
  for (const auto& [name, target] : known_sets()) {
    const bool can = (here & target) != 0 || target == HWY_EMU128;
    if (can && (name != "avx512_bf16" || has_dot())) names.push_back(name);
  }
  return names;
}

std::string instruction_set_in_use() {
  const int64_t here = hwy::SupportedTargets() & HWY_TARGETS;
  if (here & HWY_AVX3) return has_dot() && dot_allowed ? "avx512_bf16" : "avx512";
  return here & HWY_AVX2 ? "avx2" : "scalar";
}

bool use_instruction_set(const std::string& name) {
  const auto can = instruction_sets();
  if (std::find(can.begin(), can.end(), name) == can.end()) return false;
  for (const auto& [known, target] : known_sets())
    if (known == name) hwy::SetSupportedTargetsForTest(target);
  dot_allowed = name == "avx512_bf16";
  // The tables choose anew at the next call.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

size_t workspace_bytes(const Conv3x3Shape& s, Numbers numbers, Pass pass, int threads) {
  return static_cast<size_t>(Workspace(s, numbers.products, pass, threads).total_words) *
         sizeof(float);
}

void forward(const Conv3x3Shape& shape, Numbers numbers, const ForwardArguments& arguments,
             void* workspace, const Threads& threads) noexcept {
  HWY_DYNAMIC_DISPATCH(run_forward)
  (shape, numbers, has_dot() && dot_allowed, arguments, static_cast<float*>(workspace), threads);
}

void backward(const Conv3x3Shape& shape, Numbers numbers, const BackwardArguments& arguments,
              void* workspace, const Threads& threads) noexcept {
  HWY_DYNAMIC_DISPATCH(run_backward)
  (shape, numbers, has_dot() && dot_allowed, arguments, static_cast<float*>(workspace), threads);
}

}  // namespace skipway::kernels
#endif
