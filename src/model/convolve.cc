#include "model/convolve.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels/batch_norm.h"
#include "kernels/conv_direct.h"
#include "kernels/conv_im2col.h"
#include "kernels/conv_winograd.h"
#include "kernels/reference.h"
#include "model/maps.h"
#include "model/threads.h"

namespace skipway {
namespace {

using kernels::ConvShape;
using kernels::Numbers;
using kernels::Pass;
using kernels::Type;

// The passes of one of Skipway's own kernels, and the memory that they ask for.
struct Passes {
  size_t (*workspace_bytes)(const ConvShape&, Numbers, Pass, int threads);
  void (*forward)(const ConvShape&, Numbers, const kernels::ForwardArguments&, void* workspace,
                  const kernels::Threads&);
  size_t (*prepared_bytes)(const ConvShape&, Numbers);
  void (*prepare)(const ConvShape&, Numbers, const float* weights, void* to,
                  const kernels::Threads&);
  void (*backward)(const ConvShape&, Numbers, const kernels::BackwardArguments&, void* workspace,
                   const kernels::Threads&);
};

const Passes kWinogradPasses = {kernels::winograd_workspace_bytes, kernels::winograd_forward,
                                kernels::winograd_prepared_bytes, kernels::winograd_prepare,
                                kernels::winograd_backward};
const Passes kIm2colPasses = {kernels::im2col_workspace_bytes, kernels::im2col_forward,
                              kernels::im2col_prepared_bytes, kernels::im2col_prepare,
                              kernels::im2col_backward};
const Passes kDirectPasses = {kernels::direct_workspace_bytes, kernels::direct_forward,
                              kernels::direct_prepared_bytes, kernels::direct_prepare,
                              kernels::direct_backward};

// Of each method; passes of Skipway's own kernels alone.
struct Description {
  ConvMethod method;
  const char* name;
  const Passes* passes;
  Type products;
};
const Description kMethods[] = {
    {ConvMethod::kWinograd, "winograd", &kWinogradPasses, Type::kFp32},
    {ConvMethod::kWinogradBf16, "winograd-bf16", &kWinogradPasses, Type::kBf16},
    {ConvMethod::kIm2col, "im2col", &kIm2colPasses, Type::kFp32},
    {ConvMethod::kIm2colBf16, "im2col-bf16", &kIm2colPasses, Type::kBf16},
    {ConvMethod::kDirectBf16, "direct-bf16", &kDirectPasses, Type::kBf16},
    {ConvMethod::kDirectBf16x2, "direct-bf16x2", &kDirectPasses, Type::kBf16x2},
    {ConvMethod::kDirectBf16x2Winograd, "direct-bf16x2 winograd", &kDirectPasses, Type::kBf16x2},
    {ConvMethod::kTorch, "torch", nullptr, Type::kFp32},
    {ConvMethod::kReference, "reference", nullptr, Type::kFp32}};

const Description& of(ConvMethod method) {
  return *std::ranges::find(kMethods, method, &Description::method);
}

// What Skipway's own kernels need to know of a call.
struct OwnKernel {
  ConvShape shape;
  Numbers numbers;
  ConvMethod method;
  const Passes* passes;

  OwnKernel(const ConvShape& s, Type type, ConvMethod m)
      : shape(s), numbers{type, of(m).products}, method(m), passes(of(m).passes) {}

