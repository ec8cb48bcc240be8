// Skipway's ResNets against PyTorch itself: the same weights and images go through torchvision's
// models (parity.py), and logits, loss, gradients, BatchNorm statistics and a run of SGD must
// agree.
//
// Errors are relative, ||ours - theirs|| / ||theirs||, and come from the order of the sums alone,
// which differs between the two programs. One layer's sums differ by a few unit roundoffs u (6e-8
// in fp32, 1.1e-16 in fp64). BatchNorm over the few values that a small batch leaves in the last
// stages magnifies that from block to block: 100 u at the logits of ResNet-18 and up to 2,400 u at
// those of ResNet-50, in fp32 as in fp64. 10,000 u are allowed, and ten times that for gradients,
// which go through the layers twice.
//
// Gradients in fp32 need more. A ReLU whose input is nearer to zero than that difference opens on
// one side only, and one such gate of the n of a layer turns its gradient by up to 1/sqrt(n): 1e-2
// for the 8,000 to 16,000 of the later stages. Of the millions of gates in a case about 1e-5 lie so
// near, so that a layer has up to ten: 3e-2. In fp64 there are none. So fp64 judges what is
// computed, nearly to the last digit, and fp32 that training's own number type does it too.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "data/dataset.h"
#include "parity.h"
#include "record/safetensors.h"
#include "train/optimizer.h"

