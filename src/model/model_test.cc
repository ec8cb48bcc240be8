// What the ResNet promises beside its numbers, which tests/parity_test.cc compares with PyTorch.
#include "model/resnet.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <tuple>

#include "base/for_test.h"
#include "model/device.h"

namespace skipway {
namespace {

using testing::HasSubstr;

ModelSpec make_spec(const std::string& name, const std::string& stem, int64_t image_size,
                    int64_t num_classes) {
  ModelSpec spec;
  spec.name = name;
  spec.stem = stem;
  spec.image_size = image_size;
  spec.num_classes = num_classes;
  return spec;
}

// A model small enough for tests that do not look at its size: 8 pixels a side.
ModelSpec tiny_spec() { return make_spec("resnet18", "cifar", 8, 10); }

ModelSpec with_attention(ModelSpec spec, const std::string& attention) {
  spec.attention = attention;
  return spec;
}

at::Tensor random_images(int64_t count, int64_t size) {
  return at::randn({count, 3, size, size}, at::detail::createCPUGenerator(7))
      .contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor find(const NamedTensors& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == tensors.end() ? at::Tensor() : found->second;
}

// Bytes that this thread's tensors hold on the CPU, counted while it lives.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, at::Device) override {
    bytes += size;
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t bytes = 0;
};

TEST(ModelCost, IsThatOfThePublishedModels) {
  const auto cost = [](const char* name, const char* stem, int64_t size, int64_t classes) {
    return model_cost(make_spec(name, stem, size, classes), 4);
  };
  EXPECT_EQ(cost("resnet18", "imagenet", 224, 1000).parameters, 11689512);
  EXPECT_EQ(cost("resnet34", "imagenet", 224, 1000).parameters, 21797672);
  EXPECT_EQ(cost("resnet50", "imagenet", 224, 1000).parameters, 25557032);
  EXPECT_EQ(cost("resnet101", "imagenet", 224, 1000).parameters, 44549160);
  EXPECT_EQ(cost("resnet152", "imagenet", 224, 1000).parameters, 60192808);
  EXPECT_EQ(cost("resnet18", "cifar", 32, 10).parameters, 11173962);
  EXPECT_NEAR(cost("resnet18", "imagenet", 224, 1000).macs / 1e9, 1.814, .0005);
  EXPECT_NEAR(cost("resnet34", "imagenet", 224, 1000).macs / 1e9, 3.664, .0005);
  EXPECT_NEAR(cost("resnet50", "imagenet", 224, 1000).macs / 1e9, 4.089, .0005);
  EXPECT_NEAR(cost("resnet101", "imagenet", 224, 1000).macs / 1e9, 7.801, .0005);
  EXPECT_NEAR(cost("resnet152", "imagenet", 224, 1000).macs / 1e9, 11.514, .0005);
  EXPECT_NEAR(cost("resnet18", "cifar", 32, 10).macs / 1e9, 0.5554, .00005);
  const int64_t of_airbench94[] = {24 * 12 * 31 * 31,  // whitening
                                   64 * 24 * 9 * 31 * 31,
                                   64 * 64 * 9 * 15 * 15,  // each group
                                   256 * 64 * 9 * 15 * 15,
                                   256 * 256 * 9 * 7 * 7,
                                   256 * 256 * 9 * 7 * 7,
                                   256 * 256 * 9 * 3 * 3,
                                   256 * 10};  // head
  EXPECT_EQ(cost("airbench94", "cifar", 32, 10).macs,
            std::accumulate(std::begin(of_airbench94), std::end(of_airbench94), int64_t{0}));
}

TEST(ModelCost, OfAttentionIsTimms) {
  const auto parameters = [](const char* name, const char* attention) {
    return model_cost(with_attention(make_spec(name, "imagenet", 224, 10), attention), 4)
        .parameters;
  };
  EXPECT_EQ(parameters("resnet18", "se"), 11271754);
  EXPECT_EQ(parameters("resnet50", "se"), 26059514);
  EXPECT_EQ(parameters("resnet18", "eca"), 11181678);
  EXPECT_EQ(parameters("resnet50", "eca"), 23528608);
  EXPECT_EQ(parameters("resnet18", "cbam"), 11269482);
  EXPECT_EQ(parameters("resnet50", "cbam"), 26045066);
}

TEST(ModelCost, CountsTheParametersThatAreBuilt) {
  // The others repeat these blocks; the parity tests build them.
  for (const std::string name : {"resnet18", "resnet50", "airbench94", "airbench96"}) {
    for (const char* stem : {"cifar", "imagenet"}) {
      const ModelSpec spec = make_spec(name, stem, 32, 7);
      const std::unique_ptr<Model> model = make_model(spec, 1);
      int64_t built = 0;
      for (const auto& [key, tensor] : model->parameters()) built += tensor.numel();
      EXPECT_EQ(model_cost(spec, 4).parameters, built) << name << " " << stem;
    }
  }
}

TEST(ModelCost, ActivationBytesAreWhatForwardKeeps) {
  constexpr int64_t kBatch = 2, kSize = 16;
  // Both blocks, both stems, both types.
  const std::tuple<const char*, const char*, at::ScalarType, const char*> cases[] = {
      {"resnet18", "cifar", at::kFloat, "none"},    {"resnet18", "imagenet", at::kBFloat16, "none"},
      {"resnet50", "imagenet", at::kFloat, "none"}, {"resnet18", "cifar", at::kFloat, "se"},
      {"resnet18", "cifar", at::kBFloat16, "cbam"},
  };
  for (const auto& [name, stem, type, attention] : cases) {
    const ModelSpec spec = with_attention(make_spec(name, stem, kSize, 10), attention);
    ResNet model(spec, 1);
    const int64_t expected =
        kBatch * model_cost(spec, static_cast<int64_t>(at::elementSize(type))).activation_bytes;
    const auto live = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard counting(c10::DebugInfoKind::PROFILER_STATE, live);
    const at::Tensor images = random_images(kBatch, kSize).to(type);
    const PrecisionScope scope(at::kCPU, type);
    const at::Tensor logits = model.forward(images, /*training=*/true);

    // BatchNorm's saved statistics and the copies of the weights come on top, and the logits.
    int64_t others = 0;
    for (const auto& [key, tensor] : model.parameters()) {
      if (type != at::kFloat && tensor.dim() == 4 && key.find(".se.") == std::string::npos)
        others += 2 * tensor.numel();
      if (tensor.dim() == 1) others += 4 * tensor.numel();
    }
    // Of attention, a few numbers a channel too, which are much beside maps as small as these.
    const double tolerance = spec.attention == "none" ? .02 : .06;
    EXPECT_NEAR(live->bytes - others, expected, tolerance * expected)
        << name << " " << stem << " " << precision_name(type) << " " << attention;
  }
}

TEST(ResNet, StateIsInTorchvisionsOrder) {
  const ResNet model(make_spec("resnet50", "imagenet", 64, 10), 1);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model.state()) names.push_back(name);
  EXPECT_EQ(names.size(), 320u);
  const std::vector<std::string> units = {"conv1",
                                          "bn1",
                                          "layer1.0.conv1",
                                          "layer1.0.bn1",
                                          "layer1.0.conv2",
                                          "layer1.0.bn2",
                                          "layer1.0.conv3",
                                          "layer1.0.bn3",
                                          "layer1.0.downsample.0",
                                          "layer1.0.downsample.1",
                                          "layer1.1.conv1"};
  std::vector<std::string> expected;
  for (size_t i = 0; i < units.size(); ++i) {
    expected.push_back(units[i] + ".weight");
    if (i % 2 == 0) continue;
    for (const char* part : {".bias", ".running_mean", ".running_var", ".num_batches_tracked"})
      expected.push_back(units[i] + part);
  }
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), names.begin()));
  EXPECT_EQ(names[318], "fc.weight");
  EXPECT_EQ(names[319], "fc.bias");
}

