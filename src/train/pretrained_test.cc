// Weights to begin with: where they are looked for, what of them is taken, and what training then
// leaves as it is.
#include "train/pretrained.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/for_test.h"
#include "base/log.h"
#include "model/resnet.h"
#include "record/safetensors.h"
#include "record/torch_file.h"
#include "train/freeze.h"
#include "train/learner.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

using testing::HasSubstr;

ModelSpec spec_of(std::vector<std::string> classes) {
  ModelSpec spec;
  spec.image_size = 8;
  spec.num_classes = static_cast<int64_t>(classes.size());
  spec.classes = std::move(classes);
  return spec;
}

std::map<std::string, at::Tensor> copy_of(const NamedTensors& tensors) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : tensors) copies[name] = tensor.detach().clone();
  return copies;
}

bool is_head(const std::string& name) { return name.starts_with("fc."); }
bool is_batch_norm(const std::string& name) {
  return name.find("bn") != std::string::npos || name.find("downsample.1") != std::string::npos;
}

class PretrainedTest : public testing::Test {
 protected:
  PretrainedTest() : model_(spec_of({"a", "b", "c"}), 5) {}

  // Of the classes x, y, z, from model_'s weights in a run's folder.
  Config config() {
    save_model(RunFolder::create(folder_ / "run"), model_);
    Config config;
    config.weights = (folder_ / "run").string();
    config.precision = "fp32";
    config.batch = 6;
    config.optimizer = "sgd";
    config.bias_lr = 1;
    return config;
  }
  static Dataset noise(std::vector<std::string> classes) {
    Dataset data;
    data.classes = std::move(classes);
    data.image_size = 8;
    data.train.labels = at::arange(12).remainder(3);
    data.train.images = at::randint(0, 256, {12, 8, 8, 3}, at::kByte);
    data.test = data.train;
    return data;
  }
  static void train(Learner& learner) {
    for (int64_t step = 0; step < 2; ++step) {
      learner.backward(learner.batches.at_step(step));
      learner.optimizer.step(0.1);
    }
  }

  TemporaryFolder folder_;
  ResNet model_;
};

TEST_F(PretrainedTest, WrappersPrefixesAndMissingCountsAreMadeGood) {
  NamedTensors tensors;
  for (const auto& [name, tensor] : model_.state())
    if (!name.ends_with("num_batches_tracked"))
      tensors.emplace_back("state_dict.module." + name, tensor);
  tensors.emplace_back("optimizer.state.0.momentum_buffer", at::ones(3));
  write_torch_file(folder_ / "x.pth", tensors);
  const Pretrained read = read_pretrained((folder_ / "x.pth").string());
  EXPECT_FALSE(read.spec.has_value());
  ResNet other(spec_of({"a", "b", "c"}), 6);
  other.load_state(read.tensors, "x.pth");
  EXPECT_TRUE(at::equal(other.stem_weight(), model_.stem_weight()));
}

TEST_F(PretrainedTest, AFileIsReadByWhatItHoldsWhateverItsName) {
  write_torch_file(folder_ / "x.safetensors", model_.state());
  write_safetensors(folder_ / "x.bin", model_.state(),
                    {{"model", "resnet18"}, {"num_classes", "3"}});
  for (const char* name : {"x.safetensors", "x.bin"}) {
    const Pretrained read = read_pretrained((folder_ / name).string());
    EXPECT_FALSE(read.spec.has_value()) << name;
    EXPECT_EQ(copy_of(read.tensors).size(), model_.state().size()) << name;
  }
}

TEST_F(PretrainedTest, ShapesTellTheStemAndTheClasses) {
  const ModelSpec cifar = spec_from_shapes({model_.state(), {}, ""}, "resnet18");
  EXPECT_EQ(cifar.stem, "cifar");
  EXPECT_EQ(cifar.num_classes, 3);
  EXPECT_EQ(cifar.image_size, 32);
  EXPECT_EQ(cifar.normalisation.mean[0], 0.4914);
  ModelSpec spec;
  spec.stem = "imagenet";
  spec.num_classes = 7;
  const ModelSpec imagenet = spec_from_shapes({ResNet(spec, 1).state(), {}, ""}, "resnet18");
  EXPECT_EQ(imagenet.stem, "imagenet");
  EXPECT_EQ(imagenet.num_classes, 7);
  EXPECT_EQ(imagenet.image_size, 224);
  EXPECT_EQ(imagenet.normalisation.mean[0], 0.485);
}

