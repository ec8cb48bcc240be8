// `plan` and `lr-find` as a person or a script runs them, on a data set of a few images.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/clock.h"
#include "base/files.h"
#include "base/for_test.h"
#include "program.h"
#include "small_data.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class E2ePlan : public testing::Test {
 protected:
  E2ePlan() {
    write_small_part(folder_ / "photos/train", {"blue", "red"}, 8, 16);
    write_small_part(folder_ / "photos/test", {"blue", "red"}, 4, 16, 100);
    options_.working_directory = folder_ / ".";
  }
  ProgramResult run(std::vector<std::string> args) {
    for (const char* word :
         {"--data", "photos", "--batch", "8", "--precision", "fp32", "--kernel", kTestKernel})
      args.emplace_back(word);
    return run_program(args, options_);
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
      names.insert(entry.path().filename());
    names.erase(".cache");  // of decoded images
    return names;
  }

  TemporaryFolder folder_;
  ProgramOptions options_;
};

TEST_F(E2ePlan, MeasuresTheRunItsStagesAndAlternatives) {
  const ProgramResult result = run({"plan", "--json", "--epochs", "3", "--resize", "8:0.5"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.plan/1");
  const json& plan = object.at("plan");
  EXPECT_EQ(plan.at("steps"), 6);  // 16 images, batches of 8
  EXPECT_EQ(plan.at("epochs"), 3);
  ASSERT_EQ(plan.at("stages").size(), 2u);
  EXPECT_EQ(plan.at("stages")[0].at("side"), 8);
  EXPECT_EQ(plan.at("stages")[1].at("side"), 16);
  EXPECT_GT(plan.at("stages")[1].at("images_per_s"), 0);
  EXPECT_GT(plan.at("peak_rss_bytes"), 50e6);
  std::set<std::string> changes;
  for (const json& other : object.at("alternatives")) changes.insert(other.at("change"));
  EXPECT_EQ(changes, (std::set<std::string>{"--batch 4", "--batch 16", "--resize none",
                                            "--model resnet34"}));
  EXPECT_EQ(files(), std::set<std::string>{"photos"});
}

TEST_F(E2ePlan, AlternativesOfEpochsComeTheFastestFirst) {
  const ProgramResult result = run({"plan", "--json", "--epochs", "3", "--resize", "none"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json others = json::parse(result.out).at("alternatives");
  EXPECT_EQ(others.size(), 3u);
  double before = 0;
  for (const json& other : others) {
    EXPECT_GE(other.at("wall_s").get<double>(), before);
    before = other.at("wall_s");
  }
}

TEST_F(E2ePlan, WordsNameTheAlternativesToo) {
  const ProgramResult result = run({"plan", "--epochs", "3", "--resize", "none"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* change : {"--batch 4", "--batch 16", "--model resnet34"})
    EXPECT_THAT(result.out, HasSubstr(change));
}

// ./skipway hands the program what its set-up took.
TEST_F(E2ePlan, TheSetUpIsNoTimeOfTheRun) {
  const std::vector<std::string> plan = {"plan", "--json", "--alone", "--minutes", "0.001"};
  EXPECT_EQ(run(plan).exit_code, 2);  // no time for a step
  options_.environment["SKIPWAY_SETUP_S"] = "100";
  const ProgramResult result = run(plan);
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

// It is over when the program measures.
TEST_F(E2ePlan, TheSetUpIsNotTakenOffTheTimeOfTheAlternatives) {
  options_.environment["SKIPWAY_SETUP_S"] = "600";
  const ProgramResult result = run({"plan", "--json", "--minutes", "1", "--resize", "none"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json others = json::parse(result.out).at("alternatives");
  EXPECT_EQ(others.size(), 4u);
  for (const json& other : others) {
    EXPECT_LT(other.at("steps").get<double>() * other.at("stages")[0].at("step_s").get<double>(),
              61)
        << other.at("change");
    // It brings its own recipe.
    EXPECT_EQ(other.at("views"), other.at("change") == "--model airbench94" ? 6 : 2);
  }
}

// They are weaker than flags, in the processes that measure the alternatives too.
TEST_F(E2ePlan, VariablesDoNotChangeTheAlternatives) {
  options_.environment["SKIPWAY_EPOCHS"] = "7";
  options_.environment["SKIPWAY_MODEL"] = "resnet34";
  const ProgramResult result =
      run({"plan", "--json", "--epochs", "3", "--resize", "none", "--model", "resnet18"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json others = json::parse(result.out).at("alternatives");
  ASSERT_FALSE(others.empty());
  for (const json& other : others) {
    EXPECT_EQ(other.at("epochs"), 3);
    EXPECT_EQ(other.at("model"),
              other.at("change") == "--model resnet34" ? "resnet34" : "resnet18");
  }
}

TEST_F(E2ePlan, EvaluationsDuringTheRunAreForeseen) {
  const ProgramResult result =
      run({"plan", "--json", "--alone", "--epochs", "4", "--test-every", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out).at("plan").at("evaluations"), 4);
}

// Which takes five seconds or more; the run has a single step.
TEST_F(E2ePlan, MeasuringIsNoTimeOfARunOfEpochs) {
  const Stopwatch watch;
  const ProgramResult result = run({"plan", "--json", "--alone", "--epochs", "0.5"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json plan = json::parse(result.out).at("plan");
  EXPECT_EQ(plan.at("steps"), 1);
  EXPECT_LT(plan.at("wall_s").get<double>(), watch.seconds() - 2.5);
}

TEST_F(E2ePlan, MinutesBecomeEpochsInWords) {
  const ProgramResult result = run({"plan", "--alone", "--minutes", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, testing::ContainsRegex(
                              "[1-9][0-9.]* epochs, [1-9][0-9]* steps; [01]:[0-9][0-9] in all, "));
}

TEST_F(E2ePlan, AnInterruptHasItsExitCode) {
  options_.terminal_columns = 80;
  options_.signal_at_text = "measuring";
  options_.signal = SIGINT;
  EXPECT_EQ(run({"plan", "--alone", "--epochs", "100"}).exit_code, 130);
}

TEST_F(E2ePlan, MinutesTooFewForAStepAreAnError) {
  const ProgramResult result = run({"plan", "--alone", "--minutes", "0.001"});
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_THAT(result.err, HasSubstr("--minutes"));
}

TEST_F(E2ePlan, MemoryTriesLargerBatchesUpToAllImages) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  const ProgramResult result = run({"plan", "--memory", "--json", "--epochs", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json memory = json::parse(result.out).at("memory");
  EXPECT_EQ(memory.at("largest_batch"), 16);
  EXPECT_EQ(memory.at("train_images"), 16);
  EXPECT_GT(memory.at("available_bytes"), 100e6);
  ASSERT_EQ(memory.at("measured").size(), 2u);
  for (const json& row : memory.at("measured")) {
    EXPECT_EQ(row.at("fits"), true);
    EXPECT_GT(row.at("peak_rss_bytes"), 50e6);
    EXPECT_GT(row.at("images_per_s"), 0);
  }
  EXPECT_EQ(files(), std::set<std::string>{"photos"});
  EXPECT_THAT(run({"plan", "--memory", "--epochs", "1"}).out,
              HasSubstr("all training images fit in one batch"));
}

TEST_F(E2ePlan, MemoryOfMissingDataIsAnErrorAboutTheData) {
  const ProgramResult result = run_program({"plan", "--memory", "--data", "absent"}, options_);
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, HasSubstr("absent"));
}

TEST_F(E2ePlan, MemoryTakesTheModelOfTheWeights) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  const ProgramResult trained =
      run({"train", "--model", "resnet34", "--epochs", "0.5", "--run-dir", "start"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const ProgramResult result =
      run({"plan", "--memory", "--json", "--weights", "start", "--epochs", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out).at("memory").at("largest_batch"), 16);
}

TEST_F(E2ePlan, MemoryTellsAnotherErrorFromTooLittleMemory) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  const ProgramResult result = run({"plan", "--memory", "--epochs", "1", "--resize", "64:0.5"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_THAT(result.err, HasSubstr("--resize"));
}

TEST_F(E2ePlan, LrFindWritesNoOtherPictureThanSvg) {
  const ProgramResult result = run({"lr-find", "--plot", "lr.png"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("ends with .svg"));
  EXPECT_EQ(files(), std::set<std::string>{"photos"});
}

TEST_F(E2ePlan, LrFindRefusesAPlaceThatIsNotThereBeforeItMeasures) {
  for (const std::string place : {"absent/lr.svg", "/proc/absent/lr.svg"}) {
    const ProgramResult result = run({"lr-find", "--plot", place});
    EXPECT_EQ(result.exit_code, 9);
    EXPECT_THAT(result.err, AllOf(HasSubstr(place + " at --plot"), Not(HasSubstr("photos"))));
  }
}

TEST_F(E2ePlan, LrFindWithImagesThatOverflowHasDiverged) {
  const ProgramResult result =
      run({"lr-find", "--mean", "0,0,0", "--std", "1e-39,1e-39,1e-39", "--json"});
  EXPECT_EQ(result.exit_code, 6) << result.err;
  EXPECT_THAT(result.err, HasSubstr("--mean and --std"));
  EXPECT_EQ(files(), std::set<std::string>{"photos"});
}

TEST_F(E2ePlan, LrFindLeavesOnePictureAndOverwritesNone) {
  const std::vector<std::string> command = {"lr-find", "--steps", "40", "--json"};
  const ProgramResult result = run(command);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.lr-find/1");
  EXPECT_GE(object.at("points").size(), 12u);
  EXPECT_GT(object.at("steepest"), 0);
  EXPECT_EQ(files(), (std::set<std::string>{"photos", "lr-find.svg"}));
  const std::string picture = read_file(folder_ / "lr-find.svg");

  const ProgramResult again = run(command);
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.err, HasSubstr("lr-find.svg"));
  EXPECT_EQ(read_file(folder_ / "lr-find.svg"), picture);

  const ProgramResult words = run({"lr-find", "--steps", "40", "--plot", ""});
  EXPECT_EQ(words.exit_code, 0) << words.err;
  EXPECT_THAT(words.out,
              AllOf(HasSubstr("steepest "), HasSubstr("lowest "), Not(HasSubstr("plot"))));
  const ProgramResult few = run({"lr-find", "--steps", "6", "--plot", ""});
  EXPECT_EQ(few.exit_code, 0) << few.err;
  EXPECT_THAT(few.out, AllOf(HasSubstr("no rate"), HasSubstr("--steps"), Not(HasSubstr("lowest"))));
}

TEST_F(E2ePlan, LrFindRefusesRatesThatDoNotRise) {
  const ProgramResult result = run({"lr-find", "--from", "1", "--to", "0.1"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--from"));
}

}  // namespace
}  // namespace skipway
