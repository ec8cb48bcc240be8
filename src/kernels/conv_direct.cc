// Groups of 32 images are copied so that they lie beside each other at each pixel: as rows of a
// left side for the forward pass and the source's gradient, along the depth for the gradient of the
// weights.
#include "kernels/conv_direct.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "kernels/instruction_set.h"
#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv_direct.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/fusion-inl.h"
#include "kernels/product-inl.h"

#ifndef SKIPWAY_KERNELS_DIRECT_LAYOUT
#define SKIPWAY_KERNELS_DIRECT_LAYOUT
namespace skipway::kernels {

constexpr int64_t kGroup = kImagesOfGroup;
constexpr int64_t kPairs = 16;    // of them
constexpr int64_t kOutputs = 32;  // channels of a result at a time
// What products take: 32 rows of 16 words, or 16 words of 32 columns. Where operands have parts, a
// block of each lies behind the other.
constexpr int64_t kBlock = 32 * 16;
constexpr int64_t kMaxTaps = 9;
constexpr int64_t kBandBytes = 768 << 10;    // of a copy; see Bands
constexpr int64_t kCachedBytes = 512 << 10;  // of channels

// One way through a convolution: a result's pixel is a sum over taps of one map's pixels.
struct Way {
  int64_t from_h, from_w, from_c, to_h, to_w, to_c, size, stride, padding;
  bool back;  // from the result's gradient to the source's

  static Way forward(const ConvShape& s) {
    return {s.h, s.w, s.c, s.out_h(), s.out_w(), s.k, s.size, s.stride, s.padding, false};
  }
  static Way to_source(const ConvShape& s) {
    return {s.out_h(), s.out_w(), s.k, s.h, s.w, s.c, s.size, s.stride, s.padding, true};
  }
  int64_t taps() const { return size * size; }
  // The row or column that a tap reads, of `count`; -1 where there is none.
  int64_t from(int64_t to, int64_t tap, int64_t count) const {
    const int64_t at = back ? to + padding - tap : to * stride + tap - padding;
    if (at < 0 || (back && at % stride != 0)) return -1;
    const int64_t from = back ? at / stride : at;
    return from < count ? from : -1;
  }
};

// Where the operands of one product of a sum begin.
struct Operands {
  int64_t left, right;
};

// Bands of the result's rows, of a group of images: what one thread copies and computes at a time.
struct Bands {
  int64_t rows, count, copied_rows;  // of a band; bands of a group; rows of the source at most

  // With two parts, as small as with one where the weights, which pass by with each band, are few.
  Bands(const Way& way, int64_t parts) {
    const int64_t row_bytes = way.from_w * kGroup * way.from_c * 2 * parts;
    const int64_t weights_bytes = way.taps() * way.from_c * way.to_c * 2 * parts;
    const int64_t fit = kBandBytes * (weights_bytes <= kBandBytes ? 1 : parts) / row_bytes;
    const int64_t both = way.back ? 1 : way.stride;  // source rows from a row to the next
    rows = std::clamp<int64_t>((fit - way.size + 1) / both, 1, way.to_h);
    count = ceil_div(way.to_h, rows);
    copied_rows = std::min(way.from_h, (rows - 1) * both + way.size);
  }
};

// Scratch memory in words of four bytes.
struct DirectLayout : ScratchOffsets {
  int64_t groups;
  int64_t weights, sums, copies, copy_words;     // two sums and a copy a thread
  int64_t src, grad, rows, row_words, operands;  // of the weights' gradient: both maps