  at::Tensor workspace(Pass pass) const {
    return at::empty({static_cast<int64_t>(
                         passes->workspace_bytes(shape, numbers, pass, at::get_num_threads()))},
                     at::kByte);
  }
  void forward(const kernels::ForwardArguments& a) const {
    if (method == ConvMethod::kReference)
      return kernels::reference_forward(shape, numbers.maps, a, all_threads());
    const at::Tensor memory = workspace(Pass::kForward);
    passes->forward(shape, numbers, a, memory.mutable_data_ptr(), all_threads());
  }
  // Of what prepare() makes; none where the method takes the weights as they are.
  size_t prepared_bytes() const {
    if (method == ConvMethod::kTorch || method == ConvMethod::kReference) return 0;
    return passes->prepared_bytes(shape, numbers);
  }
  // What a forward pass may be given instead of the weights.
  at::Tensor prepare(const at::Tensor& weights) const {
    if (method == ConvMethod::kReference) return weights;
    const at::Tensor prepared = at::empty({static_cast<int64_t>(prepared_bytes())}, at::kByte);
    passes->prepare(shape, numbers, weights.const_data_ptr<float>(), prepared.mutable_data_ptr(),
                    all_threads());
    return prepared;
  }
  void backward(const kernels::BackwardArguments& a) const {
    if (method == ConvMethod::kReference)
      return kernels::reference_backward(shape, numbers.maps, a, all_threads());
    if (method == ConvMethod::kDirectBf16x2Winograd) {
      kernels::BackwardArguments of_weights = a, of_src = a;
      of_weights.grad_src = nullptr, of_src.grad_weights = nullptr;
      OwnKernel(shape, numbers.maps, ConvMethod::kWinograd).backward(of_weights);
      if (a.grad_src != nullptr)
        OwnKernel(shape, numbers.maps, ConvMethod::kDirectBf16x2).backward(of_src);
      return;
    }
    const at::Tensor memory = workspace(Pass::kBackward);
    passes->backward(shape, numbers, a, memory.mutable_data_ptr(), all_threads());
  }
};

OwnKernel own_kernel(const ConvShape& shape, at::ScalarType type, ConvMethod method) {
  return {shape, type == at::kFloat ? Type::kFp32 : Type::kBf16, method};
}

}  // namespace

const char* name_of(ConvMethod method) { return of(method).name; }

ConvShape shape_of(at::IntArrayRef src, const at::Tensor& weight, int64_t stride, int64_t padding) {
  return {src[0], src[2], src[3], src[1], weight.size(0), weight.size(2), stride, padding};
}

at::Tensor convolve(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                    const ScaleShift& before, const at::Tensor& weight, TwoSums* sums) {
  if (method == ConvMethod::kTorch) {
    at::Tensor dst = as_map(at::conv2d(src, weight.to(src.scalar_type()), {}, s.stride, s.padding),
                            src.scalar_type());
    if (sums != nullptr)
      kernels::channel_sums(pixels_of(dst), dst.const_data_ptr(), sums->sum.data(),
                            sums->with_other.data(), all_threads());
    return dst;
  }
  at::Tensor dst = new_map(src, {s.n, s.k, s.out_h(), s.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  a.src_scale = before.scale, a.src_shift = before.shift;
  a.weights = weight.const_data_ptr<float>();
  a.dst = dst.mutable_data_ptr();
  if (sums != nullptr) a.sum = sums->sum.data(), a.sum_of_squares = sums->with_other.data();
  OwnKernel(s, type_of(src), method).forward(a);
  return dst;
}

at::Tensor convolve_backward(ConvMethod method, const ConvShape& s, const ConvBackward& a) {
  at::Tensor grad_src = a.grad_src;
  if (method == ConvMethod::kTorch) {
    at::Tensor grad_dst = a.grad;
    if (a.coefficients != nullptr) {
      grad_dst = new_map(a.dst, a.dst.sizes());
      kernels::backward_apply(pixels_of(a.dst), a.grad.const_data_ptr(), a.dst.const_data_ptr(),
                              a.coefficients->by_grad.data(), a.coefficients->by_dst.data(),
                              a.coefficients->constant.data(), grad_dst.mutable_data_ptr(),
                              all_threads());
    }
    const auto [of_src, of_weight, of_bias] = at::convolution_backward(
        grad_dst, a.src, a.weight.to(a.src.scalar_type()), /*bias_sizes=*/{}, {s.stride, s.stride},
        {s.padding, s.padding}, {1, 1}, /*transposed=*/false, {0, 0}, /*groups=*/1,
        {grad_src.defined(), true, false});
    if (grad_src.defined()) a.add ? grad_src.add_(of_src) : grad_src.copy_(of_src);
    return of_weight.to(at::kFloat);
  }
  at::Tensor grad_weight = at::empty_like(a.weight);
  kernels::BackwardArguments k;
  k.src = a.src.const_data_ptr();
  k.src_scale = a.before.scale, k.src_shift = a.before.shift;
  k.weights = a.weight.const_data_ptr<float>();
  k.grad_dst = a.grad.const_data_ptr();
  if (a.coefficients != nullptr) {
    k.dst = a.dst.const_data_ptr();
    k.by_grad = a.coefficients->by_grad.data(), k.by_dst = a.coefficients->by_dst.data();
    k.constant = a.coefficients->constant.data();
  }
  k.grad_src = grad_src.defined() ? grad_src.mutable_data_ptr() : nullptr;
  k.add = a.add;
  if (a.sums != nullptr) k.sum = a.sums->sum.data(), k.sum_with_src = a.sums->with_other.data();
  k.grad_weights = grad_weight.mutable_data_ptr<float>();
  OwnKernel(s, type_of(a.src), method).backward(k);
  return grad_weight;
}

size_t prepared_bytes(const ConvShape& shape, at::ScalarType type, ConvMethod method) {
  return own_kernel(shape, type, method).prepared_bytes();
}

PreparedConv prepare(const ConvShape& shape, at::ScalarType type, ConvMethod method,
                     const at::Tensor& weights, const at::Tensor& bias) {
  PreparedConv conv{type, method, prepared_bytes(shape, type, method), weights, bias};
  if (method == ConvMethod::kTorch)
    conv.weights = weights.to(type), conv.bias = bias.to(type);
  else
    conv.weights = own_kernel(shape, type, method).prepare(weights);
  return conv;
}

at::Tensor infer(const PreparedConv& conv, const ConvShape& shape, const at::Tensor& src,
                 const at::Tensor& residual, bool relu) {
  if (conv.method == ConvMethod::kTorch) {
    at::Tensor dst = as_map(at::conv2d(src, conv.weights, conv.bias, shape.stride, shape.padding),
                            src.scalar_type());
    if (residual.defined()) dst.add_(residual);
    return relu ? dst.relu_() : dst;
  }
  at::Tensor dst = new_map(src, {shape.n, shape.k, shape.out_h(), shape.out_w()});
  kernels::ForwardArguments a;
  a.src = src.const_data_ptr();
  if (conv.method == ConvMethod::kReference)
    a.weights = conv.weights.const_data_ptr<float>();
  else
    a.prepared = conv.weights.const_data_ptr();
  a.dst = dst.mutable_data_ptr();
  a.bias = conv.bias.const_data_ptr<float>();
  a.residual = residual.defined() ? residual.const_data_ptr() : nullptr;
  a.relu = relu;
  OwnKernel(shape, type_of(src), conv.method).forward(a);
  return dst;
}

}  // namespace skipway
