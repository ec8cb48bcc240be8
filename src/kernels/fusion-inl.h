// What a convolution does on the way from and to memory for the BatchNorm and ReLU around it, so
// that their maps are neither written nor read. Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_FUSION_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_FUSION_INL_H
#undef SKIPWAY_KERNELS_FUSION_INL_H
#else
#define SKIPWAY_KERNELS_FUSION_INL_H
#endif

#include "kernels/conv.h"
#include "kernels/pieces.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// The source of a convolution; with kNormalise, behind a BatchNorm and ReLU.
template <class T, bool kNormalise>
struct Source {
  using Map = T;
  const T* map;
  const float *scale, *shift;

  template <class Arguments>
  explicit Source(const Arguments& a)
      : map(static_cast<const T*>(a.src)), scale(a.src_scale), shift(a.src_shift) {}

  HWY_INLINE V at(const T* from, int64_t channel) const {
    const V value = load(from);
    if constexpr (!kNormalise) return value;
    return relu(hn::MulAdd(load(scale + channel), value, load(shift + channel)));
  }
};

// The gradient of a convolution's result; with kBatchNorm, through the BatchNorm behind it.
template <class T, bool kBatchNorm>
struct Gradient {
  using Map = T;
  const T *map, *dst;
  const float *by_grad, *by_dst, *constant;

  explicit Gradient(const BackwardArguments& a)
      : map(static_cast<const T*>(a.grad_dst)),
        dst(static_cast<const T*>(a.dst)),
        by_grad(a.by_grad),
        by_dst(a.by_dst),
        constant(a.constant) {}

  HWY_INLINE V at(const T* from, int64_t channel) const {
    const V value = load(from);
    if constexpr (!kBatchNorm) return value;
    return hn::MulAdd(
        load(by_grad + channel), value,
        hn::MulAdd(load(by_dst + channel), load(dst + (from - map)), load(constant + channel)));
  }
};

// Whether a vector of channels begins a line of the cache. What writes far apart pixels calls
// prefetch() once a line, some puts ahead: no processor foresees such writes, and each waits for
// the line's old content.
template <class T>
constexpr bool begins_line(int64_t channel) {
  return channel * static_cast<int64_t>(sizeof(T)) % kLineBytes == 0;
}

// Takes a convolution's result, a vector of channels at a time: open(channel), put() for some
// pixels, close(channel). kSums: for the BatchNorm behind it. kInference: bias, residual and ReLU.
template <class T, bool kSums, bool kInference>
class Result {
 public:
  Result(const ForwardArguments& a, int64_t channels, double* sums)
      : dst_(static_cast<T*>(a.dst)),
        residual_(static_cast<const T*>(a.residual)),
        bias_(a.bias),
        relu_(a.relu),
        channels_(channels),
        sums_(sums) {}

  HWY_INLINE void open(int64_t channel) {
    sum_ = sum_of_squares_ = hn::Zero(D());
    of_bias_ = kInference && bias_ != nullptr ? load(bias_ + channel) : hn::Zero(D());
  }
  HWY_INLINE void prefetch(int64_t offset) const { __builtin_prefetch(dst_ + offset, 1); }
  HWY_INLINE void put(int64_t offset, V v) {
    if constexpr (kInference) {
      v = hn::Add(v, of_bias_);
      if (residual_ != nullptr) v = hn::Add(v, load(residual_ + offset));
      if (relu_) v = relu(v);
    }
    if constexpr (kSums) {
      sum_ = hn::Add(sum_, v);
      sum_of_squares_ = hn::MulAdd(v, v, sum_of_squares_);
    }
    store(v, dst_ + offset);
  }
  HWY_INLINE void close(int64_t channel) {
    if constexpr (kSums) {
      add_to(sums_ + channel, sum_);
      add_to(sums_ + channels_ + channel, sum_of_squares_);
    }
  }

 private:
  T* dst_;
  const T* residual_;
  const float* bias_;
  bool relu_;
  int64_t channels_;
  double* sums_;
  V sum_, sum_of_squares_, of_bias_;
};

// Calls write(Result) with what the arguments ask for; to be copied into registers there.
template <class T, class Write>
void write_result(const ForwardArguments& a, int64_t channels, double* sums, const Write& write) {
  if (a.sum != nullptr)
    write(Result<T, true, false>(a, channels, sums));
  else if (a.bias != nullptr || a.residual != nullptr || a.relu)
    write(Result<T, false, true>(a, channels, sums));
  else
    write(Result<T, false, false>(a, channels, sums));
}

// Takes the gradient of the source, a vector of channels at a time: open(channel), put() for some
// pixels, close(channel).
enum class Ending { kStore, kAdd, kReluAndSums };
template <class T, Ending kEnding>
class SourceGradient {
 public:
  SourceGradient(const BackwardArguments& a, int64_t channels, double* sums)
      : grad_(static_cast<T*>(a.grad_src)),
        src_(static_cast<const T*>(a.src)),
        scales_(a.src_scale),
        shifts_(a.src_shift),
        channels_(channels),
        sums_(sums) {}

  HWY_INLINE void open(int64_t channel) {
    if constexpr (kEnding == Ending::kReluAndSums) {
      scale_ = load(scales_ + channel), shift_ = load(shifts_ + channel);
      sum_ = sum_with_src_ = hn::Zero(D());
    }
  }
  HWY_INLINE void prefetch(int64_t offset) const {
    __builtin_prefetch(grad_ + offset, 1);
    if constexpr (kEnding == Ending::kReluAndSums) __builtin_prefetch(src_ + offset);
  }
  HWY_INLINE void put(int64_t offset, V v) {
    if constexpr (kEnding == Ending::kAdd) v = hn::Add(v, load(grad_ + offset));
    if constexpr (kEnding == Ending::kReluAndSums) {
      const V from = load(src_ + offset);
      v = relu_gradient(hn::MulAdd(scale_, from, shift_), v);
      sum_ = hn::Add(sum_, v);
      sum_with_src_ = hn::MulAdd(v, from, sum_with_src_);
    }
    store(v, grad_ + offset);
  }
  HWY_INLINE void close(int64_t channel) {
    if constexpr (kEnding == Ending::kReluAndSums) {
      add_to(sums_ + channel, sum_);
      add_to(sums_ + channels_ + channel, sum_with_src_);
    }
  }

 private:
  T* grad_;
  const T* src_;
  const float *scales_, *shifts_;
  int64_t channels_;
  double* sums_;
  V scale_, shift_, sum_, sum_with_src_;
};

// Calls write(SourceGradient) with the ending that the arguments ask for; to be copied into
// registers there.
template <class T, class Write>
void write_source_gradient(const BackwardArguments& a, int64_t channels, double* sums,
                           const Write& write) {
  if (a.src_scale != nullptr)
    write(SourceGradient<T, Ending::kReluAndSums>(a, channels, sums));
  else if (a.add)
    write(SourceGradient<T, Ending::kAdd>(a, channels, sums));
  else
    write(SourceGradient<T, Ending::kStore>(a, channels, sums));
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();
#endif