  DirectLayout(const ConvShape& s, Type type, Pass pass, int threads)
      : groups(ceil_div(s.n, kGroup)) {
    const Way way = pass == Pass::kForward ? Way::forward(s) : Way::to_source(s);
    const int64_t out_pixels = s.out_h() * s.out_w(), parts = parts_of(type);
    copy_words = Bands(way, parts).copied_rows * way.from_w * kPairs * way.from_c * parts;
    row_words = s.out_w() * kPairs * s.k * parts;
    weights = take(s.k * way.taps() * s.c / 2 * parts);
    sums = take(threads * 2 * way.to_c * 2);  // doubles
    copies = take(threads * copy_words);
    const int64_t of_source = words;
    if (pass == Pass::kForward) return;
    words = 0;  // one gradient after the other
    src = take(groups * s.h * s.w * kPairs * s.c * parts);
    grad = take(groups * out_pixels * kPairs * s.k * parts);
    rows = take(threads * row_words);
    operands = take(way.taps() * groups * out_pixels * static_cast<int64_t>(sizeof(Operands)) / 4);
    words = std::max(words, of_source);
  }
};

}  // namespace skipway::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// C [32,32] = the sum of products, each of so many blocks of left and right.
template <class Op>
class SumOfProducts {
 public:
  void operator()(const Operands* all, int64_t count, int64_t blocks, const float* left,
                  const float* right, float* c, int64_t c_row) const {
#if HWY_TARGET == HWY_AVX3
    if constexpr (!std::is_same_v<Op, PairByFma>)
      if (registers_.in_use())
        return sum_of_tiles<Op::kParts>(all, count, blocks, left, right, c, c_row);
#endif
    if constexpr (Op::kParts == 1) {
      for (int64_t row = 0; row < kGroup; ++row) std::fill_n(c + row * c_row, kOutputs, 0.0f);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t block = 0; block < blocks; ++block)
          multiply_vectors<Op>({kGroup, kOutputs, kPairs, left + all[i].left + block * kBlock,
                                kPairs, 1, right + all[i].right + block * kBlock, 0, kOutputs, c,
                                c_row, true});
    }
  }

#if HWY_TARGET == HWY_AVX3
 private:
  TileRegisters registers_;
#endif
};

// A row of a group of images, [pixel][c / 32][part][image][32 channels] in bf16: zeros where
// there is no image.
template <class Op, class Source>
void copy_by_image(const Source& source, const Way& way, int64_t n, int64_t group, int64_t row,
                   Bf16* to) {
  const int64_t step = static_cast<int64_t>(lanes()), c = way.from_c;
  for (int64_t i = 0; i < kGroup; ++i) {
    const int64_t image = group * kGroup + i;
    const auto* from = source.map + (image * way.from_h + row) * way.from_w * c;
    for (int64_t pixel = 0; pixel < way.from_w; ++pixel, from += c)
      for (int64_t channel = 0; channel < c; channel += step) {
        const V v = image < n ? source.at(from + channel, channel) : hn::Zero(D());
        Op::store(
            v, to + (pixel * c + channel / 32 * 32) * kGroup * Op::kParts + i * 32 + channel % 32,
            kBlock);
      }
  }
}

// A row of a group of images, [c / 32][pixel][part][pair of images][32 channels] in words; `plane`:
// words from 32 channels to the next.
template <class Op, class Source>
void copy_by_pair(const Source& source, int64_t n, int64_t height, int64_t width, int64_t c,
                  int64_t group, int64_t row, float* to, int64_t plane) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    const int64_t image = group * kGroup + 2 * pair;
    const auto value = [&](int64_t of_image, int64_t pixel, int64_t channel) HWY_ATTR {
      if (of_image >= n) return hn::Zero(D());
      return source.at(source.map + ((of_image * height + row) * width + pixel) * c + channel,
                       channel);
    };
    for (int64_t pixel = 0; pixel < width; ++pixel)
      for (int64_t channel = 0; channel < c; channel += step)
        Op::store_pair(
            value(image, pixel, channel), value(image + 1, pixel, channel),
            to + channel / 32 * plane + pixel * kBlock * Op::kParts + pair * 32 + channel % 32,
            kBlock);
  }
}

// [to / 32][tap][c / 32][part][16 words][32], in words of neighbouring c.
template <class Op>
void direct_prepare_pass(const ConvShape& s, const float* weights, float* to,
                         const Threads& threads) {
  const int64_t step = static_cast<int64_t>(lanes()), taps = s.size * s.size;
  constexpr int64_t kPart = 16 * 16;
  threads.run([&](int thread) {
    HWY_ALIGN float rows[Op::kParts * kPart];
    const Share share(s.k / 16, thread, threads.count);
    for (int64_t k = share.begin * 16; k < share.end * 16; k += 16)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < s.c; c += 32) {
          for (int64_t i = 0; i < 16; ++i)
            for (int64_t j = 0; j < 32; j += step)
              Op::store(load(weights + ((k + i) * taps + tap) * s.c + c + j),
                        reinterpret_cast<Bf16*>(rows + i * 16) + j, kPart);
          const int64_t block = (k / kOutputs * taps + tap) * (s.c / 32) + c / 32;
          for (int64_t part = 0; part < Op::kParts; ++part)
            transpose_16x16(rows + part * kPart, 16,
                            to + (block * Op::kParts + part) * kBlock + k % kOutputs, kOutputs);
        }
  });
}

