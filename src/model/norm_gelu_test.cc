// Against LibTorch's operations, forward and back.
#include "model/norm_gelu.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <tuple>

#include "model/model.h"

namespace skipway {
namespace {

double relative_l2(const at::Tensor& values, const at::Tensor& expected) {
  return ((values - expected).norm() / expected.norm()).item<double>();
}

at::Tensor random_map(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed))
      .contiguous(at::MemoryFormat::ChannelsLast);
}

BatchNorm random_norm(int64_t channels) {
  BatchNorm norm;
  norm.weight = random_map({1, channels, 1, 1}, 1).flatten() + 2;
  norm.bias = random_map({1, channels, 1, 1}, 2).flatten();
  norm.running_mean = random_map({1, channels, 1, 1}, 3).flatten();
  norm.running_var = random_map({1, channels, 1, 1}, 4).flatten().abs() + 0.5;
  norm.momentum = 0.3;
  return norm;
}

BatchNorm copy_of(const BatchNorm& norm) {
  BatchNorm copy = norm;
  for (at::Tensor* tensor : {&copy.bias, &copy.running_mean, &copy.running_var})
    *tensor = tensor->detach().clone();
  return copy;
}

at::Tensor expected_of(const at::Tensor& src, bool pool, const BatchNorm& norm, bool training) {
  return at::gelu(apply_batch_norm(pool ? at::max_pool2d(src, 2) : src, norm, training));
}

// Type of the map, with or without a pool.
class NormGelu : public testing::TestWithParam<std::tuple<at::ScalarType, bool>> {
 protected:
  at::ScalarType type() const { return std::get<0>(GetParam()); }
  bool pool() const { return std::get<1>(GetParam()); }
  // bf16 has eight bits; what LibTorch rounds between its operations is not compared.
  double tolerance() const { return type() == at::kFloat ? 2e-6 : 4e-3; }
};

TEST_P(NormGelu, StepIsLibTorchs) {
  const at::Tensor src = random_map({5, 32, 7, 8}, 5).to(type()).set_requires_grad(true);
  const at::Tensor wide = src.detach().to(at::kFloat).set_requires_grad(true);
  BatchNorm norm = random_norm(32), expected_norm = copy_of(norm);
  norm.bias.set_requires_grad(true), expected_norm.bias.set_requires_grad(true);
  const at::Tensor dst = norm_gelu(src, pool(), norm, /*training=*/true);
  const at::Tensor expected = expected_of(wide, pool(), expected_norm, /*training=*/true);
  EXPECT_EQ(dst.scalar_type(), type());
  EXPECT_TRUE(dst.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_LT(relative_l2(dst.detach().to(at::kFloat), expected.detach()), tolerance());
  const at::Tensor grad = random_map(dst.sizes(), 6);
  dst.backward(grad.to(type()));
  expected.backward(grad.to(type()).to(at::kFloat));
  EXPECT_LT(relative_l2(src.grad().to(at::kFloat), wide.grad()), tolerance());
  EXPECT_LT(relative_l2(norm.bias.grad(), expected_norm.bias.grad()), 1e-5);
  EXPECT_LT(relative_l2(norm.running_mean, expected_norm.running_mean), 1e-5);
  EXPECT_LT(relative_l2(norm.running_var, expected_norm.running_var), 1e-5);
}

TEST_P(NormGelu, EvaluationTakesTheRunningStatistics) {
  const at::NoGradGuard no_grad;
  const at::Tensor src = random_map({3, 16, 6, 5}, 7).to(type());
  const BatchNorm norm = random_norm(16);
  const BatchNorm before = copy_of(norm);
  const at::Tensor dst = norm_gelu(src, pool(), norm, /*training=*/false);
  EXPECT_LT(relative_l2(dst.to(at::kFloat), expected_of(src.to(at::kFloat), pool(), norm, false)),
            tolerance());
  EXPECT_TRUE(norm.running_mean.equal(before.running_mean));
  EXPECT_TRUE(norm.running_var.equal(before.running_var));
}

INSTANTIATE_TEST_SUITE_P(
    All, NormGelu, testing::Combine(testing::Values(at::kFloat, at::kBFloat16), testing::Bool()),
    [](const auto& test) {
      return std::string(std::get<0>(test.param) == at::kFloat ? "fp32" : "bf16") +
             (std::get<1>(test.param) ? "_pool" : "");
    });

TEST(NormGeluOfOneValue, LeavesTheRunningStatistics) {
  const BatchNorm norm = random_norm(16);
  const BatchNorm before = copy_of(norm);
  norm_gelu(random_map({1, 16, 2, 3}, 8), /*pool=*/true, norm, /*training=*/true);
  EXPECT_TRUE(norm.running_mean.equal(before.running_mean));
  EXPECT_TRUE(norm.running_var.equal(before.running_var));
}

TEST(BiasGelu, IsLibTorchsWithAndWithoutAGradientOfTheMap) {
  for (const bool wanted : {false, true}) {
    const at::Tensor src = random_map({2, 32, 5, 3}, 9).set_requires_grad(wanted);
    const at::Tensor other = src.detach().clone().set_requires_grad(wanted);
    const at::Tensor bias = random_map({1, 32, 1, 1}, 10).flatten().set_requires_grad(true);
    const at::Tensor its = bias.detach().clone().set_requires_grad(true);
    const at::Tensor dst = bias_gelu(src, bias), grad = random_map(src.sizes(), 11);
    const at::Tensor expected = at::gelu(other + its.view({1, -1, 1, 1}));
    EXPECT_LT(relative_l2(dst.detach(), expected.detach()), 1e-6);
    dst.backward(grad);
    expected.backward(grad);
    EXPECT_LT(relative_l2(bias.grad(), its.grad()), 1e-5);
    EXPECT_EQ(src.grad().defined(), wanted);
    if (wanted) {
      EXPECT_LT(relative_l2(src.grad(), other.grad()), 1e-6);
    }
  }
}

}  // namespace
}  // namespace skipway
