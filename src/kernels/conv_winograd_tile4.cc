// F(4x4,3x3) at stride 1, for each instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv_winograd_tile4.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/winograd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

const SchemePasses& tile4() { return scheme_passes<Stride1<2>>(); }

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {

HWY_EXPORT(tile4);

const SchemePasses& passes_of_tile4() { return HWY_DYNAMIC_DISPATCH(tile4)(); }

}  // namespace skipway::kernels
#endif