TEST(ResNet, ParametersAreFp32ChannelsLastLeaves) {
  const ResNet model(tiny_spec(), 1);
  for (const auto& [name, tensor] : model.parameters()) {
    EXPECT_EQ(tensor.scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(tensor.requires_grad() && tensor.is_leaf()) << name;
    EXPECT_TRUE(tensor.dim() != 4 || tensor.is_contiguous(at::MemoryFormat::ChannelsLast)) << name;
  }
}

TEST(ResNet, InitialValuesDependOnTheSeedAlone) {
  const ResNet a(tiny_spec(), 5), c(tiny_spec(), 6);
  at::rand({3});  // the global generator has no part in it
  const ResNet b(tiny_spec(), 5);
  const auto same = [](const ResNet& x, const ResNet& y, const char* name) {
    return find(x.parameters(), name).equal(find(y.parameters(), name));
  };
  for (const auto& [name, tensor] : a.state()) {
    EXPECT_TRUE(tensor.equal(find(b.state(), name))) << name;
  }
  EXPECT_FALSE(same(a, c, "conv1.weight"));
  EXPECT_FALSE(same(a, c, "fc.bias"));
  EXPECT_FALSE(find(a.parameters(), "layer1.0.conv1.weight")
                   .equal(find(a.parameters(), "layer1.0.conv2.weight")));
}

TEST(ResNet, InitialValuesHaveTheSpreadOfKaimingAndOfTorchsLinear) {
  const ResNet model(tiny_spec(), 1);
  // 256 * 128 * 9 values: the deviation itself deviates by about 0.13 %.
  const at::Tensor conv = find(model.parameters(), "layer3.0.conv1.weight");
  EXPECT_NEAR(conv.std().item<double>() / std::sqrt(2. / (256 * 9)), 1, .01);
  EXPECT_NEAR(conv.mean().item<double>(), 0, .001);
  const at::Tensor linear = find(model.parameters(), "fc.weight");
  const double bound = 1 / std::sqrt(512.);
  EXPECT_LE(linear.abs().max().item<double>(), bound);
  EXPECT_NEAR(linear.std().item<double>(), bound / std::sqrt(3), .02 * bound);
}

TEST(ResNet, TrainingUpdatesStatisticsAndEvaluationLeavesThem) {
  ResNet model(tiny_spec(), 1);
  const at::Tensor images = random_images(4, 8);
  const at::Tensor mean = find(model.state(), "layer2.0.bn1.running_mean");
  const at::Tensor count = find(model.state(), "layer2.0.bn1.num_batches_tracked");
  model.forward(images, /*training=*/false);
  EXPECT_EQ(count.item<int64_t>(), 0);
  EXPECT_EQ(mean.abs().max().item<float>(), 0);
  model.forward(images, /*training=*/true);
  EXPECT_EQ(count.item<int64_t>(), 1);
  EXPECT_GT(mean.abs().max().item<float>(), 0);
}

// Every BatchNorm of a model takes it: with none of a batch's share its statistics stay.
TEST(Models, MomentumReachesEveryBatchNorm) {
  for (const std::string name : {"resnet18", "resnet50", "airbench94", "airbench96"}) {
    for (const char* attention : {"none", "cbam"}) {
      for (const char* kernel : {"torch", "winograd"}) {
        if (name.starts_with("airbench") && attention != std::string("none")) continue;
        ModelSpec spec = with_attention(make_spec(name, "cifar", 32, 10), attention);
        const std::unique_ptr<Model> model = make_model(spec, 3);
        model->kernels() = KernelChoice(kernel);
        NamedTensors before;
        for (const auto& [key, tensor] : model->state()) before.emplace_back(key, tensor.clone());
        model->set_batch_norm_momentum(0);
        const at::NoGradGuard no_grad;
        model->forward(random_images(2, 32), true);
        for (const auto& [key, tensor] : before) {
          if (key.find("running_") == std::string::npos) continue;
          EXPECT_TRUE(at::equal(find(model->state(), key), tensor))
              << name << " " << attention << " " << kernel << " " << key;
        }
      }
    }
  }
}

TEST(ResNet, OneValueOfAChannelLeavesTheStatistics) {
  for (const char* attention : {"none", "cbam"})
    for (const char* word : {"torch", "winograd", "reference"}) {
      ResNet model(with_attention(tiny_spec(), attention), 1);
      model.kernels() = KernelChoice(word);
      model.forward(random_images(1, 8), /*training=*/true);  // maps of 1x1 at the end
      for (const auto& [name, tensor] : model.state()) {
        EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name << ", " << word;
        if (name.starts_with("layer4.1.") && name.ends_with("running_var")) {
          EXPECT_TRUE(tensor.equal(at::ones_like(tensor))) << name << ", " << word;
        }
      }
    }
}

TEST(ResNet, EvaluationHasGradientsWhereTheyAreAskedFor) {
  ResNet model(tiny_spec(), 1);
  model.kernels() = KernelChoice("winograd");
  model.forward(random_images(2, 8), /*training=*/false).sum().backward();
  for (const auto& [name, parameter] : model.parameters())
    EXPECT_TRUE(parameter.grad().defined()) << name;
}

TEST(ResNet, FrozenBatchNormMeasuresNoKernels) {
  ResNet model(tiny_spec(), 1);
  model.kernels() = KernelChoice("auto");
  model.set_frozen(/*backbone=*/false, /*batch_norm=*/true);
  model.forward(random_images(2, 8), /*training=*/true);
  EXPECT_TRUE(model.kernels().measured_s().empty());
  EXPECT_TRUE(model.kernels().in_use().starts_with("torch/"));
}

TEST(ResNet, Bf16KeepsStatisticsGradientsAndLogitsInFp32) {
  ResNet model(tiny_spec(), 1), exact(tiny_spec(), 1);
  model.kernels() = KernelChoice("winograd");  // as in training
  const at::Tensor images = random_images(8, 8), labels = at::arange(8);
  for (const bool training : {true, false}) {
    const at::Tensor reference = exact.forward(images, training);
    at::Tensor loss;
    {
      const PrecisionScope scope(at::kCPU, at::kBFloat16);
      const at::Tensor logits = model.forward(images, training);
      EXPECT_EQ(logits.scalar_type(), at::kFloat);
      const double error = ((logits - reference).norm() / reference.norm()).item<double>();
      EXPECT_LT(error, .05);   // 8 bits of mantissa through 20 layers
      EXPECT_GT(error, 1e-4);  // or bf16 was not used
      loss = at::cross_entropy_loss(logits, labels);
      EXPECT_EQ(loss.scalar_type(), at::kFloat);
    }
    if (training) loss.backward();
  }
  for (const auto& [name, tensor] : model.state()) {
    EXPECT_EQ(tensor.scalar_type(), name.ends_with("num_batches_tracked") ? at::kLong : at::kFloat);
  }
  for (const auto& [name, tensor] : model.parameters()) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_EQ(tensor.grad().scalar_type(), at::kFloat) << name;
    EXPECT_EQ(tensor.grad().strides(), tensor.strides()) << name;
  }
}

