// Blocks of whole images: copied into a matrix, multiplied while it is in the cache, and taken
// apart again.
#include "kernels/conv_im2col.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv_im2col.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/fusion-inl.h"
#include "kernels/product-inl.h"

#ifndef SKIPWAY_KERNELS_IM2COL_LAYOUT
#define SKIPWAY_KERNELS_IM2COL_LAYOUT
namespace skipway::kernels {

// Output pixels of a block. Few read the weights too often; many leave the cache.
constexpr int64_t kPixelsForward = 64, kPixelsBackward = 256;

// Inputs of a pixel, and the same in whole vectors.
inline int64_t im2col_depth(const ConvShape& s) { return s.size * s.size * s.c; }
inline int64_t im2col_columns(const ConvShape& s) { return ceil_div(im2col_depth(s), 16) * 16; }

// Steps of the depth of a forward product, of so many inputs each: pairs fill whole vectors, and of
// CIFAR's stem a tile register too.
inline int64_t im2col_steps(const ConvShape& s, int64_t per_step) {
  return per_step == 1 ? im2col_depth(s) : im2col_columns(s) / per_step;
}
// Whether the channels of a pixel fill no vector, as an image's.
inline bool has_few_channels(const ConvShape& s) { return s.c % 16 != 0; }

// Scratch memory in words of four bytes.
struct Im2colLayout {
  int64_t pixels_of_image, images, count;  // output pixels; images of a block; blocks
  int64_t depth, columns;                  // im2col_depth(), im2col_columns()
  int64_t weights, sums;                   // shared
  int64_t matrix, dst, dst_pairs, image, inputs, grad_weights;  // of each thread
  int64_t thread_words, total_words;

  Im2colLayout(const ConvShape& s, Type operands, Pass pass, int threads) {
    const bool back = pass == Pass::kBackward;
    const int64_t per_word = values_of_word(operands);
    pixels_of_image = s.out_h() * s.out_w();
    images = std::clamp<int64_t>(ceil_div(back ? kPixelsBackward : kPixelsForward, pixels_of_image),
                                 1, std::max<int64_t>(1, ceil_div(s.n, threads)));
    count = ceil_div(s.n, images);
    depth = im2col_depth(s), columns = im2col_columns(s);
    const int64_t pixels = images * pixels_of_image;
    ScratchOffsets shared, own;
    weights = shared.take(s.k * columns / per_word);
    sums = shared.take(threads * 2 * (back ? s.c : s.k) * 2);  // doubles
    // Back, the inputs lie in whole panels, of which the last may be wider than its columns; and
    // the gradients of the inputs in fp32, whatever the operands.
    matrix =
        own.take(back ? pixels * ceil_div(columns, kPanel) * kPanel : pixels * columns / per_word);
    dst = own.take(pixels * s.k / (back ? per_word : 1));
    dst_pairs = back && per_word == 2 ? own.take(ceil_div(pixels, 2) * s.k) : dst;
    // An image of few channels with its padding, else the sums of its gradient.
    const bool few = has_few_channels(s);
    image = own.take(few    ? (s.h + 2 * s.padding) * (s.w + 2 * s.padding) * s.c + 16
                     : back ? s.h * s.w * s.c
                            : 0);
    inputs = own.take(few ? columns + 16 : 0);
    grad_weights = back ? own.take(s.k * columns) : 0;
    thread_words = own.words;
    for (int64_t* offset : {&matrix, &dst, &dst_pairs, &image, &inputs, &grad_weights})
      *offset += shared.words;
    total_words = shared.words + threads * thread_words;
  }
};

}  // namespace skipway::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

inline void store(float value, float* to) { *to = value; }
inline void store(float value, Bf16* to) {
  const Bf16 half = narrowed(value);
  std::memcpy(to, &half, sizeof(half));  // it is read as a part of a word
}

// Stores values of a pixel into words of neighbouring pixels, `to`, row after row: those of an even
// one with zeros for the next.
template <class Op>
HWY_INLINE void store_of_pixel(V v, int64_t pixel, float* to) {
  if constexpr (Op::kPerWord == 1)
    store(v, to);
  else if (pixel % 2 == 0)
    store_pair(v, hn::Zero(D()), to);
  else
    hn::StoreU(hn::Or(load(to), hn::BitCast(D(), pair(hn::Zero(D()), v))), D(), to);
}

