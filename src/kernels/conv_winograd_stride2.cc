// The convolutions of stride 2, for each instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv_winograd_stride2.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/winograd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

const SchemePasses& stride2() { return scheme_passes<Stride2>(); }

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {

HWY_EXPORT(stride2);

const SchemePasses& passes_of_stride2() { return HWY_DYNAMIC_DISPATCH(stride2)(); }

}  // namespace skipway::kernels
#endif