TEST(ResNet, AttentionTrainsInBf16AndFoldsInInference) {
  for (const char* attention : {"se", "eca", "cbam"}) {
    SCOPED_TRACE(attention);
    ResNet model(with_attention(tiny_spec(), attention), 1);
    const at::Tensor images = random_images(8, 8), labels = at::arange(8);
    model.forward(images, /*training=*/true);
    const auto evaluate = [&] {
      const at::NoGradGuard no_grad;
      return model.forward(images, /*training=*/false);
    };
    const at::Tensor reference = evaluate();  // LibTorch's
    model.kernels() = KernelChoice("winograd");
    const at::Tensor folded = evaluate();
    EXPECT_LT(((folded - reference).norm() / reference.norm()).item<double>(), 1e-5);
    {
      const PrecisionScope scope(at::kCPU, at::kBFloat16);
      at::cross_entropy_loss(model.forward(images, /*training=*/true), labels).backward();
    }
    for (const auto& [name, tensor] : model.parameters()) {
      ASSERT_TRUE(tensor.grad().defined()) << name;
      EXPECT_EQ(tensor.grad().scalar_type(), at::kFloat) << name;
      EXPECT_GT(tensor.grad().abs().max().item<float>(), 0) << name;
    }
  }
}

TEST(ResNet, LoadedStateGivesTheSameLogits) {
  ResNet from(tiny_spec(), 1), to(tiny_spec(), 2);
  const at::Tensor images = random_images(4, 8);
  from.forward(images, /*training=*/true);
  to.load_state(from.state(), "here");
  EXPECT_TRUE(to.forward(images, false).equal(from.forward(images, false)));
  for (const auto& [name, tensor] : to.parameters()) EXPECT_TRUE(tensor.requires_grad()) << name;
}

