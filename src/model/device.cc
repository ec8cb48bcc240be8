// Finds the device and the number type that suits it.
#include "model/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <cstdint>
#include <filesystem>

#include "base/error.h"
#include "base/process.h"
#include "kernels/instruction_set.h"
#include "model/conv_chain.h"

namespace skipway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexed = "cuda:";

// What keeps CUDA from being used, or nothing. Opening libtorch_cuda.so takes seconds, so the
// driver comes first; and it must happen before ATen looks for CUDA, because ATen keeps its first
// answer.
std::string open_cuda() {
  if (!fs::exists("/proc/driver/nvidia") && dlopen("libcuda.so.1", RTLD_NOW) == nullptr) {
    return "no NVIDIA driver (neither /proc/driver/nvidia nor libcuda.so.1)";
  }
  // Not run on a GPU, from here to the end.
  Dl_info torch_cpu;
  if (dladdr(reinterpret_cast<void*>(&at::globalContext), &torch_cpu) == 0) {
    return "libtorch_cpu.so, whose folder should hold libtorch_cuda.so, not found";
  }
  const fs::path library = fs::path(torch_cpu.dli_fname).parent_path() / "libtorch_cuda.so";
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return fmt::format("{} (run SKIPWAY_CUDA=1 ./skipway setup)", dlerror());
  }
  if (!at::hasCUDA()) return library.string() + " without CUDA";
  if (at::detail::getCUDAHooks().deviceCount() == 0) return "no GPU that the driver lists";
  return "";
}

}  // namespace

bool is_device_name(std::string_view name) {
  if (name == "auto" || name == "cpu" || name == "cuda") return true;
  return name.starts_with(kIndexed) && name.size() > kIndexed.size() &&
         name.size() <= kIndexed.size() + 2 &&
         name.find_first_not_of("0123456789", kIndexed.size()) == std::string_view::npos;
}

at::Device resolve_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (!is_device_name(name)) {
    fail(ErrorKind::kUsage, "device", "expected auto, cpu, cuda or cuda:N, got '{}' at --device",
         name);
  }
  const std::string obstacle = open_cuda();
  if (!obstacle.empty()) {
    if (name == "auto") return at::kCPU;
    fail(ErrorKind::kDevice, "device",
         "expected a CUDA device, got {} at --device {}; --device cpu goes on without one",
         obstacle, name);
  }
  // Not run on a GPU.
  const int index = name.starts_with(kIndexed) ? std::stoi(name.substr(kIndexed.size())) : 0;
  const int count = static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  if (index >= count) {
    fail(ErrorKind::kDevice, "device", "expected a GPU from 0 to {}, got {} at --device {}",
         count - 1, index, name);
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

std::string describe_device(at::Device device) {
  if (!device.is_cpu()) return device.str();
  const std::string processor = processor_name();
  return fmt::format("{} ({} threads, {})", processor.empty() ? "CPU" : processor,
                     at::get_num_threads(), kernels::instruction_sets().front());
}

at::ScalarType resolve_precision(const std::string& name, at::Device device,
                                 const std::string& kernel) {
  if (name == "auto") {
    if (device.is_cuda()) {  // not run on a GPU; before Ampere cuDNN has no convolutions for bf16
      const c10::DeviceGuard of_this(device);
      return at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8() ? at::kBFloat16
                                                                                 : at::kFloat;
    }
    if (kernel == "reference") return at::kFloat;  // in double either way
    return bf16_is_as_fast(kernel) ? at::kBFloat16 : at::kFloat;
  }
  if (name == "bf16") return at::kBFloat16;
  if (name == "fp32") return at::kFloat;
  if (name == "fp16") {
    fail(ErrorKind::kUsage, "device",
         "expected auto, fp32 or bf16, got fp16 at --precision; fp16 is not supported, because its "
         "small range would need loss scaling; use bf16, which is as fast and has fp32's range");
  }
  fail(ErrorKind::kUsage, "device", "expected auto, fp32 or bf16, got '{}' at --precision", name);
}

std::string precision_name(at::ScalarType type) {
  return type == at::kBFloat16 ? "bf16" : type == at::kFloat ? "fp32" : at::toString(type);
}

PrecisionScope::PrecisionScope(at::Device device, at::ScalarType type)
    : device_(device.type()),
      was_enabled_(at::autocast::is_autocast_enabled(device_)),
      old_type_(at::autocast::get_autocast_dtype(device_)) {
  at::autocast::set_autocast_enabled(device_, type != at::kFloat);
  if (type != at::kFloat) at::autocast::set_autocast_dtype(device_, type);
  at::autocast::increment_nesting();
}

PrecisionScope::~PrecisionScope() {
  // The weights change before the next scope: their bf16 copies must not outlive this one.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_dtype(device_, old_type_);
  at::autocast::set_autocast_enabled(device_, was_enabled_);
}

}  // namespace skipway