// The same for the source's gradient, in words of neighbouring k.
template <class Op>
void direct_prepare_back(const ConvShape& s, const float* weights, float* to,
                         const Threads& threads) {
  const int64_t step = static_cast<int64_t>(lanes()), taps = s.size * s.size, words = s.k / 2;
  threads.run([&](int thread) {
    const Share share(words, thread, threads.count);
    for (int64_t word = share.begin; word < share.end; ++word)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < s.c; c += step) {
          const float* from = weights + (2 * word * taps + tap) * s.c + c;
          const int64_t block = (c / kOutputs * taps + tap) * (words / 16) + word / 16;
          Op::store_pair(load(from), load(from + taps * s.c),
                         to + block * Op::kParts * kBlock + word % 16 * kOutputs + c % kOutputs,
                         kBlock);
        }
  });
}

// One thread's bands. `ending` takes the results.
template <class Op, class Source, class Ending>
void direct_bands(const Way& way, int64_t n, const Source& source, const float* weights,
                  Share units, float* copy, const Ending& ending) {
  constexpr size_t kVectors = kOutputs / hn::MaxLanes(D());
  const SumOfProducts<Op> sum{};
  const Bands bands(way, Op::kParts);
  const int64_t step = static_cast<int64_t>(lanes());
  const int64_t blocks = way.from_c / 32;  // of a pixel, and of a tap
  const int64_t of_each = blocks * Op::kParts * kBlock;
  HWY_ALIGN float results[kGroup * kOutputs];
  Operands operands[kMaxTaps];
  int64_t copied_group = -1, copied_end = 0;  // rows that a band shares with the one before stay
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const int64_t group = unit / bands.count, top = unit % bands.count * bands.rows;
    const int64_t bottom = std::min(way.to_h, top + bands.rows);
    int64_t begin = way.from_h, end = 0;  // rows that the band reads
    for (int64_t y = top; y < bottom; ++y)
      for (int64_t r = 0; r < way.size; ++r) {
        const int64_t row = way.from(y, r, way.from_h);
        if (row >= 0) begin = std::min(begin, row), end = std::max(end, row + 1);
      }
    for (int64_t row = group == copied_group ? std::max(begin, copied_end) : begin; row < end;
         ++row)
      copy_by_image<Op>(
          source, way, n, group, row,
          reinterpret_cast<Bf16*>(copy + row % bands.copied_rows * way.from_w * of_each));
    copied_group = group, copied_end = end;
    const int64_t images = std::min(kGroup, n - group * kGroup);
    for (int64_t channel = 0; channel < way.to_c; channel += kOutputs) {
      const float* of_channel = weights + channel / kOutputs * way.taps() * of_each;
      auto endings = [&]<size_t... i>(std::index_sequence<i...>) {
        return std::array<Ending, kVectors>{(static_cast<void>(i), ending)...};
      }
      (std::make_index_sequence<kVectors>());
      for (size_t i = 0; i < kVectors; ++i)
        endings[i].open(channel + static_cast<int64_t>(i) * step);
      for (int64_t y = top; y < bottom; ++y)
        for (int64_t x = 0; x < way.to_w; ++x) {
          int64_t count = 0;
          for (int64_t tap = 0; tap < way.taps(); ++tap) {
            const int64_t from_y = way.from(y, tap / way.size, way.from_h);
            const int64_t from_x = way.from(x, tap % way.size, way.from_w);
            if (from_y < 0 || from_x < 0) continue;
            const int64_t pixel = from_y % bands.copied_rows * way.from_w + from_x;
            operands[count++] = {pixel * of_each, tap * of_each};
          }
          sum(operands, count, blocks, copy, of_channel, results, kOutputs);
          for (size_t i = 0; i < kVectors; ++i) {
            Ending of_vector = endings[i];  // in registers
            const int64_t first = static_cast<int64_t>(i) * step;
            for (int64_t image = 0; image < images; ++image) {
              const int64_t pixel = ((group * kGroup + image) * way.to_h + y) * way.to_w + x;
              const int64_t offset = pixel * way.to_c + channel + first;
              if (begins_line<typename Source::Map>(first)) of_vector.prefetch(offset + way.to_c);
              of_vector.put(offset, load(results + image * kOutputs + first));
            }
            endings[i] = of_vector;
          }
        }
      for (size_t i = 0; i < kVectors; ++i)
        endings[i].close(channel + static_cast<int64_t>(i) * step);
    }
  }
}