TEST(ResNet, LoadStateShowsMissingAndUnexpectedNamesWhereAllAreOthers) {
  ResNet model(tiny_spec(), 1);
  NamedTensors state = model.state();
  for (auto& [name, tensor] : state) name = "backbone." + name;
  const Error error = error_of([&] { model.load_state(state, "here"); });
  EXPECT_THAT(error.what(), HasSubstr("missing conv1.weight"));
  EXPECT_THAT(error.what(), HasSubstr("unexpected backbone.conv1.weight"));
  EXPECT_THAT(error.what(), HasSubstr(fmt::format("{} differences", 2 * state.size())));
  EXPECT_THAT(error.what(), HasSubstr(fmt::format("and {} more", 2 * state.size() - 10)));
}

TEST(ResNet, LoadStateListsEveryDifferenceAndChangesNothing) {
  ResNet model(tiny_spec(), 1);
  const ResNet untouched(tiny_spec(), 1);
  NamedTensors state = ResNet(make_spec("resnet18", "cifar", 8, 12), 2).state();
  state.erase(state.begin() + 1);
  state.emplace_back("head.weight", at::zeros({2}));
  const Error error = error_of([&] { model.load_state(state, "a.safetensors"); });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), HasSubstr("missing bn1.weight"));
  EXPECT_THAT(error.what(), HasSubstr("unexpected head.weight"));
  EXPECT_THAT(error.what(),
              HasSubstr("fc.weight is [10,512] Float in the model and [12,512] Float in the file"));
  EXPECT_THAT(error.what(), HasSubstr("at a.safetensors"));
  for (const auto& [name, tensor] : model.state()) {
    EXPECT_TRUE(tensor.equal(find(untouched.state(), name))) << name;
  }
}