namespace skipway {
namespace {

constexpr double kForwardRoundoffs = 1e4;
constexpr double kGradientRoundoffs = 1e5;
constexpr double kGatesInFp32 = 0.1;

ModelSpec spec_of(const std::string& name, const std::string& stem) {
  ModelSpec spec;
  spec.name = name;
  spec.stem = stem;
  return spec;
}

// With both stems; the deeper ones repeat the last one's blocks.
std::vector<ModelSpec> every_model() {
  std::vector<ModelSpec> specs;
  for (const char* name : {"resnet18", "resnet34", "resnet50"})
    for (const char* stem : {"cifar", "imagenet"}) specs.push_back(spec_of(name, stem));
  return specs;
}

// tests/timm_slow_test.cc has ResNet-50 too.
std::vector<ModelSpec> every_attention() {
  std::vector<ModelSpec> specs;
  for (const char* attention : {"se", "eca", "cbam"}) {
    specs.push_back(spec_of("resnet18", "cifar"));
    specs.back().attention = attention;
  }
  return specs;
}

using Parity = ParityTest;

TEST_F(Parity, StepAgreesWithPyTorchInFp64) {
  constexpr double kRoundoff = std::numeric_limits<double>::epsilon() / 2;
  compare_steps(every_model(), at::kDouble, /*count=*/8, /*last_side=*/1,
                kForwardRoundoffs * kRoundoff, kGradientRoundoffs * kRoundoff);
}

TEST_F(Parity, StepAgreesWithPyTorchInFp32) {
  constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2;
  compare_steps(every_model(), at::kFloat, /*count=*/4, /*last_side=*/2,
                kForwardRoundoffs * kRoundoff, kGatesInFp32);
}

TEST_F(Parity, AttentionAgreesWithItsTenLinesOfPythonInFp64) {
  constexpr double kRoundoff = std::numeric_limits<double>::epsilon() / 2;
  compare_steps(every_attention(), at::kDouble, /*count=*/8, /*last_side=*/1,
                kForwardRoundoffs * kRoundoff, kGradientRoundoffs * kRoundoff);
}

// Only here are the blocks Skipway's own operations.
TEST_F(Parity, AttentionAgreesWithItsTenLinesOfPythonInFp32) {
  constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2;
  compare_steps(every_attention(), at::kFloat, /*count=*/4, /*last_side=*/2,
                kForwardRoundoffs * kRoundoff, kGatesInFp32);
}

TEST_F(Parity, NamesAndShapesAreTorchvisionsOfEveryDepth) {
  for (size_t i = 0; i < resnet_names().size(); ++i)
    write_safetensors(question(i), {}, {{"model", resnet_names()[i]}, {"task", "shapes"}});
  ASSERT_NO_FATAL_FAILURE(ask(resnet_names().size()));
  for (size_t i = 0; i < resnet_names().size(); ++i) {
    ModelSpec spec;
    spec.name = resnet_names()[i];
    spec.stem = "imagenet";
    spec.image_size = 224;
    spec.num_classes = 1000;
    SCOPED_TRACE(spec.name);
    const NamedTensors ours = ResNet(spec, /*seed=*/0).state();
    const auto theirs = by_name(read_safetensors(answer(i)).tensors);
    ASSERT_EQ(ours.size(), theirs.size());
    for (const auto& [name, tensor] : ours) {
      ASSERT_TRUE(theirs.contains(name)) << name;
      EXPECT_TRUE(theirs.at(name).equal(at::tensor(tensor.sizes(), at::kLong))) << name;
    }
  }
}

// In fp64, because training amplifies: in fp32 the gates part the two runs after a few steps.
TEST_F(Parity, TenStepsOfSgdAgreeWithPyTorch) {
  constexpr int64_t kImages = 64, kBatch = 8, kSteps = 10;
  constexpr double kLr = 0.01, kMomentum = 0.9, kWeightDecay = 5e-4;
  constexpr double kTolerance = 1e-10;
  const Split split = load_dataset("fashion-mnist").train;
  // A quarter of the side, 7 pixels, for speed.
  const at::Tensor pixels = split.images.slice(0, 0, kImages).permute({0, 3, 1, 2}).to(at::kDouble);
  const at::Tensor images =
      at::avg_pool2d(pixels / 255 - 0.5, 4).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor labels = split.labels.slice(0, 0, kImages);

  struct Case {
    std::unique_ptr<ResNet> model;
    bool nesterov;
    double clip;
  };
  std::vector<Case> cases;
  for (const auto& [nesterov, clip] : {std::pair(false, 0.), {true, 0.}, {false, 0.5}}) {
    cases.push_back({make_parity_model(ModelSpec(), at::kDouble), nesterov, clip});
    write_question(question(cases.size() - 1), *cases.back().model, images, labels,
                   {{"task", "curve"},
                    {"steps", std::to_string(kSteps)},
                    {"batch", std::to_string(kBatch)},
                    {"lr", std::to_string(kLr)},
                    {"momentum", std::to_string(kMomentum)},
                    {"weight_decay", std::to_string(kWeightDecay)},
                    {"nesterov", nesterov ? "true" : "false"},
                    {"clip_grad_norm", std::to_string(clip)}});
  }
  ASSERT_NO_FATAL_FAILURE(ask(cases.size()));

  for (size_t i = 0; i < cases.size(); ++i) {
    auto& [model, nesterov, clip] = cases[i];
    SCOPED_TRACE(fmt::format("{}, clipped to {}", nesterov ? "Nesterov" : "plain momentum", clip));
    const auto answers = by_name(read_safetensors(answer(i)).tensors);
    const at::Tensor theirs = answers.at("losses"), norms = answers.at("norms");
    Optimizer optimizer(model->parameters(), {.momentum = kMomentum,
                                              .weight_decay = kWeightDecay,
                                              .nesterov = nesterov,
                                              .decay_all = true,
                                              .clip_grad_norm = clip});
    for (int64_t step = 0; step < kSteps; ++step) {
      const int64_t first = step * kBatch % kImages;
      const at::Tensor loss =
          loss_of(model->forward(images.slice(0, first, first + kBatch), /*training=*/true),
                  labels.slice(0, first, first + kBatch));
      loss.backward();
      const double norm = optimizer.clip_gradients().item<double>();
      optimizer.step(kLr);
      const double norm_expected = norms[step].item<double>();
      EXPECT_NEAR(norm, norm_expected, kTolerance * norm_expected) << "step " << step;
      EXPECT_GT(norm, 2 * clip) << "a norm that is never above the limit would prove nothing";
      const double expected = theirs[step].item<double>();
      EXPECT_NEAR(loss.item<double>(), expected, kTolerance * expected) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace skipway
