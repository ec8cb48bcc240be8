// Devices, number types and what autocast does with them on a CPU. CUDA itself is not tested: not
// run on a GPU.
#include "model/device.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/for_test.h"
#include "kernels/instruction_set.h"

namespace skipway {
namespace {

using testing::HasSubstr;

at::Tensor channels_last_weights() {
  return at::ones({8, 16, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast).set_requires_grad(true);
}

TEST(Device, KnowsItsNames) {
  EXPECT_EQ(resolve_device("cpu"), at::Device(at::kCPU));
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:100", "CPU", ""}) {
    EXPECT_EQ(error_of([&] { resolve_device(name); }).kind(), ErrorKind::kUsage) << name;
  }
}

TEST(Device, WithoutDriverAutoIsTheCpuAndCudaSaysWhyNot) {
  if (std::filesystem::exists("/proc/driver/nvidia")) GTEST_SKIP() << "there is an NVIDIA driver";
  EXPECT_EQ(resolve_device("auto"), at::Device(at::kCPU));
  const Error error = error_of([] { resolve_device("cuda:1"); });
  EXPECT_EQ(error.kind(), ErrorKind::kDevice);
  EXPECT_THAT(error.what(), HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(error.what(), HasSubstr("--device cuda:1"));
}

TEST(Device, DescribesTheProcessor) {
  EXPECT_THAT(describe_device(at::kCPU), HasSubstr(kernels::instruction_sets().front()));
  EXPECT_THAT(describe_device(at::kCPU), HasSubstr(std::to_string(at::get_num_threads())));
}

TEST(Precision, AutoIsOneOfThoseThatAreTaken) {
  const at::ScalarType measured = resolve_precision("auto", at::kCPU);
  EXPECT_TRUE(measured == at::kBFloat16 || measured == at::kFloat);
  EXPECT_EQ(resolve_precision("bf16", at::kCPU), at::kBFloat16);
  EXPECT_EQ(resolve_precision("fp32", at::kCPU), at::kFloat);
  EXPECT_EQ(precision_name(at::kBFloat16), "bf16");
  EXPECT_EQ(precision_name(at::kFloat), "fp32");
}

TEST(Precision, RefusesFp16WithTheWayOut) {
  const Error error = error_of([] { resolve_precision("fp16", at::kCPU); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("use bf16"));
  EXPECT_EQ(error_of([] { resolve_precision("int8", at::kCPU); }).kind(), ErrorKind::kUsage);
}

TEST(PrecisionScope, ConvolvesInBf16AndKeepsChannelsLast) {
  const at::Tensor src = at::ones({2, 16, 6, 6}).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor weights = channels_last_weights();
  const PrecisionScope scope(at::kCPU, at::kBFloat16);
  const at::Tensor dst = at::conv2d(src, weights, {}, 1, 1);
  EXPECT_EQ(dst.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(dst.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_EQ(at::linear(at::ones({2, 4}), at::ones({3, 4})).scalar_type(), at::kBFloat16);
}

TEST(PrecisionScope, CastsAWeightOnceAndKeepsItsLayout) {
  const at::Tensor weights = channels_last_weights();
  const PrecisionScope scope(at::kCPU, at::kBFloat16);
  const at::Tensor cast = at::autocast::cached_cast(at::kBFloat16, weights, at::kCPU);
  EXPECT_EQ(cast.scalar_type(), at::kBFloat16);
  EXPECT_EQ(cast.strides(), weights.strides());
  EXPECT_TRUE(cast.is_same(at::autocast::cached_cast(at::kBFloat16, weights, at::kCPU)));
}

TEST(PrecisionScope, ForgetsCastWeightsAtItsEnd) {
  const at::Tensor weights = channels_last_weights(), src = at::ones({1, 16, 3, 3});
  const auto convolve = [&] {
    const PrecisionScope scope(at::kCPU, at::kBFloat16);
    return at::conv2d(src, weights).sum().item<float>();
  };
  const float before = convolve();
  {
    const at::NoGradGuard no_grad;
    weights.mul_(2);
  }
  EXPECT_EQ(convolve(), 2 * before);
}

TEST(PrecisionScope, BatchNormOfBf16KeepsStatisticsInFp32) {
  const at::Tensor src = at::randn({4, 8, 5, 5}, at::detail::createCPUGenerator(1)) * 3 + 2;
  const at::Tensor weight = at::ones({8}).set_requires_grad(true);
  const at::Tensor bias = at::zeros({8}).set_requires_grad(true);
  const at::Tensor mean = at::zeros({8}), var = at::ones({8});
  const PrecisionScope scope(at::kCPU, at::kBFloat16);
  const at::Tensor input = src.to(at::kBFloat16);
  for (const bool training : {true, false}) {
    const at::Tensor dst = at::batch_norm(input, weight, bias, mean, var, training, 1., 1e-5, true);
    EXPECT_EQ(dst.scalar_type(), at::kBFloat16);
  }
  // With momentum 1 the statistics are the batch's own, to fp32's precision and not bf16's.
  EXPECT_EQ(mean.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(mean, input.to(at::kFloat).mean({0, 2, 3}), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(var, input.to(at::kFloat).var({0, 2, 3}), 1e-5, 1e-6));
}

TEST(PrecisionScope, RestoresWhatWasBefore) {
  const at::Tensor src = at::ones({2, 16, 6, 6}), weights = channels_last_weights();
  {
    const PrecisionScope outer(at::kCPU, at::kBFloat16);
    {
      const PrecisionScope inner(at::kCPU, at::kFloat);
      EXPECT_EQ(at::conv2d(src, weights).scalar_type(), at::kFloat);
    }
    EXPECT_EQ(at::conv2d(src, weights).scalar_type(), at::kBFloat16);
  }
  EXPECT_EQ(at::conv2d(src, weights).scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace skipway
