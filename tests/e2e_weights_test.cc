// `import`, `export` and `train --weights` as a person or a script runs them. How much weights from
// elsewhere help is not judged here.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/files.h"
#include "base/for_test.h"
#include "model/resnet.h"
#include "nginx.h"
#include "program.h"
#include "record/full_disk_for_test.h"
#include "record/safetensors.h"
#include "record/torch_file.h"
#include "small_data.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class E2eWeights : public testing::Test {
 protected:
  E2eWeights() {
    ModelSpec spec;
    spec.num_classes = 3;
    spec.image_size = 16;
    model_ = make_model(spec, 5);
    write_torch_file(folder_ / "weights.pth", model_->state());
    write_small_part(folder_ / "photos/train", {"a", "b", "c"}, 8, 16);
    write_small_part(folder_ / "photos/test", {"a", "b", "c"}, 4, 16, 100);
    options_.working_directory = folder_.path();
  }
  ProgramResult run(const std::vector<std::string>& args) { return run_program(args, options_); }
  ProgramResult import(std::vector<std::string> more) {
    std::vector<std::string> args = {"import", "weights.pth", "--model", "resnet18"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  }

  // New weights of `spec` in the folder "a", exported as .pth, and what importing that into the
  // folder "b" gives.
  ProgramResult through_pth(const ModelSpec& spec) {
    save_model(RunFolder::create(folder_ / "a"), *make_model(spec, 5));
    EXPECT_EQ(run({"export", "a", "--to", "pth"}).exit_code, 0);
    return run({"import", "a/" + spec.name + ".pth", "--model", spec.name, "--out", "b"});
  }

  ProgramResult train(std::vector<std::string> more) {
    std::vector<std::string> args = {"train", "--data",   "photos",    "--batch",     "8",   "--lr",
                                     "0.01",  "--kernel", kTestKernel, "--precision", "fp32"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  }

  std::unique_ptr<Model> model_;
  TemporaryFolder folder_;
  ProgramOptions options_;
};

std::map<std::string, at::Tensor> by_name(const NamedTensors& tensors) {
  return {tensors.begin(), tensors.end()};
}

TEST_F(E2eWeights, ImportMakesARunAndSaysWhatItAssumed) {
  const ProgramResult text = import({"--out", "run"});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("cifar stem, 3 classes"), HasSubstr("CIFAR's"),
                              HasSubstr("0.4914,0.4822,0.4465"), HasSubstr("classes by number")));
  const auto expected = by_name(model_->state());
  for (const auto& [name, tensor] : read_safetensors(folder_ / "run/model.safetensors").tensors)
    EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;

  const ProgramResult given = import({"--out", "given", "--mean", "0.1,0.2,0.3", "--std",
                                      "0.4,0.5,0.6", "--input-size", "16", "--json"});
  ASSERT_EQ(given.exit_code, 0) << given.err;
  const json object = json::parse(given.out);
  EXPECT_EQ(object.at("schema"), "skipway.import/1");
  EXPECT_EQ(object.at("stem"), "cifar");
  EXPECT_EQ(object.at("input_size"), 16);
  EXPECT_EQ(object.at("mean"), (json{0.1, 0.2, 0.3}));
  EXPECT_EQ(object.at("weights_sha256"),
            hash_of_file(HashKind::kSha256, folder_ / "given/model.safetensors"));

  const ProgramResult eval = run({"eval", "given", "--data", "photos", "--json"});
  EXPECT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_EQ(json::parse(eval.out).at("n"), 12);
  std::set<std::string> tested;
  const json per_class = json::parse(eval.out).at("per_class");
  for (const auto& [name, accuracy] : per_class.items()) tested.insert(name);
  EXPECT_EQ(tested, (std::set<std::string>{"a", "b", "c"}));

  const ProgramResult mean = import({"--out", "mean", "--mean", "0.1,0.2,0.3", "--json"});
  ASSERT_EQ(mean.exit_code, 0) << mean.err;
  EXPECT_EQ(json::parse(mean.out).at("mean"), (json{0.1, 0.2, 0.3}));
  EXPECT_EQ(json::parse(mean.out).at("std"), (json{0.2023, 0.1994, 0.2010}));
}

TEST_F(E2eWeights, WhatIsThereIsNotOverwritten) {
  folder_.write("run/notes.txt", "mine");
  EXPECT_EQ(import({"--out", "run"}).exit_code, 2);
  EXPECT_FALSE(fs::exists(folder_ / "run/model.safetensors"));

  ASSERT_EQ(import({"--out", "new"}).exit_code, 0);
  folder_.write("x.pth", "mine");
  EXPECT_EQ(run({"export", "new", "--to", "pth", "--out", "x.pth"}).exit_code, 2);
  EXPECT_EQ(read_file(folder_ / "x.pth"), "mine");
}