// Calls visit(matrix row, index of the first input, tap, inside) for each output pixel of some
// images and each tap of the window.
template <class Visit>
HWY_INLINE void for_each_tap(const ConvShape& s, int64_t first_image, int64_t images,
                             const Visit& visit) {
  int64_t row = 0;
  for (int64_t image = first_image; image < first_image + images; ++image)
    for (int64_t y = 0; y < s.out_h(); ++y)
      for (int64_t x = 0; x < s.out_w(); ++x, ++row)
        for (int64_t r = 0; r < s.size; ++r)
          for (int64_t q = 0; q < s.size; ++q) {
            const int64_t from_y = y * s.stride + r - s.padding;
            const int64_t from_x = x * s.stride + q - s.padding;
            const bool inside = from_y >= 0 && from_y < s.h && from_x >= 0 && from_x < s.w;
            visit(row, ((image * s.h + from_y) * s.w + from_x) * s.c, r * s.size + q, inside);
          }
}

// All inputs of each pixel, to put(row, column, vector). By value, or each store would have them
// read again.
template <class T, bool kNormalise, class Put>
void copy_inputs(ConvShape s, Source<T, kNormalise> source, int64_t first_image, int64_t images,
                 Put put) {
  const int64_t step = static_cast<int64_t>(lanes());
  for_each_tap(
      s, first_image, images, [&](int64_t row, int64_t from, int64_t tap, bool inside) HWY_ATTR {
        for (int64_t c = 0; c < s.c; c += step)
          put(row, tap * s.c + c, inside ? source.at(source.map + from + c, c) : hn::Zero(D()));
      });
}

// The same of few channels: those of a row of the window lie together, and are copied in whole
// vectors, of which the next row overwrites what is too much. Columns after the depth are zero.
// `padded` and `inputs` are scratch memory.
template <class T, class Put>
void copy_inputs_of_few(ConvShape s, const T* src, int64_t first_image, int64_t images,
                        float* padded, float* inputs, Put put) {
  const int64_t step = static_cast<int64_t>(lanes()), depth = im2col_depth(s);
  const int64_t columns = im2col_columns(s);
  const int64_t width = (s.w + 2 * s.padding) * s.c, height = s.h + 2 * s.padding;
  const int64_t of_row = s.size * s.c;
  std::fill(padded, padded + height * width + step, 0.0f);
  int64_t row = 0;
  for (int64_t image = first_image; image < first_image + images; ++image) {
    for (int64_t y = 0; y < s.h; ++y) {
      const T* from = src + (image * s.h + y) * s.w * s.c;
      float* to = padded + (y + s.padding) * width + s.padding * s.c;
      for (int64_t i = 0; i < s.w * s.c; ++i) to[i] = widened(from[i]);
    }
    for (int64_t y = 0; y < s.out_h(); ++y)
      for (int64_t x = 0; x < s.out_w(); ++x, ++row) {
        const float* from = padded + y * s.stride * width + x * s.stride * s.c;
        for (int64_t r = 0; r < s.size; ++r)
          for (int64_t i = 0; i < of_row; i += step)
            store(load(from + r * width + i), inputs + r * of_row + i);
        for (int64_t i = depth; i < columns; i += step) store(hn::Zero(D()), inputs + i);
        for (int64_t i = 0; i < columns; i += step) put(row, i, load(inputs + i));
      }
  }
}

template <class T, class Arguments, class Put>
void read_inputs(const ConvShape& s, const Arguments& a, int64_t first_image, int64_t images,
                 const Im2colLayout& at, float* mine, const Put& put) {
  if (has_few_channels(s))
    copy_inputs_of_few(s, static_cast<const T*>(a.src), first_image, images, mine + at.image,
                       mine + at.inputs, put);
  else if (a.src_scale != nullptr)
    copy_inputs(s, Source<T, true>(a), first_image, images, put);
  else
    copy_inputs(s, Source<T, false>(a), first_image, images, put);
}

