// Passes over maps that end at the memory's speed: each value is read once, from as few maps as can
// be.
#include "kernels/batch_norm.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/batch_norm.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "kernels/simd-inl.h"

#ifndef SKIPWAY_KERNELS_BATCH_NORM_PIECES
#define SKIPWAY_KERNELS_BATCH_NORM_PIECES
namespace skipway::kernels {
constexpr int64_t kPiece = 32;  // pixels that one loop over channels sees: 64 KB of 512 in fp32
constexpr int64_t kFlushEvery = 1024;  // pixels until fp32 sums go into double ones
constexpr int kGroup = 4;              // vectors of channels whose sums are in registers together
}  // namespace skipway::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// Calls visit(offset of the value, channel, j) for every vector of pixels [begin, end), where j < 4
// counts the vectors of a group; before and after the pixels of a group open(channel, j) and
// close(channel, j).
template <class Open, class Visit, class Close>
HWY_INLINE void sweep(int64_t begin, int64_t end, int64_t c, const Open& open, const Visit& visit,
                      const Close& close) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t piece = begin; piece < end; piece += kPiece) {
    const int64_t stop = std::min(piece + kPiece, end);
    int64_t channel = 0;
    for (; channel + kGroup * step <= c; channel += kGroup * step) {
      for (int j = 0; j < kGroup; ++j) open(channel + j * step, j);
      for (int64_t pixel = piece; pixel < stop; ++pixel)
        for (int j = 0; j < kGroup; ++j)
          visit(pixel * c + channel + j * step, channel + j * step, j);
      for (int j = 0; j < kGroup; ++j) close(channel + j * step, j);
    }
    for (; channel < c; channel += step) {
      open(channel, 0);
      for (int64_t pixel = piece; pixel < stop; ++pixel) visit(pixel * c + channel, channel, 0);
      close(channel, 0);
    }
  }
}

// Two sums for each channel over pixels [begin, end); `terms(offset, channel, sum, other)` adds to
// both.
template <class Terms>
void two_sums(int64_t begin, int64_t end, int64_t c, double* sums, const Terms& terms) {
  std::fill(sums, sums + 2 * c, 0.0);
  std::vector<float> partial(static_cast<size_t>(2 * c));
  for (int64_t first = begin; first < end; first += kFlushEvery) {
    std::fill(partial.begin(), partial.end(), 0.0f);
    float* p = partial.data();
    V sum[kGroup], other[kGroup];
    sweep(
        first, std::min(first + kFlushEvery, end), c,
        [&](int64_t channel, int j) HWY_ATTR {
          sum[j] = load(p + channel);
          other[j] = load(p + c + channel);
        },
        [&](int64_t offset, int64_t channel, int j)
            HWY_ATTR { terms(offset, channel, sum[j], other[j]); },
        [&](int64_t channel, int j) HWY_ATTR {
          store(sum[j], p + channel);
          store(other[j], p + c + channel);
        });
    for (int64_t i = 0; i < 2 * c; ++i) sums[i] += static_cast<double>(p[i]);
  }
}

template <class T>
void channel_sums_part(int64_t begin, int64_t end, int64_t c, const void* src, double* sums) {
  const T* from = static_cast<const T*>(src);
  two_sums(begin, end, c, sums, [&](int64_t offset, int64_t, V& sum, V& other) HWY_ATTR {
    const V v = load(from + offset);
    sum = hn::Add(sum, v);
    other = hn::MulAdd(v, v, other);
  });
}

template <class T>
void normalise_part(int64_t begin, int64_t end, int64_t c, const void* src, const float* scale,
                    const float* shift, const Residual& residual, bool relu, void* dst) {
  const T *from = static_cast<const T*>(src), *add = static_cast<const T*>(residual.map);
  T* to = static_cast<T*>(dst);
  V a[kGroup], b[kGroup], by_add[kGroup];
  const V floor = relu ? hn::Zero(D()) : hn::Set(D(), -std::numeric_limits<float>::infinity());
  const auto open = [&](int64_t channel, int j) HWY_ATTR {
    a[j] = load(scale + channel);
    b[j] = load(shift + channel);
    by_add[j] = hn::Set(D(), 1.0f);
    if (residual.scale == nullptr) return;
    by_add[j] = load(residual.scale + channel);
    b[j] = hn::Add(b[j], load(residual.shift + channel));
  };
  const auto close = [](int64_t, int) {};
  if (add != nullptr) {
    sweep(
        begin, end, c, open,
        [&](int64_t offset, int64_t, int j) HWY_ATTR {
          const V v = hn::MulAdd(by_add[j], load(add + offset),
                                 hn::MulAdd(a[j], load(from + offset), b[j]));
          store(at_least(floor, v), to + offset);
        },
        close);
  } else {
    sweep(
        begin, end, c, open,
        [&](int64_t offset, int64_t, int j) HWY_ATTR {
          store(at_least(floor, hn::MulAdd(a[j], load(from + offset), b[j])), to + offset);
        },
        close);
  }
}