TEST_F(E2eWeights, WeightsThatDoNotFitAreNamedWithBothShapes) {
  const ProgramResult stem = import({"--stem", "imagenet", "--out", "run"});
  EXPECT_EQ(stem.exit_code, 7);
  EXPECT_THAT(stem.err,
              AllOf(HasSubstr("conv1.weight"), HasSubstr("[64,3,7,7]"), HasSubstr("[64,3,3,3]")));
  const ProgramResult classes = import({"--classes", "10", "--out", "run"});
  EXPECT_EQ(classes.exit_code, 7);
  EXPECT_THAT(classes.err, AllOf(HasSubstr("fc.bias is [10]"), HasSubstr("[3]")));

  NamedTensors changed = model_->state();
  changed[1].first = "bn1.gamma";
  write_torch_file(folder_ / "weights.pth", changed);
  const ProgramResult keys = import({"--out", "run", "--json"});
  EXPECT_EQ(keys.exit_code, 7);
  EXPECT_THAT(keys.err, AllOf(HasSubstr("missing bn1.weight"), HasSubstr("unexpected bn1.gamma")));
  EXPECT_EQ(json::parse(keys.out).at("error").at("exit_code"), 7);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(E2eWeights, DamagedFilesAreData) {
  const std::string whole = read_file(folder_ / "weights.pth");
  folder_.write("weights.pth", whole.substr(0, whole.size() / 2));
  EXPECT_EQ(import({"--out", "run"}).exit_code, 3);
  folder_.write("half.safetensors", std::string("\x40\x01\0\0\0\0\0\0{", 9));
  EXPECT_EQ(run({"import", "half.safetensors", "--model", "resnet18", "--out", "run"}).exit_code,
            3);
  EXPECT_EQ(run({"import", "absent.pth", "--model", "resnet18", "--out", "run"}).exit_code, 3);
  EXPECT_EQ(run({"import", "weights.pth", "--out", "run"}).exit_code, 3);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(E2eWeights, ExportAndImportAreInverse) {
  ASSERT_EQ(import({"--out", "a", "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6"}).exit_code, 0);
  for (const std::string format : {"safetensors", "pth"}) {
    const ProgramResult exported = run({"export", "a", "--to", format, "--json"});
    ASSERT_EQ(exported.exit_code, 0) << exported.err;
    const json object = json::parse(exported.out);
    EXPECT_EQ(object.at("file"), "a/resnet18." + format);
    EXPECT_EQ(object.at("sha256"),
              hash_of_file(HashKind::kSha256, folder_ / ("a/resnet18." + format)));
  }
  for (const auto& file : fs::directory_iterator(folder_ / "a"))
    EXPECT_THAT(file.path().filename().string(), Not(HasSubstr(".tmp")));
  // A file of Skipway's own says all that is to be known of it.
  ASSERT_EQ(run({"import", "a/resnet18.safetensors", "--out", "b"}).exit_code, 0);
  EXPECT_EQ(read_file(folder_ / "a/model.safetensors"), read_file(folder_ / "b/model.safetensors"));
}

TEST_F(E2eWeights, AttentionComesOutAndInAgain) {
  ModelSpec spec = model_->spec();
  spec.attention = "se";
  const ProgramResult imported = through_pth(spec);
  ASSERT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_THAT(imported.out, HasSubstr("attention se"));
}

TEST_F(E2eWeights, AnAirbenchComesOutAndInAgain) {
  ModelSpec spec = model_->spec();
  spec.name = "airbench93";
  spec.image_size = 32;
  const ProgramResult imported = through_pth(spec);
  ASSERT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_THAT(imported.out, HasSubstr("airbench93, cifar stem, 3 classes, images of 32 x 32"));
  const auto expected = by_name(read_safetensors(folder_ / "a/model.safetensors").tensors);
  const NamedTensors tensors = read_safetensors(folder_ / "b/model.safetensors").tensors;
  ASSERT_EQ(tensors.size(), expected.size());
  for (const auto& [name, tensor] : tensors)
    EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;
  const ProgramResult eval = run({"eval", "b", "--data", "photos"});
  EXPECT_EQ(eval.exit_code, 0);
  EXPECT_THAT(eval.out, HasSubstr("six-view TTA"));
  EXPECT_THAT(eval.err, HasSubstr("class 0 is taken for 'a'"));
}

TEST_F(E2eWeights, WeightsThatAreNotFiniteAreSaidToBe) {
  const at::NoGradGuard no_grad;
  at::Tensor(model_->parameters().front().second).fill_(std::numeric_limits<float>::quiet_NaN());
  write_torch_file(folder_ / "weights.pth", model_->state());
  const ProgramResult imported = import({"--out", "run"});
  EXPECT_EQ(imported.exit_code, 7);
  EXPECT_THAT(imported.err, AllOf(HasSubstr("conv1.weight"), HasSubstr("weights.pth")));
  EXPECT_EQ(train({"--weights", "weights.pth", "--epochs", "1"}).exit_code, 7);

  save_model(RunFolder::create(folder_ / "a"), *model_);
  const ProgramResult exported = run({"export", "a", "--to", "pth"});
  EXPECT_EQ(exported.exit_code, 7);
  EXPECT_THAT(exported.err, AllOf(HasSubstr("conv1.weight"), HasSubstr("a/model.safetensors")));
}

TEST_F(E2eWeights, AFrozenBackboneIsTheOneThatCame) {
  ASSERT_EQ(import({"--out", "start", "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6"}).exit_code,
            0);
  EXPECT_THAT(run({"config", "show", "--weights", "start"}).out,
              HasSubstr("mean = \"0.1,0.2,0.3\"  # weights"));
  const ProgramResult result =
      train({"--weights", "start", "--epochs", "1", "--freeze-epochs", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("/start; the head with them"));
  EXPECT_THAT(read_file(folder_ / "runs/001/config.toml"),
              AllOf(HasSubstr("mean = \"0.1,0.2,0.3\"  # weights"),
                    HasSubstr("stem = \"cifar\"  # weights")));
  const auto expected = by_name(model_->state());
  for (const auto& [name, tensor] :
       read_safetensors(folder_ / "runs/001/model.safetensors").tensors)
    EXPECT_EQ(at::equal(tensor, expected.at(name)), !name.starts_with("fc.")) << name;
  EXPECT_EQ(run({"eval", "runs/001", "--json"}).exit_code, 0);

  // Of two classes in place of three.
  write_small_part(folder_ / "two/train", {"a", "b"}, 8, 16);
  write_small_part(folder_ / "two/test", {"a", "b"}, 4, 16, 100);
  const ProgramResult two = train({"--weights", "weights.pth", "--epochs", "1", "--data", "two"});
  ASSERT_EQ(two.exit_code, 0) << two.err;
  EXPECT_THAT(two.err, HasSubstr("the head is new, for 2 classes in place of 3 others"));
}

TEST_F(E2eWeights, AResumeNeedsNoFileAndGivesTheSameWeights) {
  const std::vector<std::string> flags = {"--recipe",        "finetune", "--weights", "weights.pth",
                                          "--epochs",        "12",       "--lr",      "0.001",
                                          "--freeze-epochs", "2",        "--json"};
  const ProgramResult whole = train(flags);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  options_.signal_at_text = "epoch   1.00";
  options_.signal = SIGINT;
  const ProgramResult stopped = train(flags);
  ASSERT_EQ(stopped.exit_code, 130) << stopped.err;
  options_.signal = 0;
  options_.signal_at_text.clear();
  fs::remove(folder_ / "weights.pth");
  const ProgramResult resumed = run({"resume", "runs/002", "--json"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(json::parse(resumed.out).at("weights_sha256"),
            json::parse(whole.out).at("weights_sha256"));
}

TEST_F(E2eWeights, ARunIsRepeatedFromAnotherFolder) {
  const ProgramResult first = train({"--weights", "weights.pth", "--epochs", "1", "--json"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  fs::create_directories(folder_ / "elsewhere");
  options_.working_directory = folder_ / "elsewhere";
  const ProgramResult again = run({"train", "--config", "../runs/001/config.toml", "--json"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(json::parse(again.out).at("weights_sha256"),
            json::parse(first.out).at("weights_sha256"));
}

TEST_F(E2eWeights, ImportedWeightsAreNothingToResume) {
  ASSERT_EQ(import({"--out", "start"}).exit_code, 0);
  const ProgramResult result = run({"resume", "start", "--json"});
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(json::parse(result.out).at("error").at("kind"), "checkpoint");
  EXPECT_THAT(result.err, HasSubstr("train --weights start"));
}

TEST_F(E2eWeights, AFolderThatCannotBeMadeIsNamedWithItsFlag) {
  const ProgramResult disk = import({"--out", "/proc/none"});
  EXPECT_EQ(disk.exit_code, 9);
  EXPECT_THAT(disk.err, HasSubstr("choose another with --out"));
  const ProgramResult taken = import({"--out", "photos"});
  EXPECT_EQ(taken.exit_code, 2);
  EXPECT_THAT(taken.err,
              AllOf(HasSubstr("choose another with --out"), Not(HasSubstr("skipway resume"))));
}

TEST_F(E2eWeights, AnImportThatDoesNotFitOnTheDiskCanBeRepeated) {
  {
    const FullDisk full(1 << 20);  // of the programs that start meanwhile, too
    EXPECT_EQ(import({"--out", "start"}).exit_code, 9);
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "start"));
  EXPECT_EQ(import({"--out", "start"}).exit_code, 0);
}

TEST_F(E2eWeights, TrainRefusesWeightsThatDoNotFit) {
  const ProgramResult shapes =
      train({"--weights", "weights.pth", "--model", "resnet34", "--epochs", "1"});
  EXPECT_EQ(shapes.exit_code, 7);
  EXPECT_THAT(shapes.err, HasSubstr("missing layer1.2.conv1.weight"));
  ASSERT_EQ(import({"--out", "start"}).exit_code, 0);
  EXPECT_EQ(train({"--weights", "start", "--model", "resnet34", "--epochs", "1"}).exit_code, 7);
  folder_.write("half.pth", read_file(folder_ / "weights.pth").substr(0, 100'000));
  EXPECT_EQ(train({"--weights", "half.pth", "--epochs", "1"}).exit_code, 3);
  EXPECT_EQ(train({"--weights", "photos", "--epochs", "1"}).exit_code, 2);
  for (const auto& flags : {std::vector<std::string>{"--recipe", "finetune"},
                            {"--freeze-epochs", "1", "--epochs", "1"},
                            {"--weights", "start", "--model", "airbench94"},
                            {"--weights", "start", "--layer-lr-decay", "1.5"}}) {
    const ProgramResult result = train(flags);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("--"));
  }
  EXPECT_FALSE(fs::exists(folder_ / "runs/001"));
}

TEST_F(E2eWeights, AnUnknownPublishedNameListsThoseThatAreKnown) {
  const ProgramResult unknown = run({"import", "torchvision:resnet19", "--out", "run"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("resnet50-v2"));
}

// The root of a negative variance, which a file may have, is none.
TEST_F(E2eWeights, OutputsThatAreNotFiniteAreNoPrediction) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : model_->state())
    if (name == "bn1.running_var") at::Tensor(tensor).fill_(-1);
  write_torch_file(folder_ / "weights.pth", model_->state());
  ASSERT_EQ(import({"--out", "bad"}).exit_code, 0);
  for (const auto& args : {std::vector<std::string>{"predict", "bad", "photos/test/a"},
                           {"eval", "bad", "--data", "photos"}}) {
    const ProgramResult result = run(args);
    EXPECT_EQ(result.exit_code, 7) << result.out;
    EXPECT_THAT(result.err, HasSubstr("expected finite outputs"));
  }
}

// The way of published weights to its end, with weights of this test's own.
TEST_F(E2eWeights, WeightsComeFromAnAddressOnceAndAreKnownByTheirChecksum) {
  if (const std::string missing = Nginx::missing(); !missing.empty()) GTEST_SKIP() << missing;
  const std::string bytes = read_file(folder_ / "weights.pth");
  const std::string digits = hash_of(HashKind::kSha256, bytes).substr(0, 8);
  const std::string name = "mine-" + digits + ".pth", wrong = "mine-0123abcd.pth";
  Nginx server;
  for (const std::string& file : {name, wrong, std::string("mine.pth")})
    write_file_atomic(server.root() / file, bytes);
  server.start();
  const auto import_from = [&](const std::string& file, const std::string& out) {
    return run({"import", server.url(file), "--model", "resnet18", "--out", out});
  };
  const ProgramResult first = import_from(name, "first");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  ASSERT_EQ(import({"--out", "file"}).exit_code, 0);
  EXPECT_EQ(read_file(folder_ / "first/model.safetensors"),
            read_file(folder_ / "file/model.safetensors"));
  EXPECT_THAT(server.requests(1), ElementsAre(StartsWith("200 /" + name)));
  EXPECT_EQ(import_from(name, "second").exit_code, 0);
  EXPECT_EQ(server.requests(1).size(), 1u) << "fetched again";
  const ProgramResult trained = train({"--weights", server.url(name), "--epochs", "1"});
  EXPECT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_THAT(read_file(folder_ / "runs/001/config.toml"),
              HasSubstr("weights = \"" + server.url(name) + "\""));

  const ProgramResult other = import_from(wrong, "third");
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_THAT(other.err, AllOf(HasSubstr("0123abcd"), HasSubstr(digits)));
  const ProgramResult unnamed = import_from("mine.pth", "third");
  EXPECT_EQ(unnamed.exit_code, 2);
  EXPECT_THAT(unnamed.err, HasSubstr("SHA-256"));
  EXPECT_FALSE(fs::exists(folder_ / "third"));
}

}  // namespace
}  // namespace skipway