// The gradient of some pixels: `rows`, words of neighbouring channels, and `pairs`, of neighbouring
// pixels, with zeros after an odd one. In fp32 they are the same; in bf16 either may be null.
template <class Op, class T, bool kBatchNorm>
void copy_gradient(const Gradient<T, kBatchNorm>& gradient, int64_t k, int64_t first_pixel,
                   int64_t pixels, float* rows, float* pairs) {
  const int64_t step = static_cast<int64_t>(lanes());
  const T* grad = gradient.map + first_pixel * k;
  for (int64_t pixel = 0; pixel < pixels; pixel += Op::kPerWord)
    for (int64_t c = 0; c < k; c += step) {
      const auto take = [&](int64_t of_pixel) HWY_ATTR {
        if (of_pixel == pixels) return hn::Zero(D());
        const V v = gradient.at(grad + of_pixel * k + c, c);
        if (rows != nullptr)
          store(v, reinterpret_cast<typename Op::Operand*>(rows) + of_pixel * k + c);
        return v;
      };
      const V first = take(pixel);
      if constexpr (Op::kPerWord == 2) {
        const V second = take(pixel + 1);
        if (pairs != nullptr) store_pair(first, second, pairs + pixel / 2 * k + c);
      }
    }
}

// Gradients of all inputs of each pixel, added up to the gradient of src, image by image.
template <class Ending>
void add_inputs(const ConvShape& s, const float* rows, int64_t first_image, int64_t images,
                const Im2colLayout& at, float* sums, const Ending& grad_src) {
  Ending ending = grad_src;
  const int64_t step = static_cast<int64_t>(lanes()), of_image = s.h * s.w * s.c;
  for (int64_t image = 0; image < images; ++image) {
    std::fill(sums, sums + of_image, 0.0f);
    const float* first = rows + image * at.pixels_of_image * at.columns;
    for_each_tap(s, 0, 1, [&](int64_t row, int64_t to, int64_t tap, bool inside) HWY_ATTR {
      if (!inside) return;
      const float* from = first + row * at.columns + tap * s.c;
      for (int64_t c = 0; c < s.c; c += step)
        store(hn::Add(load(sums + to + c), load(from + c)), sums + to + c);
    });
    const int64_t first_value = (first_image + image) * of_image;
    for (int64_t channel = 0; channel < s.c; channel += step) {
      ending.open(channel);
      for (int64_t i = channel; i < of_image; i += s.c) ending.put(first_value + i, load(sums + i));
      ending.close(channel);
    }
  }
}

template <class Ending>
void finish_pixels(const Ending& of_all, int64_t k, Columns channels, int64_t first_pixel,
                   int64_t pixels, const float* products) {
  Ending result = of_all;
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t c = channels.begin; c < channels.end; c += step) {
    result.open(c);
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      result.put((first_pixel + pixel) * k + c, load(products + pixel * k + c));
    result.close(c);
  }
}

// [k,depth] -> [panel of 64 k][depth / kTogether][k of the panel][kTogether], in E; after
// the depth come zeros.
template <class E, int64_t kTogether>
void im2col_prepare_pass(const ConvShape& s, const float* weights, void* to,
                         const Threads& threads) {
  constexpr int64_t kGroup = 16;  // k whose words fill lines of the cache
  const int64_t depth = im2col_depth(s), steps = im2col_steps(s, kTogether);
  threads.run([&](int thread) {
    const Share share(s.k / kGroup, thread, threads.count);
    for (int64_t k = share.begin * kGroup; k < share.end * kGroup; k += kGroup) {
      const int64_t panel = k / kPanel * kPanel, width = std::min(kPanel, s.k - panel);
      E* const out = static_cast<E*>(to) + (panel * steps + k - panel) * kTogether;
      for (int64_t i = 0; i < steps * kTogether; ++i)
        for (int64_t j = 0; j < kGroup; ++j)
          store(i < depth ? weights[(k + j) * depth + i] : 0.0f,
                out + (i / kTogether * width + j) * kTogether + i % kTogether);
    }
  });
}

// [k,depth] -> [panel of 64 of the depth][k][column of the panel], in words of neighbouring k.
template <class Op>
void im2col_prepare_transposed(const ConvShape& s, const float* weights, float* to,
                               const Threads& threads) {
  const int64_t step = static_cast<int64_t>(lanes());
  const int64_t depth = im2col_depth(s), rows = s.k / Op::kPerWord;
  threads.run([&](int thread) {
    const Share share(rows, thread, threads.count);
    for (int64_t row = share.begin; row < share.end; ++row)
      for (int64_t column = 0; column < depth; column += step) {
        const int64_t panel = column / kPanel * kPanel, width = std::min(kPanel, depth - panel);
        const float* from = weights + row * Op::kPerWord * depth + column;
        float* out = to + panel * rows + row * width + column - panel;
        if constexpr (Op::kPerWord == 1)
          store(load(from), out);
        else
          store_pair(load(from), load(from + depth), out);
      }
  });
}

