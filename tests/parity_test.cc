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
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <memory>

#include "base/for_test.h"
#include "data/dataset.h"
#include "model/resnet.h"
#include "python.h"
#include "record/safetensors.h"
#include "train/optimizer.h"

namespace skipway {
namespace {

constexpr double kLabelSmoothing = 0.1;
constexpr double kForwardRoundoffs = 1e4;
constexpr double kGradientRoundoffs = 1e5;
constexpr double kGatesInFp32 = 0.1;

std::map<std::string, at::Tensor> by_name(const NamedTensors& tensors) {
  return {tensors.begin(), tensors.end()};
}

double relative_error(const at::Tensor& ours, const at::Tensor& theirs) {
  const at::Tensor a = ours.detach().to(at::kDouble), b = theirs.to(at::kDouble);
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  return (a - b).norm().item<double>() / b.norm().item<double>();
}

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) {
  return at::cross_entropy_loss(logits, labels, /*weight=*/{}, at::Reduction::Mean,
                                /*ignore_index=*/-100, kLabelSmoothing);
}

// A model whose BatchNorms are not the identity, which would hide a mistake, in numbers of `type`.
std::unique_ptr<ResNet> make_model(const ModelSpec& spec, at::ScalarType type) {
  auto model = std::make_unique<ResNet>(spec, /*seed=*/3);
  const at::NoGradGuard no_grad;
  const at::Generator random = at::detail::createCPUGenerator(4);
  for (const auto& [name, tensor] : model->parameters()) {
    if (tensor.dim() == 1) tensor.add_(at::randn(tensor.sizes(), random), 0.2);
  }
  for (const auto& [name, tensor] : model->state()) {
    if (tensor.is_floating_point()) at::Tensor(tensor).set_data(tensor.to(type));
  }
  return model;
}

using Metadata = std::map<std::string, std::string>;

// A question as parity.py takes it.
void write_question(const std::filesystem::path& path, const ResNet& model,
                    const at::Tensor& images, const at::Tensor& labels, Metadata metadata) {
  NamedTensors tensors;
  for (const auto& [name, tensor] : model.state()) tensors.emplace_back("state." + name, tensor);
  tensors.emplace_back("images", images);
  tensors.emplace_back("labels", labels);
  metadata["model"] = model.spec().name;
  metadata["stem"] = model.spec().stem;
  metadata["label_smoothing"] = std::to_string(kLabelSmoothing);
  write_safetensors(path, tensors, metadata);
}

class Parity : public testing::Test {
 protected:
  void SetUp() override {
    if (!python_has_module("torch") || !python_has_module("torchvision")) {
      GTEST_SKIP() << "needs PyTorch to compare with: apt-get install --no-install-recommends "
                      "python3-torch python3-torchvision";
    }
  }

  // Runs parity.py over the questions q0, q1, … of `folder_`, which become the answers a0, a1, …
  void ask(size_t count) {
    std::vector<std::string> arguments = {SKIPWAY_SOURCE_DIR "/tests/parity.py"};
    for (size_t i = 0; i < count; ++i) {
      arguments.push_back(question(i).string());
      arguments.push_back(answer(i).string());
    }
    const PythonResult result = run_python(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }

  std::filesystem::path question(size_t i) const { return folder_ / fmt::format("q{}", i); }
  std::filesystem::path answer(size_t i) const { return folder_ / fmt::format("a{}", i); }

  // One step of every model with both stems. `last_side`: of the last stage's square [pixels].
  // BatchNorm there sees count * last_side^2 values a channel; over four, chance makes some
  // channels' variance so small that the errors grow tenfold.
  void compare_steps(at::ScalarType type, int64_t count, int64_t last_side,
                     double forward_tolerance, double gradient_tolerance) {
    struct Case {
      std::unique_ptr<ResNet> model;
      at::Tensor images, labels;
    };
    std::vector<Case> cases;
    // The deeper ones repeat the last one's blocks.
    for (const char* name : {"resnet18", "resnet34", "resnet50"}) {
      for (const char* stem : {"cifar", "imagenet"}) {
        ModelSpec spec;
        spec.name = name;
        spec.stem = stem;
        spec.image_size = last_side * (spec.stem == "cifar" ? 8 : 32);
        const at::Generator random = at::detail::createCPUGenerator(5);
        Case& made = cases.emplace_back();
        made.model = make_model(spec, type);
        made.images = at::randn({count, 3, spec.image_size, spec.image_size}, random)
                          .to(type)
                          .contiguous(at::MemoryFormat::ChannelsLast);
        made.labels = at::randint(spec.num_classes, {count}, random, at::kLong);
        write_question(question(cases.size() - 1), *made.model, made.images, made.labels,
                       {{"task", "step"}});
      }
    }
    ASSERT_NO_FATAL_FAILURE(ask(cases.size()));

    for (size_t i = 0; i < cases.size(); ++i) {
      auto& [model, images, labels] = cases[i];
      SCOPED_TRACE(model->spec().name + " with the stem " + model->spec().stem);
      NamedTensors ours;
      model->kernels() = KernelChoice("winograd");  // as in training; fp64 stays with LibTorch
      const at::Tensor logits = model->forward(images, /*training=*/true);
      const at::Tensor loss = loss_of(logits, labels);
      loss.backward();
      ours.emplace_back("train_logits", logits);
      ours.emplace_back("loss", loss);
      for (const auto& [name, tensor] : model->parameters())
        ours.emplace_back("grad." + name, tensor.grad());
      for (const auto& [name, tensor] : model->buffers())
        ours.emplace_back("buffer." + name, tensor);
      ours.emplace_back("eval_logits", model->forward(images, /*training=*/false));

      const auto theirs = by_name(read_safetensors(answer(i)).tensors);
      ASSERT_EQ(ours.size(), theirs.size());
      for (const auto& [name, tensor] : ours) {
        ASSERT_TRUE(theirs.contains(name)) << name;
        const double tolerance = name.starts_with("grad.") ? gradient_tolerance : forward_tolerance;
        EXPECT_LE(relative_error(tensor, theirs.at(name)), tolerance) << name;
      }
    }
  }

  TemporaryFolder folder_;
};

TEST_F(Parity, StepAgreesWithPyTorchInFp64) {
  constexpr double kRoundoff = std::numeric_limits<double>::epsilon() / 2;
  compare_steps(at::kDouble, /*count=*/8, /*last_side=*/1, kForwardRoundoffs * kRoundoff,
                kGradientRoundoffs * kRoundoff);
}

TEST_F(Parity, StepAgreesWithPyTorchInFp32) {
  constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2;
  compare_steps(at::kFloat, /*count=*/4, /*last_side=*/2, kForwardRoundoffs * kRoundoff,
                kGatesInFp32);
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
  LoadOptions load;
  load.use_cache = false;
  const Split split = load_dataset("fashion-mnist", load).train;
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
    cases.push_back({make_model(ModelSpec(), at::kDouble), nesterov, clip});
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