template <class T, class Op>
void direct_forward_pass(const ConvShape& s, const ForwardArguments& a, float* scratch,
                         const Threads& threads) {
  const DirectLayout at(s, Op::kOperands, Pass::kForward, threads.count);
  const Way way = Way::forward(s);
  const float* weights = static_cast<const float*>(a.prepared);
  if (weights == nullptr) {
    direct_prepare_pass<Op>(s, a.weights, scratch + at.weights, threads);
    weights = scratch + at.weights;
  }
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  std::fill(sums, sums + threads.count * 2 * s.k, 0.0);
  threads.run([&](int thread) {
    const Share units(at.groups * Bands(way, Op::kParts).count, thread, threads.count);
    write_result<T>(a, s.k, sums + thread * 2 * s.k, [&](const auto& result) {
      const auto run = [&](const auto& source) {
        direct_bands<Op>(way, s.n, source, weights, units,
                         scratch + at.copies + thread * at.copy_words, result);
      };
      a.src_scale != nullptr ? run(Source<T, true>(a)) : run(Source<T, false>(a));
    });
  });
  if (a.sum != nullptr) add_sums(sums, threads.count, s.k, a.sum, a.sum_of_squares);
}

template <class T, class Op, class Gradient>
void direct_source_gradient(const ConvShape& s, const BackwardArguments& a,
                            const Gradient& gradient, float* scratch, const Threads& threads) {
  const DirectLayout at(s, Op::kOperands, Pass::kBackward, threads.count);
  const Way way = Way::to_source(s);
  direct_prepare_back<Op>(s, a.weights, scratch + at.weights, threads);
  double* sums = reinterpret_cast<double*>(scratch + at.sums);
  std::fill(sums, sums + threads.count * 2 * s.c, 0.0);
  threads.run([&](int thread) {
    const Share units(at.groups * Bands(way, Op::kParts).count, thread, threads.count);
    write_source_gradient<T>(a, s.c, sums + thread * 2 * s.c, [&](const auto& grad_src) {
      direct_bands<Op>(way, s.n, gradient, scratch + at.weights, units,
                       scratch + at.copies + thread * at.copy_words, grad_src);
    });
  });
  if (a.sum != nullptr) add_sums(sums, threads.count, s.c, a.sum, a.sum_with_src);
}

// All images lie beside each other before the first product, so that each sum stays in registers to
// its end.
template <class T, class Op, class Gradient>
void direct_weights_gradient(const ConvShape& s, const BackwardArguments& a,
                             const Gradient& gradient, float* scratch, const Threads& threads) {
  const DirectLayout at(s, Op::kOperands, Pass::kBackward, threads.count);
  const Way way = Way::forward(s);
  const int64_t out_h = s.out_h(), out_w = s.out_w();
  float *src = scratch + at.src, *grad = scratch + at.grad;
  constexpr int64_t kPixel = Op::kParts * kBlock;
  // Words of 32 channels, and where a row of a group begins in them.
  const int64_t src_plane = at.groups * s.h * s.w * kPixel, src_row = s.w * kPixel;
  const int64_t grad_plane = at.groups * out_h * out_w * kPixel, grad_row = out_w * kPixel;
  threads.run([&](int thread) {
    const auto copy_source = [&](const auto& source) {
      const Share rows(at.groups * s.h, thread, threads.count);
      for (int64_t row = rows.begin; row < rows.end; ++row)
        copy_by_pair<Op>(source, s.n, s.h, s.w, s.c, row / s.h, row % s.h, src + row * src_row,
                         src_plane);
    };
    a.src_scale != nullptr ? copy_source(Source<T, true>(a)) : copy_source(Source<T, false>(a));
    float* pairs = scratch + at.rows + thread * at.row_words;
    const Share rows(at.groups * out_h, thread, threads.count);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      copy_by_pair<Op>(gradient, s.n, out_h, out_w, s.k, row / out_h, row % out_h, pairs, grad_row);
      for (int64_t block = 0; block < s.k / 32; ++block)
        for (int64_t i = 0; i < grad_row; i += kBlock)
          for (const int64_t half : {0, 16})
            transpose_16x16(pairs + block * grad_row + i + half, 32,
                            grad + block * grad_plane + row * grad_row + i + half * kPairs, kPairs);
    }
  });
  // Of each tap, the pixels of both maps that meet.
  Operands* const all = reinterpret_cast<Operands*>(scratch + at.operands);
  int64_t begin[kMaxTaps + 1] = {};
  for (int64_t tap = 0; tap < way.taps(); ++tap) {
    begin[tap + 1] = begin[tap];
    for (int64_t row = 0; row < at.groups * out_h; ++row) {
      const int64_t from_y = way.from(row % out_h, tap / s.size, s.h);
      if (from_y < 0) continue;
      const int64_t first = (row / out_h * s.h + from_y) * s.w;
      for (int64_t x = 0; x < out_w; ++x) {
        const int64_t from_x = way.from(x, tap % s.size, s.w);
        if (from_x >= 0)
          all[begin[tap + 1]++] = {(row * out_w + x) * kPixel, (first + from_x) * kPixel};
      }
    }
  }
  threads.run([&](int thread) {
    const SumOfProducts<Op> sum{};
    const Share filters(s.k / kOutputs, thread, threads.count);
    // So many channels of the source stay in the cache while all filters pass by.
    const int64_t together = std::max<int64_t>(1, kCachedBytes / (src_plane * 4)) * 32;
    for (int64_t first = 0; first < s.c; first += together)
      for (int64_t k = filters.begin * kOutputs; k < filters.end * kOutputs; k += kOutputs)
        for (int64_t c = first; c < std::min(s.c, first + together); c += kOutputs)
          for (int64_t tap = 0; tap < way.taps(); ++tap)
            sum(all + begin[tap], begin[tap + 1] - begin[tap], 1, grad + k / 32 * grad_plane,
                src + c / 32 * src_plane, a.grad_weights + (k * way.taps() + tap) * s.c + c,
                way.taps() * s.c);
  });
}