void run_im2col_prepare(const ConvShape& s, Numbers numbers, const float* weights, void* to,
                        const Threads& threads) {
  if (numbers.maps == Type::kFp32)
    im2col_prepare_pass<float, 1>(s, weights, to, threads);
  else if (numbers.products == Type::kFp32)
    im2col_prepare_pass<Bf16, 1>(s, weights, to, threads);
  else
    im2col_prepare_pass<Bf16, 2>(s, weights, to, threads);
}

template <class T, class Op>
void im2col_forward_pass(const ConvShape& s, const ForwardArguments& a, float* scratch,
                         const Threads& threads) {
  using W = typename Op::Operand;
  const Im2colLayout at(s, Op::kOperands, Pass::kForward, threads.count);
  const int64_t depth = im2col_steps(s, Op::kPerWord);
  if (a.prepared == nullptr)
    im2col_prepare_pass<W, Op::kPerWord>(s, a.weights, scratch + at.weights, threads);
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  // Where there are fewer blocks than threads, these share the columns of each.
  const bool shared = at.count < std::min<int64_t>(ceil_div(s.k, kPanel), threads.count);
  threads.run([&](int thread) {
    float* mine = scratch + thread * at.thread_words;
    double* my_sums = sums + thread * 2 * s.k;
    std::fill(my_sums, my_sums + 2 * s.k, 0.0);
    const Share of_blocks(at.count, shared ? 0 : thread, shared ? 1 : threads.count);
    const Columns columns(s.k, shared ? thread : 0, shared ? threads.count : 1);
    if (columns.count() == 0) return;
    const Multiply<Op> multiply;
    for (int64_t block = of_blocks.begin; block < of_blocks.end; ++block) {
      const int64_t image = block * at.images, images = std::min(at.images, s.n - image);
      const int64_t pixels = images * at.pixels_of_image;
      const auto put = [to = reinterpret_cast<W*>(mine + at.matrix), width = at.columns](
                           int64_t row, int64_t column, V value)
                           HWY_ATTR { store(value, to + row * width + column); };
      read_inputs<T>(s, a, image, images, at, mine, put);
      const int64_t first_weight = columns.begin * depth;
      const auto product = [&](const float* weights) -> Product {
        return {pixels,
                columns.count(),
                depth,
                mine + at.matrix,
                at.columns / Op::kPerWord,
                1,
                weights,
                depth * kPanel,
                0,
                mine + at.dst + columns.begin,
                s.k,
                false};
      };
      if (a.prepared == nullptr)
        multiply(product(scratch + at.weights + first_weight));
      else if constexpr (std::is_same_v<T, W>)
        multiply(product(static_cast<const float*>(a.prepared) + first_weight));
      else
        multiply_widened(product(nullptr), static_cast<const Bf16*>(a.prepared) + first_weight);
      write_result<T>(a, s.k, my_sums, [&](const auto& result) {
        finish_pixels(result, s.k, columns, image * at.pixels_of_image, pixels, mine + at.dst);
      });
    }
  });
  if (a.sum != nullptr) add_sums(sums, threads.count, s.k, a.sum, a.sum_of_squares);
}