// Of the normal distribution at z.
struct Normal {
  V below;  // its share below z
  V density;
  HWY_INLINE explicit Normal(V z) {
    const D d;
    const V x = hn::Mul(hn::Set(d, 0.70710678f), hn::Abs(z));
    const V e = hn::Exp(d, hn::Neg(hn::Mul(x, x)));
    const V one = hn::Set(d, 1.0f);
    const V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.3275911f), x, one));
    V sum = hn::Set(d, 1.061405429f);
    for (const float a : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
      sum = hn::MulAdd(sum, t, hn::Set(d, a));
    const V tail = hn::Mul(hn::Mul(hn::Set(d, 0.5f), hn::Mul(sum, t)), e);
    below = hn::IfThenElse(hn::Lt(z, hn::Zero(d)), tail, hn::Sub(one, tail));
    density = hn::Mul(hn::Set(d, 0.39894228f), e);
  }
};

template <class T>
void normalise_gelu_part(int64_t begin, int64_t end, int64_t c, const void* src, const float* scale,
                         const float* shift, void* dst) {
  const T* from = static_cast<const T*>(src);
  T* to = static_cast<T*>(dst);
  V a[kGroup], b[kGroup];
  sweep(
      begin, end, c,
      [&](int64_t channel, int j) HWY_ATTR {
        a[j] = load(scale + channel);
        b[j] = load(shift + channel);
      },
      [&](int64_t offset, int64_t, int j) HWY_ATTR {
        const V z = hn::MulAdd(a[j], load(from + offset), b[j]);
        store(hn::Mul(z, Normal(z).below), to + offset);
      },
      [](int64_t, int) {});
}

template <class T>
void gelu_backward_sums_part(int64_t begin, int64_t end, int64_t c, const void* grad_dst,
                             const void* src, const float* scale, const float* shift,
                             void* grad_src, double* sums) {
  const T *grad = static_cast<const T*>(grad_dst), *from = static_cast<const T*>(src);
  T* to = static_cast<T*>(grad_src);
  two_sums(begin, end, c, sums, [&](int64_t offset, int64_t channel, V& sum, V& other) HWY_ATTR {
    const V x = load(from + offset);
    const V z = hn::MulAdd(load(scale + channel), x, load(shift + channel));
    const Normal normal(z);
    const V g = hn::Mul(load(grad + offset), hn::MulAdd(z, normal.density, normal.below));
    if (to != nullptr) store(g, to + offset);
    sum = hn::Add(sum, g);
    other = hn::MulAdd(g, x, other);
  });
}

template <class T>
void backward_sums_part(int64_t begin, int64_t end, int64_t c, const void* grad_dst,
                        const void* dst, const void* src, void* grad_src, double* sums) {
  const T *grad = static_cast<const T*>(grad_dst), *gate = static_cast<const T*>(dst),
          *from = static_cast<const T*>(src);
  T* to = static_cast<T*>(grad_src);
  const auto take = [&](int64_t offset, V g, V& sum, V& other) HWY_ATTR {
    if (to != nullptr) store(g, to + offset);
    sum = hn::Add(sum, g);
    other = hn::MulAdd(g, load(from + offset), other);
  };
  if (gate != nullptr) {
    two_sums(begin, end, c, sums, [&](int64_t offset, int64_t, V& sum, V& other) HWY_ATTR {
      take(offset, relu_gradient(load(gate + offset), load(grad + offset)), sum, other);
    });
  } else {
    two_sums(begin, end, c, sums, [&](int64_t offset, int64_t, V& sum, V& other) HWY_ATTR {
      take(offset, load(grad + offset), sum, other);
    });
  }
}

template <class T>
void backward_apply_part(int64_t begin, int64_t end, int64_t c, const void* grad, const void* src,
                         const float* by_grad, const float* by_src, const float* constant,
                         void* out) {
  const T *g = static_cast<const T*>(grad), *from = static_cast<const T*>(src);
  T* to = static_cast<T*>(out);
  V a[kGroup], b[kGroup], d[kGroup];
  sweep(
      begin, end, c,
      [&](int64_t channel, int j) HWY_ATTR {
        a[j] = load(by_grad + channel);
        b[j] = load(by_src + channel);
        d[j] = load(constant + channel);
      },
      [&](int64_t offset, int64_t, int j) HWY_ATTR {
        store(hn::MulAdd(a[j], load(g + offset), hn::MulAdd(b[j], load(from + offset), d[j])),
              to + offset);
      },
      [](int64_t, int) {});
}