template <class T, class Op>
void direct_backward_pass(const ConvShape& s, const BackwardArguments& a, float* scratch,
                          const Threads& threads) {
  const auto run = [&](const auto& gradient) {
    if (a.grad_weights != nullptr) direct_weights_gradient<T, Op>(s, a, gradient, scratch, threads);
    if (a.grad_src != nullptr) direct_source_gradient<T, Op>(s, a, gradient, scratch, threads);
  };
  a.dst != nullptr ? run(Gradient<T, true>(a)) : run(Gradient<T, false>(a));
}

template <class Pass>
void with_pairs([[maybe_unused]] Numbers numbers, const Pass& pass) {
#if HWY_TARGET == HWY_AVX3
  if (numbers.products == Type::kBf16x2) return pass(Types<float, TwoPartsByDot>());
#endif
  dot_in_use() ? pass(Types<Bf16, Dot>()) : pass(Types<Bf16, PairByFma>());
}

void run_direct_forward(const ConvShape& s, Numbers numbers, const ForwardArguments& a,
                        float* scratch, const Threads& threads) {
  with_pairs(numbers, [&]<class T, class Op>(Types<T, Op>) {
    direct_forward_pass<T, Op>(s, a, scratch, threads);
  });
}

void run_direct_prepare(const ConvShape& s, Numbers numbers, const float* weights, float* to,
                        const Threads& threads) {
  with_pairs(numbers, [&]<class T, class Op>(Types<T, Op>) {
    direct_prepare_pass<Op>(s, weights, to, threads);
  });
}

void run_direct_backward(const ConvShape& s, Numbers numbers, const BackwardArguments& a,
                         float* scratch, const Threads& threads) {
  with_pairs(numbers, [&]<class T, class Op>(Types<T, Op>) {
    direct_backward_pass<T, Op>(s, a, scratch, threads);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {
HWY_EXPORT(run_direct_forward);
HWY_EXPORT(run_direct_prepare);
HWY_EXPORT(run_direct_backward);
}  // namespace

std::string direct_refusal(const ConvShape& s) {
  if (s.c % kOutputs != 0 || s.k % kOutputs != 0) return "channels that are no multiple of 32";
  if (s.size * s.size > kMaxTaps) return "a window of more than 3x3";
  if (s.n < 1 || s.h < 1 || s.w < 1) return "an empty map";
  return "";
}

size_t direct_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads) {
  return static_cast<size_t>(DirectLayout(shape, numbers.products, pass, threads).words) *
         sizeof(float);
}

void direct_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                    void* workspace, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_direct_forward)
  (shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

size_t direct_prepared_bytes(const ConvShape& shape, Numbers numbers) {
  const Type operands = numbers.products;
  return static_cast<size_t>(shape.k * shape.size * shape.size * shape.c * bytes_of(operands) *
                             parts_of(operands));
}

void direct_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                    const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_direct_prepare)
  (shape, numbers, weights, static_cast<float*>(prepared), threads);
}

void direct_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                     void* workspace, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_direct_backward)
  (shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

}  // namespace skipway::kernels
#endif
