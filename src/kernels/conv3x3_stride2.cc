// The stride-2 convolutions; a file of its own, so that it is compiled beside the others.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv3x3_stride2.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/winograd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

void run_forward_stride2(const ConvShape& s, Numbers numbers, bool dot, const ForwardArguments& a,
                         float* scratch, const Threads& threads) {
  run_forward<Stride2>(s, numbers, dot, a, scratch, threads);
}

void run_prepare_stride2(const ConvShape& s, Numbers numbers, const float* weights, float* to,
                         const Threads& threads) {
  run_prepare<Stride2>(s, numbers, weights, to, threads);
}

void run_backward_stride2(const ConvShape& s, Numbers numbers, bool dot, const BackwardArguments& a,
                          float* scratch, const Threads& threads) {
  run_backward<Stride2>(s, numbers, dot, a, scratch, threads);
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {

HWY_EXPORT(run_forward_stride2);
HWY_EXPORT(run_prepare_stride2);
HWY_EXPORT(run_backward_stride2);

void forward_stride2(const ConvShape& shape, Numbers numbers, bool dot,
                     const ForwardArguments& arguments, float* scratch, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_forward_stride2)(shape, numbers, dot, arguments, scratch, threads);
}

void prepare_stride2(const ConvShape& shape, Numbers numbers, const float* weights, float* to,
                     const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_prepare_stride2)(shape, numbers, weights, to, threads);
}

void backward_stride2(const ConvShape& shape, Numbers numbers, bool dot,
                      const BackwardArguments& arguments, float* scratch, const Threads& threads) {
  HWY_DYNAMIC_DISPATCH(run_backward_stride2)(shape, numbers, dot, arguments, scratch, threads);
}

}  // namespace skipway::kernels
#endif