TEST_F(PretrainedTest, NamesTellTheAttention) {
  for (const char* attention : {"none", "se", "eca", "cbam"}) {
    ModelSpec spec = spec_of({"a", "b", "c"});
    spec.attention = attention;
    EXPECT_EQ(spec_from_shapes({ResNet(spec, 1).state(), {}, ""}, "resnet18").attention, attention);
  }
}

TEST_F(PretrainedTest, WeightsThatAreNotFiniteAreRefusedByName) {
  NamedTensors tensors = model_.state();
  for (auto& [name, tensor] : tensors)
    if (name == "layer2.0.bn1.weight") {
      tensor = tensor.detach().clone();
      tensor[1] = std::numeric_limits<float>::quiet_NaN();
    }
  write_torch_file(folder_ / "x.pth", tensors);
  const Error error = error_of([&] { read_pretrained((folder_ / "x.pth").string()); });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), HasSubstr("layer2.0.bn1.weight"));
  EXPECT_THAT(error.what(), HasSubstr("x.pth"));
}

TEST_F(PretrainedTest, TheHeadIsNewWhereTheClassesAreOthers) {
  const Pretrained weights{model_.state(), model_.spec(), "x"};
  const auto ours = copy_of(model_.state());
  const auto head_is_kept = [&](const std::vector<std::string>& classes, const Pretrained& from) {
    ResNet model(spec_of(classes), 6);
    const auto before = copy_of(model.state());
    load_pretrained(model, from);
    const auto after = copy_of(model.state());
    for (const auto& [name, tensor] : after)
      EXPECT_TRUE(is_head(name) || at::equal(tensor, ours.at(name))) << name;
    if (at::equal(after.at("fc.weight"), before.at("fc.weight"))) return false;
    EXPECT_TRUE(at::equal(after.at("fc.weight"), ours.at("fc.weight")));
    return true;
  };
  EXPECT_TRUE(head_is_kept({"a", "b", "c"}, weights));
  EXPECT_FALSE(head_is_kept({"x", "y", "z"}, weights));
  EXPECT_FALSE(head_is_kept({"a", "b"}, weights));
  // Without names the same number is all that can be known.
  EXPECT_TRUE(head_is_kept({"x", "y", "z"}, {model_.state(), {}, "x"}));
  // A backbone without a head, of as many classes as such weights are taken to have.
  NamedTensors backbone = model_.state();
  std::erase_if(backbone, [](const auto& pair) { return is_head(pair.first); });
  EXPECT_FALSE(
      head_is_kept({"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, {backbone, {}, "x"}));
}

TEST_F(PretrainedTest, WarnsOfImagesThatAreNotOfTheStemsSize) {
  const auto warning = [](const std::string& stem, int64_t size_of_weights, int64_t size) {
    ModelSpec spec = spec_of({"a", "b"});
    spec.stem = stem;
    spec.image_size = size_of_weights;
    const Pretrained weights{ResNet(spec, 5).state(), spec, "x"};
    spec.image_size = size;
    ResNet model(spec, 6);
    const LogLines log;
    load_pretrained(model, weights);
    const size_t at = log.text().find("warning: ");
    return at == std::string::npos ? "" : log.text().substr(at);
  };
  EXPECT_THAT(warning("imagenet", 224, 128), HasSubstr("--image-size 224 enlarges them"));
  EXPECT_THAT(warning("cifar", 32, 128), HasSubstr("--image-size 32 reduces them"));
  EXPECT_EQ(warning("imagenet", 128, 224), "");
  EXPECT_EQ(warning("cifar", 32, 64), "");
  EXPECT_EQ(warning("cifar", 128, 128), "");
}

TEST_F(PretrainedTest, WeightsOfAnotherModelAreNamedAndChangeNothing) {
  ModelSpec spec = spec_of({"a", "b", "c"});
  spec.name = "resnet34";
  ResNet larger(spec, 1);
  const auto before = copy_of(larger.state());
  const Error error = error_of([&] { load_pretrained(larger, {model_.state(), {}, "x.pth"}); });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), HasSubstr("missing layer1.2.conv1.weight"));
  EXPECT_THAT(error.what(), HasSubstr("x.pth"));
  EXPECT_THAT(error.what(), HasSubstr(" more; see whether --model"));
  for (const auto& [name, tensor] : larger.state())
    EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST_F(PretrainedTest, PrefixesComeOffInAnyOrderAndNumber) {
  const fs::path path = folder_ / "x.pth";
  const auto names_of = [&](const NamedTensors& tensors) {
    write_torch_file(path, tensors);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : read_pretrained(path.string()).tensors) names.push_back(name);
    return names;
  };
  const at::Tensor one = at::ones({1});
  for (const char* prefix :
       {"", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.",
        "state_dict.", "model_state_dict.", "state_dict.model.", "state_dict.model._orig_mod."})
    EXPECT_EQ(names_of({{std::string(prefix) + "conv1.weight", one}}),
              std::vector<std::string>{"conv1.weight"})
        << prefix;
  const Error error = error_of([&] {
    names_of({{"conv1.weight", one}, {"module.conv1.weight", at::zeros({1})}});
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), HasSubstr("conv1.weight twice"));
}

TEST_F(PretrainedTest, FilesWithoutWeightsAreRefused) {
  write_torch_file(folder_ / "empty.pth", {});
  EXPECT_EQ(error_of([&] { read_pretrained((folder_ / "empty.pth").string()); }).kind(),
            ErrorKind::kCheckpoint);
  folder_.write("short.safetensors", "12");
  EXPECT_EQ(error_of([&] { read_pretrained((folder_ / "short.safetensors").string()); }).kind(),
            ErrorKind::kData);
  EXPECT_EQ(error_of([&] { read_pretrained(folder_.path().string()); }).kind(), ErrorKind::kUsage);
}

TEST_F(PretrainedTest, AFrozenBackboneStaysAndTheHeadLearns) {
  for (const char* kernel : {"torch", "winograd"}) {
    Config settings = config();
    settings.kernel = kernel;
    Learner learner(settings, noise({"x", "y", "z"}));
    learner.model->set_frozen(/*backbone=*/true, /*batch_norm=*/false);
    const auto before = copy_of(learner.model->state());
    // The features are those of evaluation.
    const at::Tensor images = at::randn({2, 3, 8, 8});
    EXPECT_TRUE(at::allclose(learner.model->forward(images, true),
                             learner.model->forward(images, false), 1e-4, 1e-5));
    train(learner);
    for (const auto& [name, tensor] : learner.model->state())
      EXPECT_EQ(at::equal(tensor, before.at(name)), !is_head(name)) << name;

    learner.model->set_frozen(false, false);
    train(learner);
    for (const auto& [name, tensor] : learner.model->state())
      EXPECT_FALSE(at::equal(tensor, before.at(name))) << name;
    fs::remove_all(folder_ / "run");
  }
}

TEST_F(PretrainedTest, FrozenBatchNormsStayAndTheFiltersLearn) {
  Config settings = config();
  settings.kernel = "winograd";  // which has no such gradients, and leaves them to LibTorch
  Learner learner(settings, noise({"x", "y", "z"}));
  learner.model->set_frozen(/*backbone=*/false, /*batch_norm=*/true);
  const auto before = copy_of(learner.model->state());
  train(learner);
  for (const auto& [name, tensor] : learner.model->state())
    EXPECT_EQ(at::equal(tensor, before.at(name)), is_batch_norm(name)) << name;
}

TEST_F(PretrainedTest, TheFlagFreezesBatchNormInEveryEpoch) {
  Config settings = config();
  settings.freeze_batch_norm = true;
  Learner learner(settings, noise({"x", "y", "z"}));
  const auto before = copy_of(learner.model->state());
  train(learner);
  freeze_at(/*epoch=*/1, settings, *learner.model);
  train(learner);
  for (const auto& [name, tensor] : learner.model->state())
    EXPECT_EQ(at::equal(tensor, before.at(name)), is_batch_norm(name)) << name;
}

TEST_F(PretrainedTest, RatesFallFromTheHeadToTheStem) {
  Config settings = config();
  settings.kernel = "torch";
  settings.momentum = settings.weight_decay = 0;
  settings.nesterov = false;
  settings.layer_lr_decay = 0.5;
  Learner learner(settings, noise({"x", "y", "z"}));
  const auto before = copy_of(learner.model->parameters());
  learner.backward(learner.batches.at_step(0));
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, parameter] : learner.model->parameters())
    gradients[name] = parameter.grad().clone();
  learner.optimizer.step(0.1);
  for (const auto& [name, parameter] : learner.model->parameters()) {
    const double factor = std::pow(0.5, static_cast<double>(stages_from_head(name)));
    EXPECT_TRUE(at::allclose(parameter.detach(),
                             before.at(name) - 0.1 * factor * gradients.at(name), 1e-5, 1e-6))
        << name;
  }
  EXPECT_EQ(stages_from_head("fc.bias"), 0);
  EXPECT_EQ(stages_from_head("layer4.1.bn2.weight"), 1);
  EXPECT_EQ(stages_from_head("layer1.0.conv1.weight"), 4);
  EXPECT_EQ(stages_from_head("bn1.bias"), 5);
}

}  // namespace
}  // namespace skipway
