#include "model/kernel_choice.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "kernels/instruction_set.h"

namespace skipway {
namespace {

TEST(KernelChoice, SaysOnceWhyAShapeGoesToLibTorch) {
  std::vector<std::string> lines;
  const int sink = add_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  KernelChoice kernels("winograd");
  for (const int64_t channels : {20, 20, 32})
    kernels.method({2, 8, 8, channels, 32, 3, 1, 1}, kernels::Type::kFp32, true);
  EXPECT_EQ(kernels.method({2, 8, 8, 32, 20, 3, 1, 1}, kernels::Type::kFp32, true),
            ConvMethod::kTorch);
  remove_log_sink(sink);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[1].find("32 to 20 channels"), std::string::npos) << lines[1];
  EXPECT_NE(lines[0].find("20 to 32 channels"), std::string::npos) << lines[0];
  EXPECT_NE(lines[0].find("no multiple of 16"), std::string::npos) << lines[0];
}

TEST(KernelChoice, CountsTheShapesOfEachMethod) {
  KernelChoice kernels("auto");
  EXPECT_EQ(kernels.counts(), "");
  kernels.restore({{"a", "winograd"}, {"b", "torch"}, {"c", "winograd"}, {"muon", "bf16"}});
  EXPECT_EQ(kernels.counts(), "1 torch, 2 winograd");
}

TEST(KernelChoice, MeasuresOnceAndKeepsTheAnswer) {
  KernelChoice kernels("auto");
  const kernels::ConvShape shape{2, 8, 8, 32, 32, 3, 1, 1};
  const ConvMethod method = kernels.method(shape, kernels::Type::kFp32, true);
  ASSERT_EQ(kernels.chosen().size(), 1u);
  KernelChoice resumed("auto");
  resumed.restore(kernels.chosen());
  EXPECT_EQ(resumed.method(shape, kernels::Type::kFp32, true), method);
  EXPECT_TRUE(resumed.measured_s().empty());
}

// None of the others is faster by the margin. One-pixel maps are best as a product of one matrix,
// large ones not.
TEST(KernelChoice, AutoTakesWhatWasFastest) {
  KernelChoice kernels("auto");
  for (const auto& [side, channels] : {std::pair{1, 256}, {2, 256}, {8, 128}, {32, 64}})
    kernels.method({64, side, side, channels, channels, 3, 1, 1}, kernels::Type::kFp32, true);
  for (const auto& [shape, seconds] : kernels.measured_s())
    for (const auto& [method, measured] : seconds)
      EXPECT_GE(measured, 0.85 * seconds.at(kernels.chosen().at(shape))) << shape << " " << method;
  EXPECT_EQ(kernels.measured_s().size(), 4u);
}

TEST(KernelChoice, WhatThisMachineHasNotIsMeasuredAnewAndSaidOnce) {
  std::vector<std::string> lines;
  const int sink = add_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  const kernels::ConvShape shape{16, 8, 8, 32, 32, 3, 1, 1}, other{16, 4, 4, 32, 32, 3, 1, 1};
  KernelChoice measured("auto");
  for (const auto& s : {shape, other}) measured.method(s, kernels::Type::kFp32, true);
  std::map<std::string, std::string> elsewhere = measured.chosen();
  for (auto& [key, method] : elsewhere) method = "of another machine";
  for (const bool training : {true, false}) {
    KernelChoice kernels("auto");
    kernels.restore(elsewhere);
    lines.clear();
    for (const auto& s : {shape, other}) kernels.method(s, kernels::Type::kFp32, training);
    EXPECT_EQ(kernels.measured_s().size(), 2u);
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_NE(lines[0].find("of another machine"), std::string::npos) << lines[0];
  }
  remove_log_sink(sink);
}

TEST(KernelChoice, FewImagesInInferenceAreAChoiceOfTheirOwn) {
  KernelChoice kernels("winograd");
  for (const auto& [images, training] : {std::pair{1, false}, {64, true}, {64, false}})
    kernels.method({images, 8, 8, 32, 32, 3, 1, 1}, kernels::Type::kFp32, training);
  EXPECT_EQ(kernels.chosen().size(), 2u);
}

TEST(KernelChoice, TrainingDoesNotTakeWhatInferenceMeasured) {
  const kernels::ConvShape shape{16, 8, 8, 32, 32, 3, 1, 1};
  KernelChoice kernels("auto");
  kernels.method(shape, kernels::Type::kFp32, /*training=*/false);
  EXPECT_EQ(kernels.measured_s().size(), 1u);
  kernels.method(shape, kernels::Type::kFp32, /*training=*/true);
  EXPECT_EQ(kernels.measured_s().size(), 2u);
  // Inference takes what training measured.
  KernelChoice trained("auto");
  const ConvMethod method = trained.method(shape, kernels::Type::kFp32, /*training=*/true);
  EXPECT_EQ(trained.method(shape, kernels::Type::kFp32, /*training=*/false), method);
  EXPECT_EQ(trained.measured_s().size(), 1u);
}

TEST(KernelChoice, MuonMultipliesInFp32WhereNothingIsMeasured) {
  KernelChoice kernels("winograd");
  EXPECT_EQ(kernels.muon_products(), kernels::Type::kFp32);
  EXPECT_TRUE(kernels.chosen().empty());
}

TEST(KernelChoice, WinogradMultipliesInFp32) {
  KernelChoice kernels("winograd");
  const auto method = [&](const kernels::ConvShape& shape) {
    return kernels.method(shape, kernels::Type::kBf16, true);
  };
  EXPECT_EQ(method({2, 8, 8, 32, 32, 3, 1, 1}), ConvMethod::kWinograd);
  EXPECT_EQ(method({2, 8, 8, 32, 32, 1, 1, 0}), ConvMethod::kIm2col);
  EXPECT_TRUE(kernels.measured_s().empty());
}

TEST(KernelChoice, NamesTheInstructionSetOfTheProducts) {
  const std::string best = kernels::instruction_sets().front();
  const auto in_use = [](const std::string& method) {
    KernelChoice kernels("auto");
    kernels.restore({{"a shape", method}, {"another", "torch"}});
    return kernels.in_use();
  };
  for (const char* method : {"winograd-bf16", "im2col-bf16", "direct-bf16x2 winograd"})
    EXPECT_EQ(in_use(method), "winograd/" + best);
  for (const char* method : {"winograd", "im2col"})
    EXPECT_EQ(in_use(method), "winograd/" + (best.ends_with("_bf16") ? "avx512" : best));
  EXPECT_EQ(in_use("torch").substr(0, 6), "torch/");
  EXPECT_EQ(in_use("reference"), "reference");
}

}  // namespace
}  // namespace skipway
