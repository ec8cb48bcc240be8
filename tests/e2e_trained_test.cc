// `eval` and `predict` on a model whose every prediction is known, because the test itself has
// computed it. No training.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/for_test.h"
#include "data/image.h"
#include "model/resnet.h"
#include "program.h"
#include "small_data.h"
#include "train/evaluate.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kSize = 16;
constexpr int64_t kImages = 24;

// A run folder with random weights, and images/NNN.png with what the model says of them.
class E2eTrained : public testing::Test {
 protected:
  E2eTrained() : model_(spec(), 5) {
    std::filesystem::create_directories(folder_ / "images");
    for (int64_t i = 0; i < kImages; ++i) {
      const Image image = small_image(i, i, kSize);
      images_.push_back(
          at::tensor(at::ArrayRef<uint8_t>(image.rgb), at::kByte).view({kSize, kSize, 3}));
      write_png(image_path(i), image);
    }
    spread_predictions();
    save_model(RunFolder::create(folder_ / "run"), model_);
  }

  static ModelSpec spec() {
    ModelSpec spec;
    spec.num_classes = 3;
    spec.image_size = kSize;
    spec.classes = {"ant", "bee, \"wild\"", "cat"};
    spec.normalisation = {{0.4, 0.5, 0.6}, {0.2, 0.3, 0.2}};
    return spec;
  }
  std::filesystem::path image_path(int64_t i) const {
    return folder_ / fmt::format("images/{:03}.png", i);
  }
  at::Tensor logits() { return predict_logits(model_, at::stack(images_), {}); }

  // Random weights would call all images the same: takes the mean off the logits, by the bias.
  void spread_predictions() {
    const at::NoGradGuard no_grad;
    const at::Tensor mean = logits().mean(0);
    for (const auto& [name, tensor] : model_.parameters())
      if (name == "fc.bias") at::Tensor(tensor).sub_(mean);
    probabilities_ = logits().to(at::kDouble).softmax(1);
    labels_ = probabilities_.argmax(1);
    ASSERT_GT(std::get<0>(at::_unique(labels_)).numel(), 1);
  }
  int64_t label(int64_t i) const { return labels_[i].item<int64_t>(); }
  const std::string& class_of(int64_t i) const {
    return model_.spec().classes[static_cast<size_t>(label(i))];
  }

  // sorted/: class folders in which all images but the first `wrong` stand where the model puts
  // them.
  void sort_images(int64_t wrong) {
    for (int64_t i = 0; i < kImages; ++i) {
      const auto folder = static_cast<size_t>((label(i) + (i < wrong ? 1 : 0)) % 3);
      const std::filesystem::path target = folder_ / "sorted" / spec().classes[folder];
      std::filesystem::create_directories(target);
      std::filesystem::copy_file(image_path(i), target / image_path(i).filename());
    }
  }

  ProgramResult run(std::vector<std::string> args) {
    ProgramOptions options;
    options.working_directory = folder_ / ".";
    options.environment = environment_;
    args.insert(args.end(), {"--precision", "fp32", "--device", "cpu", "--threads", "1"});
    return run_program(args, options);
  }

  TemporaryFolder folder_;
  std::map<std::string, std::string> environment_;
  ResNet model_;
  std::vector<at::Tensor> images_;
  at::Tensor probabilities_, labels_;
};