TEST(ResNet, RefusesUnknownNamesAndSizes) {
  const auto kind = [](const ModelSpec& spec) { return error_of([&] { ResNet(spec, 1); }).kind(); };
  EXPECT_EQ(kind(make_spec("resnet19", "cifar", 32, 10)), ErrorKind::kUsage);
  EXPECT_EQ(kind(make_spec("resnet18", "mnist", 32, 10)), ErrorKind::kUsage);
  EXPECT_EQ(kind(make_spec("resnet18", "cifar", 32, 0)), ErrorKind::kUsage);
  EXPECT_EQ(kind(with_attention(tiny_spec(), "sse")), ErrorKind::kUsage);
}

TEST(ResNet, AutoStemFollowsTheImageSize) {
  EXPECT_EQ(resolve_stem("auto", 64), "cifar");
  EXPECT_EQ(resolve_stem("auto", 65), "imagenet");
  EXPECT_EQ(ResNet(make_spec("resnet18", "auto", 224, 10), 1).spec().stem, "imagenet");
}

TEST(ModelSpec, SurvivesItsMetadata) {
  ModelSpec spec = with_attention(make_spec("resnet34", "imagenet", 96, 2), "eca");
  spec.classes = {"a \"quoted\" cat", "Käfer, blau"};
  spec.normalisation = {{0.1, 1. / 3, 0.5}, {0.2, 0.25, 2. / 7}};
  const ModelSpec read = spec_from_metadata(to_metadata(spec), "here");
  EXPECT_EQ(read.name, spec.name);
  EXPECT_EQ(read.stem, spec.stem);
  EXPECT_EQ(read.attention, spec.attention);
  EXPECT_EQ(read.num_classes, spec.num_classes);
  EXPECT_EQ(read.image_size, spec.image_size);
  EXPECT_EQ(read.classes, spec.classes);
  EXPECT_EQ(read.normalisation.mean, spec.normalisation.mean);
  EXPECT_EQ(read.normalisation.std, spec.normalisation.std);
}

TEST(ModelSpec, OfBeforeThereWasAttentionHasNone) {
  auto metadata = to_metadata(with_attention(tiny_spec(), "se"));
  metadata.erase("attention");
  EXPECT_EQ(spec_from_metadata(metadata, "here").attention, "none");
}

TEST(ModelSpec, NamesTheMissingOrBadKey) {
  const std::pair<const char*, const char*> bad[] = {
      {"model", "vgg"},       {"stem", "auto"},       {"num_classes", "1e9"},
      {"num_classes", "0"},   {"image_size", "32px"}, {"classes", "[\"one\"]"},
      {"classes", "cat,dog"}, {"mean", "[0.1,0.2]"},  {"std", "[1,1,0]"},
      {"std", "[1,1,null]"},  {"image_size", "-32"},  {"num_classes", "99999999999999999999"},
  };
  for (const auto& [key, value] : bad) {
    auto metadata = to_metadata(tiny_spec());
    metadata[key] = value;
    const Error error = error_of([&] { spec_from_metadata(metadata, "a.safetensors"); });
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(),
                HasSubstr(fmt::format("'{}', got '{}' at a.safetensors", key, value)));
    metadata.erase(key);
    EXPECT_THAT(error_of([&] { spec_from_metadata(metadata, "a.safetensors"); }).what(),
                HasSubstr(fmt::format("the key '{}'", key)));
  }
}

}  // namespace
}  // namespace skipway
