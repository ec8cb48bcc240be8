// What a convolution does on the way from and to memory for the BatchNorm and ReLU around it, so
// that their maps are neither written nor read. Included once for each instruction set.
#if defined(SKIPWAY_KERNELS_FUSION_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SKIPWAY_KERNELS_FUSION_INL_H
#undef SKIPWAY_KERNELS_FUSION_INL_H
#else
#define SKIPWAY_KERNELS_FUSION_INL_H
#endif

#include "kernels/conv3x3.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// The source of a convolution; with kNormalise, behind a BatchNorm and ReLU.
template <class T, bool kNormalise>
struct Source {
  const T* src;
  const float *scale, *shift;

  template <class Arguments>
  explicit Source(const Arguments& a)
      : src(static_cast<const T*>(a.src)), scale(a.src_scale), shift(a.src_shift) {}

  HWY_INLINE V at(const T* from, int64_t channel) const {
    const V value = load(from);
    if constexpr (!kNormalise) return value;
    return relu(hn::MulAdd(load(scale + channel), value, load(shift + channel)));
  }
};

// The gradient of a convolution's result; with kBatchNorm, through the BatchNorm behind it.
template <class T, bool kBatchNorm>
struct Gradient {
  const T *grad, *dst;
  const float *by_grad, *by_dst, *constant;

  explicit Gradient(const BackwardArguments& a)
      : grad(static_cast<const T*>(a.grad_dst)),
        dst(static_cast<const T*>(a.dst)),
        by_grad(a.by_grad),
        by_dst(a.by_dst),
        constant(a.constant) {}

  HWY_INLINE V at(const T* from, int64_t channel) const {
    const V value = load(from);
    if constexpr (!kBatchNorm) return value;
    return hn::MulAdd(
        load(by_grad + channel), value,
        hn::MulAdd(load(by_dst + channel), load(dst + (from - grad)), load(constant + channel)));
  }
};

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