TEST_F(E2eTrained, PredictAgreesWithTheModelInThisProcess) {
  const ProgramResult result = run({"predict", "run", "images", "--json", "--batch", "7"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.predict/1");
  EXPECT_EQ(object.at("ok"), true);
  EXPECT_EQ(object.at("classes"), json(model_.spec().classes));
  EXPECT_EQ(object.at("failed"), json::array());
  ASSERT_EQ(object.at("predictions").size(), static_cast<size_t>(kImages));
  for (int64_t i = 0; i < kImages; ++i) {
    const json& prediction = object.at("predictions").at(static_cast<size_t>(i));
    EXPECT_EQ(prediction.at("file"), fmt::format("images/{:03}.png", i));
    EXPECT_EQ(prediction.at("label"), class_of(i));
    for (int64_t c = 0; c < 3; ++c)
      EXPECT_NEAR(prediction.at("probabilities").at(static_cast<size_t>(c)).get<double>(),
                  probabilities_[i][c].item<double>(), 1e-4);
  }
}

TEST_F(E2eTrained, PredictGoesOnPastFilesThatAreNoImages) {
  std::ofstream(folder_ / "broken.jpg") << "\xff\xd8 not a picture";
  const ProgramResult result =
      run({"predict", "run", "broken.jpg", image_path(3).string(), "absent.png", "run", "--json"});
  EXPECT_EQ(result.exit_code, 0);
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("predictions").size(), 1u);
  std::vector<std::string> failed;
  for (const json& entry : object.at("failed")) {
    failed.push_back(entry.at("file"));
    EXPECT_THAT(result.err, HasSubstr(failed.back()));
  }
  EXPECT_THAT(failed, testing::UnorderedElementsAre("broken.jpg", "absent.png", "run"));

  const ProgramResult nothing = run({"predict", "run", "broken.jpg", "--json"});
  EXPECT_EQ(nothing.exit_code, 3);
  EXPECT_EQ(json::parse(nothing.out).at("ok"), false);
  EXPECT_EQ(json::parse(nothing.out).at("error").at("exit_code"), 3);
}

TEST_F(E2eTrained, AFileMayBeCalledLikeACommand) {
  std::filesystem::copy_file(image_path(0), folder_ / "data");
  const json object = json::parse(run({"predict", "run", "data", "train", "--json"}).out);
  ASSERT_EQ(object.at("predictions").size(), 1u);
  EXPECT_EQ(object.at("predictions")[0].at("file"), "data");
  ASSERT_EQ(object.at("failed").size(), 1u);
  EXPECT_EQ(object.at("failed")[0].at("file"), "train");
}

TEST_F(E2eTrained, PredictGoesOnPastPathsThatCannotBeRead) {
  const std::string too_long(300, 'n');
  std::filesystem::create_directories(folder_ / "mixed");
  std::filesystem::create_symlink("circle.png", folder_ / "mixed/circle.png");
  std::filesystem::copy_file(image_path(3), folder_ / "mixed/whole.png");
  std::filesystem::create_directory_symlink(folder_ / "images", folder_ / "mixed/linked");
  std::ofstream(folder_ / "mixed/video.png") << "of a terabyte";
  std::filesystem::resize_file(folder_ / "mixed/video.png", uintmax_t{1} << 40);
  // Deeper than a path can be long: a folder that nobody may open would not stop root.
  const std::string level(250, 'd');
  std::filesystem::path upper = folder_ / "mixed", lower = folder_ / "lower";
  for (int i = 0; i < 10; ++i) upper /= level, lower /= level;
  std::filesystem::create_directories(upper);
  std::filesystem::create_directories(lower);
  std::filesystem::rename(folder_ / "lower", upper / "lower");

  const ProgramResult result = run({"predict", "run", too_long, "mixed", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  ASSERT_EQ(object.at("predictions").size(), 1u);
  EXPECT_EQ(object.at("predictions")[0].at("file"), "mixed/whole.png");
  std::map<std::string, std::string> failed;
  for (const json& entry : object.at("failed")) failed[entry.at("file")] = entry.at("error");
  ASSERT_EQ(failed.size(), 5u) << object.at("failed");
  EXPECT_THAT(failed.at("mixed/linked"), HasSubstr("a link"));
  EXPECT_THAT(failed.at("mixed/video.png"), HasSubstr("bytes"));
  failed.erase("mixed/linked");
  failed.erase("mixed/video.png");
  EXPECT_THAT(failed.at(too_long), HasSubstr("File name too long"));
  EXPECT_THAT(failed.at("mixed/circle.png"), HasSubstr("symbolic links"));
  failed.erase(too_long);
  failed.erase("mixed/circle.png");
  EXPECT_THAT(failed.begin()->first, AllOf(testing::StartsWith("mixed/ddd"), HasSubstr("/lower/")));
  EXPECT_EQ(failed.begin()->second, "File name too long");
}

TEST_F(E2eTrained, PredictWritesTablesAndTheLikeliestClasses) {
  const std::string file = image_path(2).string();
  const ProgramResult text = run({"predict", "run", file});
  EXPECT_THAT(text.out, AllOf(testing::StartsWith(file), HasSubstr(class_of(2)), HasSubstr(" %")));
  const ProgramResult csv = run({"predict", "run", file, "--csv", "--top", "2"});
  EXPECT_THAT(csv.out, testing::StartsWith("file,label,probability,label_2,probability_2\n"));
  const json top = json::parse(
      run({"predict", "run", file, "--json", "--top", "99"}).out)["predictions"][0]["top"];
  ASSERT_EQ(top.size(), 3u);
  double sum = 0, last = 1;
  for (const json& entry : top) {
    EXPECT_LE(entry.at("probability"), last);
    last = entry.at("probability");
    sum += last;
  }
  EXPECT_NEAR(sum, 1, 1e-5);
  int64_t bee = 0;
  while (bee < kImages && label(bee) != 1) ++bee;
  ASSERT_LT(bee, kImages);
  EXPECT_THAT(run({"predict", "run", image_path(bee).string(), "--csv"}).out,
              HasSubstr(",\"bee, \"\"wild\"\"\","));
}

TEST_F(E2eTrained, EvalCountsWhatIsRight) {
  sort_images(6);
  const ProgramResult result = run({"eval", "run", "--data", "sorted", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.eval/1");
  EXPECT_EQ(object.at("ok"), true);
  EXPECT_EQ(object.at("dataset"), "sorted");
  EXPECT_EQ(object.at("n"), kImages);
  EXPECT_DOUBLE_EQ(object.at("accuracy").at("plain"), 0.75);
  EXPECT_TRUE(object.at("accuracy").contains("tta"));
  EXPECT_LT(object.at("accuracy").at("interval95").at(0), object.at("accuracy").at("plain"));
  EXPECT_GT(object.at("accuracy").at("interval95").at(1), object.at("accuracy").at("plain"));
  double correct_by_class = 0;
  for (const auto& [name, accuracy] : object.at("per_class").items()) {
    const std::filesystem::path part = folder_ / "sorted" / name;
    correct_by_class += accuracy.get<double>() *
                        static_cast<double>(std::distance(std::filesystem::directory_iterator(part),
                                                          std::filesystem::directory_iterator()));
  }
  EXPECT_NEAR(correct_by_class, 18, 1e-9);

  const ProgramResult plain = run({"eval", "run", "--data", "sorted", "--no-tta"});
  EXPECT_THAT(plain.out, AllOf(HasSubstr("accuracy 75.00 % (95 % interval 55.1 to 88.0 %), on "
                                         "24 test images of sorted"),
                               testing::Not(HasSubstr("TTA"))));
  EXPECT_FALSE(
      json::parse(run({"eval", "run", "--data", "sorted", "--no-tta", "--json"}).out)["accuracy"]
          .contains("tta"));
}

TEST_F(E2eTrained, EvalFailsUnderTheGivenAccuracyAfterPrintingIt) {
  sort_images(6);
  const std::vector<std::string> args = {"eval", "run", "--data", "sorted", "--no-tta", "--json"};
  const auto with_limit = [&](const char* limit) {
    std::vector<std::string> all = args;
    all.insert(all.end(), {"--fail-under", limit});
    return run(all);
  };
  EXPECT_EQ(with_limit("0.75").exit_code, 0);
  const ProgramResult failed = with_limit("0.76");
  EXPECT_EQ(failed.exit_code, 8);
  EXPECT_EQ(json::parse(failed.out).at("ok"), false);
  EXPECT_EQ(json::parse(failed.out).at("accuracy").at("plain"), 0.75);
  EXPECT_EQ(json::parse(failed.out).at("error").at("kind"), "check");
  EXPECT_THAT(failed.err, HasSubstr("--fail-under"));
}

TEST_F(E2eTrained, FailUnderGoesByTtaWhereItIsOn) {
  EvaluateOptions options;
  options.views = 2;
  labels_ = predict_logits(model_, at::stack(images_), options).argmax(1);  // right with TTA alone
  sort_images(0);
  const ProgramResult result =
      run({"eval", "run", "--data", "sorted", "--fail-under", "1", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json accuracy = json::parse(result.out).at("accuracy");
  EXPECT_EQ(accuracy.at("tta"), 1);
  EXPECT_LT(accuracy.at("plain"), 1);
}

TEST_F(E2eTrained, KernelsAreTheRunsUnlessAFlagOrAVariableSaysOtherwise) {
  sort_images(0);
  environment_["SKIPWAY_KERNEL"] = "";
  const auto eval = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"eval", "run", "--data", "sorted", "--no-tta"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  EXPECT_THAT(eval({}).err, HasSubstr("kernel torch"));
  EXPECT_THAT(eval({"--kernel", "winograd"}).err, HasSubstr("kernel winograd"));
  environment_["SKIPWAY_KERNEL"] = "winograd";
  EXPECT_THAT(eval({}).err, HasSubstr("kernel winograd"));
  EXPECT_THAT(eval({"--kernel", "torch"}).err, HasSubstr("kernel torch"));
  environment_["SKIPWAY_KERNEL"] = "fast";
  for (const auto& result : {eval({}), run({"predict", "run", image_path(0).string()})}) {
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("SKIPWAY_KERNEL"));
  }
}

TEST_F(E2eTrained, VariablesSayWhatFlagsDoNot) {
  sort_images(0);
  const auto eval = [&](const char* variable, const char* value) {
    ProgramOptions options;
    options.working_directory = folder_ / ".";
    options.environment = environment_;
    options.environment[variable] = value;
    return run_program({"eval", "run", "--data", "sorted", "--no-tta"}, options);
  };
  EXPECT_THAT(eval("SKIPWAY_PRECISION", "bf16").err, HasSubstr("bf16"));
  EXPECT_THAT(eval("SKIPWAY_PRECISION", "fp32").err, HasSubstr("fp32"));
  for (const char* variable : {"SKIPWAY_DEVICE", "SKIPWAY_THREADS", "SKIPWAY_PRECISION"}) {
    const ProgramResult refused = eval(variable, "tpu");
    EXPECT_EQ(refused.exit_code, 2) << variable;
    EXPECT_THAT(refused.err, HasSubstr("tpu")) << variable;
  }
}

TEST_F(E2eTrained, EvalMatchesClassesByName) {
  // Only images of one class: the folder's label 0 must become the model's label of that name.
  int64_t last = 0;
  for (int64_t i = 0; i < kImages; ++i)
    if (label(i) > 0) last = i;
  ASSERT_GT(label(last), 0);
  std::filesystem::create_directories(folder_ / "one" / class_of(last));
  std::filesystem::copy_file(image_path(last), folder_ / "one" / class_of(last) / "x.png");
  const ProgramResult one = run({"eval", "run", "--data", "one", "--json"});
  ASSERT_EQ(one.exit_code, 0) << one.err;
  EXPECT_EQ(json::parse(one.out).at("accuracy").at("plain"), 1.0);
  EXPECT_EQ(json::parse(one.out).at("per_class"), (json{{class_of(last), 1.0}}));

  write_small_part(folder_ / "other", {"ant", "dog"}, 2, kSize);
  const ProgramResult other = run({"eval", "run", "--data", "other"});
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_THAT(other.err, AllOf(HasSubstr("dog"), HasSubstr("cat")));
}

TEST_F(E2eTrained, EvalNeedsDataWhenTheRunNamesNone) {
  const ProgramResult result = run({"eval", "run"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--data"));
}

TEST_F(E2eTrained, DamagedWeightsAreACheckpointError) {
  const std::filesystem::path file = folder_ / "run/model.safetensors";
  const std::string bytes = read_file(file);
  std::ofstream(file) << bytes.substr(0, bytes.size() / 2);
  const ProgramResult predict = run({"predict", "run", image_path(0).string()});
  EXPECT_EQ(predict.exit_code, 7);
  EXPECT_THAT(predict.err, HasSubstr("model.safetensors"));
  const ProgramResult result = run({"eval", "run", "--data", "images", "--json"});
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(json::parse(result.out).at("error").at("kind"), "checkpoint");
}

}  // namespace
}  // namespace skipway