void channel_sums_of(Type type, int64_t begin, int64_t end, int64_t c, const void* src,
                     double* sums) {
  type == Type::kFp32 ? channel_sums_part<float>(begin, end, c, src, sums)
                      : channel_sums_part<Bf16>(begin, end, c, src, sums);
}
void normalise_of(Type type, int64_t begin, int64_t end, int64_t c, const void* src,
                  const float* scale, const float* shift, const Residual& residual, bool relu,
                  void* dst) {
  (type == Type::kFp32 ? normalise_part<float> : normalise_part<Bf16>)(begin, end, c, src, scale,
                                                                       shift, residual, relu, dst);
}
void normalise_gelu_of(Type type, int64_t begin, int64_t end, int64_t c, const void* src,
                       const float* scale, const float* shift, void* dst) {
  (type == Type::kFp32 ? normalise_gelu_part<float> : normalise_gelu_part<Bf16>)(begin, end, c, src,
                                                                                 scale, shift, dst);
}
void gelu_backward_sums_of(Type type, int64_t begin, int64_t end, int64_t c, const void* grad_dst,
                           const void* src, const float* scale, const float* shift, void* grad_src,
                           double* sums) {
  (type == Type::kFp32
       ? gelu_backward_sums_part<float>
       : gelu_backward_sums_part<Bf16>)(begin, end, c, grad_dst, src, scale, shift, grad_src, sums);
}
void backward_sums_of(Type type, int64_t begin, int64_t end, int64_t c, const void* grad_dst,
                      const void* dst, const void* src, void* grad_src, double* sums) {
  (type == Type::kFp32 ? backward_sums_part<float> : backward_sums_part<Bf16>)(begin, end, c,
                                                                               grad_dst, dst, src,
                                                                               grad_src, sums);
}
void backward_apply_of(Type type, int64_t begin, int64_t end, int64_t c, const void* grad,
                       const void* src, const float* by_grad, const float* by_src,
                       const float* constant, void* out) {
  (type == Type::kFp32
       ? backward_apply_part<float>
       : backward_apply_part<Bf16>)(begin, end, c, grad, src, by_grad, by_src, constant, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {

HWY_EXPORT(channel_sums_of);
HWY_EXPORT(normalise_of);
HWY_EXPORT(normalise_gelu_of);
HWY_EXPORT(gelu_backward_sums_of);
HWY_EXPORT(backward_sums_of);
HWY_EXPORT(backward_apply_of);

// Calls part(begin, end, thread) with each thread's share of the pixels.
template <class Part>
void share_pixels(const Map& map, const Threads& threads, const Part& part) {
  threads.run([&](int thread) {
    const Share share(map.pixels, thread, threads.count);
    part(share.begin, share.end, thread);
  });
}

// The same where each thread leaves two sums a channel, added up in the order of threads.
template <class Part>
void share_sums(const Map& map, double* sum, double* other, const Threads& threads,
                const Part& part) {
  const auto size = static_cast<size_t>(2 * map.c);
  std::vector<double> sums(size * static_cast<size_t>(threads.count));
  share_pixels(map, threads, [&](int64_t begin, int64_t end, int thread) {
    part(begin, end, sums.data() + static_cast<size_t>(thread) * size);
  });
  add_sums(sums.data(), threads.count, map.c, sum, other);
}

}  // namespace

void channel_sums(const Map& map, const void* src, double* sum, double* sum_of_squares,
                  const Threads& threads) {
  share_sums(map, sum, sum_of_squares, threads, [&](int64_t begin, int64_t end, double* sums) {
    HWY_DYNAMIC_DISPATCH(channel_sums_of)(map.type, begin, end, map.c, src, sums);
  });
}

void normalise(const Map& map, const void* src, const float* scale, const float* shift,
               const Residual& residual, bool relu, void* dst, const Threads& threads) {
  share_pixels(map, threads, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(normalise_of)
    (map.type, begin, end, map.c, src, scale, shift, residual, relu, dst);
  });
}

void normalise_gelu(const Map& map, const void* src, const float* scale, const float* shift,
                    void* dst, const Threads& threads) {
  share_pixels(map, threads, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(normalise_gelu_of)(map.type, begin, end, map.c, src, scale, shift, dst);
  });
}

void gelu_backward_sums(const Map& map, const void* grad_dst, const void* src, const float* scale,
                        const float* shift, void* grad_src, double* sum, double* sum_with_src,
                        const Threads& threads) {
  share_sums(map, sum, sum_with_src, threads, [&](int64_t begin, int64_t end, double* sums) {
    HWY_DYNAMIC_DISPATCH(gelu_backward_sums_of)
    (map.type, begin, end, map.c, grad_dst, src, scale, shift, grad_src, sums);
  });
}

void backward_sums(const Map& map, const void* grad_dst, const void* dst, const void* src,
                   void* grad_src, double* sum, double* sum_with_src, const Threads& threads) {
  share_sums(map, sum, sum_with_src, threads, [&](int64_t begin, int64_t end, double* sums) {
    HWY_DYNAMIC_DISPATCH(backward_sums_of)
    (map.type, begin, end, map.c, grad_dst, dst, src, grad_src, sums);
  });
}

void backward_apply(const Map& map, const void* grad, const void* src, const float* by_grad,
                    const float* by_src, const float* constant, void* out, const Threads& threads) {
  share_pixels(map, threads, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_apply_of)
    (map.type, begin, end, map.c, grad, src, by_grad, by_src, constant, out);
  });
}

}  // namespace skipway::kernels
#endif