template <class T, class Op>
void im2col_backward_pass(const ConvShape& s, const BackwardArguments& a, float* scratch,
                          const Threads& threads) {
  constexpr bool kPairs = Op::kPerWord == 2;
  const Im2colLayout at(s, Op::kOperands, Pass::kBackward, threads.count);
  float* weights = scratch + at.weights;
  if (a.grad_src != nullptr) im2col_prepare_transposed<Op>(s, a.weights, weights, threads);
  const int workers = static_cast<int>(std::min<int64_t>(threads.count, at.count));
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  threads.run([&](int thread) {
    if (thread >= workers) return;
    float* mine = scratch + thread * at.thread_words;
    double* my_sums = sums + thread * 2 * s.c;
    std::fill(my_sums, my_sums + 2 * s.c, 0.0);
    float *matrix = mine + at.matrix, *dst = mine + at.dst, *dst_pairs = mine + at.dst_pairs;
    const Share share(at.count, thread, workers);
    const Multiply<Op> multiply;
    for (int64_t block = share.begin; block < share.end; ++block) {
      const int64_t image = block * at.images, images = std::min(at.images, s.n - image);
      const int64_t pixels = images * at.pixels_of_image;
      const auto read = [&](const auto& gradient) {
        copy_gradient<Op>(gradient, s.k, image * at.pixels_of_image, pixels,
                          kPairs && a.grad_src == nullptr ? nullptr : dst,
                          a.grad_weights == nullptr ? nullptr : dst_pairs);
      };
      a.dst != nullptr ? read(Gradient<T, true>(a)) : read(Gradient<T, false>(a));
      if (a.grad_src != nullptr) {
        const int64_t words = s.k / Op::kPerWord;
        multiply({pixels, at.depth, words, dst, words, 1, weights, words * kPanel, 0, matrix,
                  at.columns, false});
        write_source_gradient<T>(a, s.c, my_sums, [&](const auto& grad_src) {
          add_inputs(s, matrix, image, images, at, mine + at.image, grad_src);
        });
      }
      if (a.grad_weights != nullptr) {
        // By panels of columns, which the product then reads one after another.
        const int64_t words = ceil_div(pixels, Op::kPerWord);
        const auto put = [matrix, words](int64_t row, int64_t column, V value) HWY_ATTR {
          const int64_t line = column / kPanel * words + row / Op::kPerWord;
          store_of_pixel<Op>(value, row, matrix + line * kPanel + column % kPanel);
        };
        read_inputs<T>(s, a, image, images, at, mine, put);
        multiply({s.k, at.columns, words, dst_pairs, 1, s.k, matrix, words * kPanel, kPanel,
                  mine + at.grad_weights, at.columns, block > share.begin});
      }
    }
  });
  if (a.sum != nullptr) add_sums(sums, workers, s.c, a.sum, a.sum_with_src);
  if (a.grad_weights == nullptr) return;
  threads.run([&](int thread) {
    const Share share(s.k, thread, threads.count);
    for (int64_t k = share.begin; k < share.end; ++k) {
      const float* from = scratch + at.grad_weights + k * at.columns;
      float* to = a.grad_weights + k * at.depth;
      std::copy(from, from + at.depth, to);
      for (int worker = 1; worker < workers; ++worker)
        for (int64_t i = 0; i < at.depth; ++i) to[i] += from[worker * at.thread_words + i];
    }
  });
}

void run_im2col_forward(const ConvShape& s, Numbers numbers, const ForwardArguments& a,
                        float* scratch, const Threads& threads) {
  with_types(numbers, [&]<class T, class Op>(Types<T, Op>) {
    im2col_forward_pass<T, Op>(s, a, scratch, threads);
  });
}

void run_im2col_backward(const ConvShape& s, Numbers numbers, const BackwardArguments& a,
                         float* scratch, const Threads& threads) {
  with_types(numbers, [&]<class T, class Op>(Types<T, Op>) {
    im2col_backward_pass<T, Op>(s, a, scratch, threads);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {
HWY_EXPORT(run_im2col_prepare);
HWY_EXPORT(run_im2col_forward);
HWY_EXPORT(run_im2col_backward);
}  // namespace

size_t im2col_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads) {
  const Im2colLayout layout(shape, numbers.operands(), pass, threads);
  return static_cast<size_t>(layout.total_words) * sizeof(float);
}

void im2col_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                    void* workspace, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_im2col_forward)
  (shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

size_t im2col_prepared_bytes(const ConvShape& shape, Numbers numbers) {
  const int64_t per_step = values_of_word(numbers.operands());
  return static_cast<size_t>(shape.k * im2col_steps(shape, per_step) * per_step *
                             bytes_of(numbers.maps));
}

void im2col_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                    const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_im2col_prepare)(shape, numbers, weights, prepared, threads);
}

void im2col_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                     void* workspace, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_im2col_backward)
  (shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

}  // namespace skipway::kernels
#endif
