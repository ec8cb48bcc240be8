// Which device and number type a run uses. "not run on a GPU" applies to every CUDA branch here:
// written for it, compiled, never executed.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

namespace skipway {

/// Whether it is "auto", "cpu", "cuda" or "cuda:" and a number of one or two digits.
bool is_device_name(std::string_view name);

/// The device of such a name. Opens libtorch_cuda.so when there is an NVIDIA driver and it is
/// beside libtorch_cpu.so; auto falls back to the CPU. Call it before anything else asks ATen about
/// CUDA, manual_seed included: ATen keeps its first answer. Errors: kUsage for another name;
/// kDevice when CUDA was asked for and cannot be had, with the reason.
at::Device resolve_device(const std::string& name);

/// The device as `doctor` shows it: "Intel(R) Xeon(R) … (2 threads, avx512_bf16)" or "cuda:0".
std::string describe_device(at::Device device);

/// "auto", "fp32", "bf16" -> the type of the maps between layers. auto: bf16, unless a residual
/// block measured now (some 0.3 s), with the kernels that the word `kernel` allows, is faster in
/// fp32 by 15 %. Keep the answer: a later measurement may give another. Errors: kUsage for another
/// word.
at::ScalarType resolve_precision(const std::string& name, at::Device device,
                                 const std::string& kernel = "auto");

std::string precision_name(at::ScalarType type);

/// While it lives, this thread's convolutions and matrix products run in `type` (autocast);
/// BatchNorm's parameters and statistics, and the loss, stay in fp32. The bf16 copy of each weight
/// is made once a scope, so use one a step, and not the same for training and evaluation: a copy
/// made without gradients has none.
class PrecisionScope {
 public:
  PrecisionScope(at::Device device, at::ScalarType type);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

 private:
  at::DeviceType device_;
  bool was_enabled_;
  at::ScalarType old_type_;
};

}  // namespace skipway
