// `train` and `resume` as a person or a script runs them, on a data set of a few images. How well a
// model learns is not judged here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/for_test.h"
#include "base/process.h"
#include "program.h"
#include "small_data.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class E2eTrain : public testing::Test {
 protected:
  E2eTrain() {
    write_small_part(folder_ / "photos/train", kClasses, 8, 16);
    write_small_part(folder_ / "photos/test", kClasses, 4, 16, 100);
    options_.working_directory = folder_ / ".";
  }
  ProgramResult run(const std::vector<std::string>& args) { return run_program(args, options_); }
  ProgramResult train(std::vector<std::string> more, const std::string& epochs = "2") {
    std::vector<std::string> args = {"train",    "--data",   "photos",   "--batch", "8",
                                     "--epochs", epochs,     "--lr",     "0.01",    "--precision",
                                     "fp32",     "--kernel", kTestKernel};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  }

  const std::vector<std::string> kClasses = {"blue", "green", "red"};
  TemporaryFolder folder_;
  ProgramOptions options_;
};

TEST_F(E2eTrain, OneObjectOnStdoutAndAWholeRunFolder) {
  const ProgramResult result = train({"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1);
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.train/1");
  EXPECT_EQ(object.at("ok"), true);
  EXPECT_EQ(object.at("run"), "runs/001");
  EXPECT_EQ(object.at("dataset"), "photos");
  EXPECT_EQ(object.at("epochs"), 2);
  for (const char* key : {"schema", "ok", "run", "model", "dataset", "recipe", "epochs", "images",
                          "wall_s", "train_wall_s", "images_per_s", "accuracy", "device",
                          "precision", "kernel", "threads", "peak_rss_bytes", "weights_sha256"})
    EXPECT_TRUE(object.contains(key)) << key;
  EXPECT_EQ(object.at("images"), 48);
  EXPECT_EQ(object.at("precision"), "fp32");
  EXPECT_THAT(object.at("kernel").get<std::string>(), testing::StartsWith(kTestKernel));
  EXPECT_FALSE(object.at("kernels").empty());
  EXPECT_EQ(object.at("threads"), usable_cores());
  EXPECT_GE(object.at("wall_s"), object.at("train_wall_s"));
  const json accuracy_of_train = object.at("accuracy");
  EXPECT_EQ(accuracy_of_train.at("n"), 12);
  EXPECT_LE(accuracy_of_train.at("interval95")[0], accuracy_of_train.at("last"));
  EXPECT_GE(accuracy_of_train.at("interval95")[1], accuracy_of_train.at("last"));
  const std::filesystem::path folder = folder_ / "runs/001";
  for (const char* name : {"config.toml", "env.json", "metrics.jsonl", "tb", "last.safetensors",
                           "model.safetensors", "log.txt", "report.html"})
    EXPECT_TRUE(std::filesystem::exists(folder / name)) << name;
  EXPECT_EQ(hash_of_file(HashKind::kSha256, folder / "model.safetensors"),
            object.at("weights_sha256"));
  EXPECT_THAT(read_file(folder / "config.toml"),
              AllOf(HasSubstr("lr = 0.01  # --lr\n"), HasSubstr("momentum = 0.9  # default\n"),
                    Not(HasSubstr("run_dir"))));

  // The figure is one that anyone can get again, by `eval` and by training anew.
  const ProgramResult eval = run({"eval", "runs/001", "--json", "--precision", "fp32"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  const json accuracy = json::parse(eval.out).at("accuracy");
  EXPECT_NEAR(accuracy.at("plain"), object.at("accuracy").at("last"), 1e-6);
  EXPECT_NEAR(accuracy.at("tta"), object.at("accuracy").at("last_tta"), 1e-6);
  const ProgramResult again = run({"train", "--config", "runs/001/config.toml", "--json"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(json::parse(again.out).at("run"), "runs/002");
  EXPECT_EQ(json::parse(again.out).at("weights_sha256"), object.at("weights_sha256"));
}

TEST_F(E2eTrain, MinutesTooFewForAStepLeaveNoRunBehind) {
  std::vector<std::string> args = {"train", "--data",    "photos",   "--batch",
                                   "8",     "--minutes", "0.02",     "--precision",
                                   "fp32",  "--kernel",  kTestKernel};
  const ProgramResult result = run(args);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--minutes"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs/001"));

  // A folder of the user's own stays, as empty as it was.
  std::filesystem::create_directories(folder_ / "mine");
  args.insert(args.end(), {"--run-dir", "mine"});
  EXPECT_EQ(run(args).exit_code, 2);
  ASSERT_TRUE(std::filesystem::exists(folder_ / "mine"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "mine"));
}

TEST_F(E2eTrain, WithoutAStdoutTheRunIsWholeAndTheExitCodeSaysSo) {
  options_.closed_streams = {0, 1, 2};
  EXPECT_EQ(train({"--json"}, "1").exit_code, 9);
  options_.closed_streams = {2};
  const ProgramResult heard = train({"--json"}, "1");
  EXPECT_EQ(heard.exit_code, 0);
  EXPECT_EQ(json::parse(heard.out).at("run"), "runs/002");
  options_.closed_streams = {};
  for (const char* name : {"runs/001", "runs/002"}) {
    const std::filesystem::path folder = folder_ / name;
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder)) {
      if (!file.is_regular_file() || file.path().filename() == "metrics.jsonl") continue;
      EXPECT_THAT(read_file(file.path()), Not(HasSubstr("skipway.train/1"))) << file.path();
    }
    EXPECT_EQ(run({"eval", name}).exit_code, 0);
  }
}

TEST_F(E2eTrain, TheLogHasWhatWasSaidWithoutStyles) {
  options_.terminal_columns = 80;
  ASSERT_EQ(train({}, "1").exit_code, 0);
  options_.terminal_columns.reset();
  const ProgramResult quiet = train({"--quiet", "--json", "--threads", "3"}, "1");
  ASSERT_EQ(quiet.exit_code, 0);
  EXPECT_EQ(quiet.err, "");
  EXPECT_EQ(json::parse(quiet.out).at("threads"), 3);
  for (const char* name : {"runs/001/log.txt", "runs/002/log.txt"})
    EXPECT_THAT(read_file(folder_ / name),
                AllOf(HasSubstr(" s  model: resnet18"), HasSubstr(" s  epoch   1.00/1.00  loss"),
                      HasSubstr(" s  accuracy "), HasSubstr(" s  report   runs/00"),
                      Not(HasSubstr("\x1b"))));
}

TEST_F(E2eTrain, ARunThatGivesUpSaysSoInItsReportAndLog) {
  const ProgramResult result = train({"--recipe", "article", "--lr", "1e30"});
  EXPECT_EQ(result.exit_code, 6) << result.err;
  EXPECT_THAT(read_file(folder_ / "runs/001/report.html"), HasSubstr("gave up"));
  EXPECT_THAT(read_file(folder_ / "runs/001/log.txt"), HasSubstr(" s  error: [train] expected"));
}

TEST_F(E2eTrain, Airbench94TakesItsRecipeAndEvalItsSixViews) {
  write_small_part(folder_ / "large/train", kClasses, 8, 32);
  write_small_part(folder_ / "large/test", kClasses, 4, 32, 100);
  const ProgramResult result =
      run({"train", "--model", "airbench94", "--data", "large", "--batch", "8", "--epochs", "2",
           "--lr", "0.01", "--precision", "fp32", "--kernel", kTestKernel, "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("recipe"), "airbench94");
  EXPECT_EQ(object.at("model"), "airbench94");
  const ProgramResult eval = run({"eval", "runs/001", "--json"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  const json accuracy = json::parse(eval.out).at("accuracy");
  EXPECT_NEAR(accuracy.at("plain"), object.at("accuracy").at("last"), 1e-6);
  EXPECT_NEAR(accuracy.at("tta"), object.at("accuracy").at("last_tta"), 1e-6);
  EXPECT_THAT(run({"eval", "runs/001"}).out, HasSubstr("six-view TTA"));
}

TEST_F(E2eTrain, APipeGetsPlainLinesAndATerminalAStatusLine) {
  const ProgramResult piped = train({}, "1");
  ASSERT_EQ(piped.exit_code, 0) << piped.err;
  EXPECT_THAT(piped.err, AllOf(HasSubstr("epoch"), Not(HasSubstr("\r")), Not(HasSubstr("\x1b"))));
  EXPECT_THAT(piped.out,
              AllOf(HasSubstr("accuracy"), HasSubstr("runs/001"), Not(HasSubstr("\x1b"))));

  constexpr int kColumns = 60;
  options_.terminal_columns = kColumns;
  const ProgramResult terminal = train({}, "1");
  ASSERT_EQ(terminal.exit_code, 0) << terminal.out;
  EXPECT_THAT(terminal.out, HasSubstr("\r\x1b[K"));
  // After "erase" comes a status line, unless a newline ends it (the terminal makes \r\n of it).
  int status_lines = 0;
  const std::string& shown = terminal.out;
  for (size_t at = 0; (at = shown.find("\r\x1b[K", at)) != std::string::npos;) {
    at += 4;
    const size_t end = shown.find('\r', at);
    if (end == at || end == std::string::npos || shown[end + 1] == '\n') continue;
    ++status_lines;
    const std::string line = shown.substr(at, end - at);
    EXPECT_LT(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }),
              kColumns)
        << line;
  }
  EXPECT_GT(status_lines, 0);
}

TEST_F(E2eTrain, EightyColumnsShowLossAndRate) {
  options_.terminal_columns = 80;
  const std::string shown = train({}, "3").out;
  const size_t at = shown.find("images/s  loss ");
  ASSERT_NE(at, std::string::npos) << shown;
  const size_t begin = shown.rfind("\r\x1b[K", at), end = shown.find('\r', at);
  EXPECT_THAT(shown.substr(begin, end - begin),
              AllOf(HasSubstr("\x1b[Kepoch "), testing::ContainsRegex("lr 0\\.[0-9]{4}$")));
}

TEST_F(E2eTrain, ARunThatLivesIsNotResumedAndOneThatWasKilledIs) {
  ProgramResult second;
  options_.signal_at_text = "epoch   1.00";
  options_.signal = SIGKILL;
  options_.before_signal = [&] {
    ProgramOptions plain;
    plain.working_directory = options_.working_directory;
    second = run_program({"resume", "runs/001", "--json"}, plain);
  };
  EXPECT_EQ(train({}, "100000").exit_code, -SIGKILL);
  EXPECT_EQ(second.exit_code, 9);
  EXPECT_EQ(json::parse(second.out).at("error").at("kind"), "disk");
  EXPECT_THAT(second.err, HasSubstr("another process trains in this folder"));

  options_.before_signal = {};
  options_.signal_at_text = "epoch ";
  options_.signal = SIGINT;
  std::filesystem::create_directories(folder_ / "runs/001/report.html/taken");
  const ProgramResult resumed = run({"resume", "runs/001"});
  EXPECT_EQ(resumed.exit_code, 130);  // which a report that cannot be written does not hide
  EXPECT_THAT(resumed.err, AllOf(HasSubstr("warning: "), HasSubstr("report.html")));
}

// The end of an ssh session, and what a service manager sends. A terminal that closes and `timeout`
// send theirs twice at once.
TEST_F(E2eTrain, AHangUpAndATerminationSave) {
  options_.signal_at_text = "epoch   1.00";
  options_.signal_times = 2;
  for (const int signal : {SIGHUP, SIGTERM}) {
    options_.signal = signal;
    const ProgramResult stopped = train({"--json"}, "100000");
    EXPECT_EQ(stopped.exit_code, 128 + signal) << stopped.err;
    EXPECT_EQ(json::parse(stopped.out).at("stopped"), true);
    EXPECT_GE(json::parse(stopped.out).at("epochs"), 1);
  }
}

TEST_F(E2eTrain, AReportThatCannotBeWrittenDoesNotHideTheResult) {
  options_.signal_at_text = "run: runs/001";
  options_.signal = SIGCONT;  // which changes nothing
  options_.before_signal = [&] {
    std::filesystem::create_directories(folder_ / "runs/001/report.html/taken");
  };
  const ProgramResult result = train({"--json"}, "12");
  EXPECT_EQ(result.exit_code, 9);
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("accuracy").at("n"), 12);
  EXPECT_EQ(object.at("ok"), false);
  EXPECT_EQ(object.at("error").at("exit_code"), 9);
  EXPECT_THAT(result.err, AllOf(HasSubstr("warning: "), HasSubstr("report.html")));
}

// Of so many epochs that the program is not at their end when the signal comes, and of the shorter
// steps, so that they do not take long.
TEST_F(E2eTrain, AnInterruptSavesAndAResumeGoesOn) {
  const std::vector<std::string> flags = {"--optimizer", "sgd", "--json"};
  const json whole = json::parse(train(flags, "12").out);
  options_.signal_at_text = "epoch   2.00";
  options_.signal = SIGINT;
  const ProgramResult stopped = train(flags, "12");
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  const json object = json::parse(stopped.out);
  EXPECT_EQ(object.at("schema"), "skipway.train/1");
  EXPECT_EQ(object.at("ok"), false);
  EXPECT_EQ(object.at("stopped"), true);
  EXPECT_EQ(object.at("error").at("exit_code"), 130);
  EXPECT_EQ(object.at("run"), "runs/002");
  EXPECT_THAT(stopped.err, HasSubstr("skipway resume runs/002"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs/002/model.safetensors"));
  EXPECT_THAT(read_file(folder_ / "runs/002/report.html"), HasSubstr("skipway resume runs/002"));
  EXPECT_THAT(read_file(folder_ / "runs/002/log.txt"), HasSubstr(" s  stopped after "));
  EXPECT_EQ(run({"predict", "runs/002", "photos/test"}).exit_code, 0);  // by its last checkpoint

  options_.signal = 0;
  const ProgramResult resumed = run({"resume", "runs/002", "--json"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(json::parse(resumed.out).at("weights_sha256"), whole.at("weights_sha256"));
}

TEST_F(E2eTrain, AResumeBeginsWhatWasKilledBeforeItsFirstState) {
  const json whole = json::parse(train({"--json"}, "1").out);
  folder_.write("killed/config.toml", read_file(folder_ / "runs/001/config.toml"));
  const ProgramResult resumed = run({"resume", "killed", "--json"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(json::parse(resumed.out).at("weights_sha256"), whole.at("weights_sha256"));
}

TEST_F(E2eTrain, AFinishedRunGivesItsResultAgain) {
  const ProgramResult first = train({"--json"}, "1");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const std::string metrics = read_file(folder_ / "runs/001/metrics.jsonl");
  const std::string model = read_file(folder_ / "runs/001/model.safetensors");
  std::filesystem::remove_all(folder_ / "photos");
  EXPECT_EQ(json::parse(run({"resume", "runs/001", "--json"}).out), json::parse(first.out));
  EXPECT_THAT(run({"resume", "runs/001"}).out, HasSubstr("on 12 images"));
  EXPECT_EQ(read_file(folder_ / "runs/001/metrics.jsonl"), metrics);
  EXPECT_EQ(read_file(folder_ / "runs/001/model.safetensors"), model);

  std::filesystem::rename(folder_ / "runs/001", folder_ / "moved");
  EXPECT_EQ(json::parse(run({"resume", "moved", "--json"}).out).at("run"), "moved");

  folder_.write("moved/model.safetensors", model.substr(0, model.size() / 2));
  const ProgramResult damaged = run({"resume", "moved"});
  EXPECT_EQ(damaged.exit_code, 7);
  EXPECT_THAT(damaged.err, HasSubstr("model.safetensors"));
}

TEST_F(E2eTrain, AFolderThatIsTakenIsSaidBeforeTheDataAreRead) {
  folder_.write("mine/x.txt", "mine");
  const ProgramResult result = run({"train", "--data", "absent", "--run-dir", "mine"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--run-dir"));
}

TEST_F(E2eTrain, WhatIsIgnoredStaysIgnored) {
  for (const int signal : {SIGINT, SIGHUP}) {
    bool is_sent = false;
    options_.ignored_signals = {signal};
    options_.signal_at_text = "model: ";  // said after the handlers have been set
    options_.signal = signal;
    options_.before_signal = [&] { is_sent = true; };
    EXPECT_EQ(train({}, "2").exit_code, 0);
    EXPECT_TRUE(is_sent);
  }
}

TEST_F(E2eTrain, ATreeWithoutTestPartIsDividedAndEvaluatedOnTheSamePart) {
  write_small_part(folder_ / "tree", kClasses, 10, 16);
  const ProgramResult result = run({"train", "--data", "tree", "--batch", "16", "--epochs", "1",
                                    "--precision", "fp32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json trained = json::parse(result.out);
  EXPECT_EQ(trained.at("accuracy").at("n"), 3);
  for (const std::vector<std::string>& data :
       std::vector<std::vector<std::string>>{{}, {"--data", "./tree"}}) {
    std::vector<std::string> args = {"eval", "runs/001", "--json", "--precision", "fp32"};
    args.insert(args.end(), data.begin(), data.end());
    const json evaluated = json::parse(run(args).out);
    EXPECT_EQ(evaluated.at("n"), 3);
    EXPECT_NEAR(evaluated.at("accuracy").at("plain"), trained.at("accuracy").at("last"), 1e-6);
  }

  const ProgramResult split = run({"train", "--data", "tree", "--batch", "16", "--epochs", "1",
                                   "--precision", "fp32", "--val-split", "6"});
  ASSERT_EQ(split.exit_code, 0) << split.err;
  EXPECT_EQ(json::parse(run({"eval", "runs/002", "--json"}).out).at("n"), 3);

  // From another folder too, in which the same word means other images.
  write_small_part(folder_ / "elsewhere/tree", kClasses, 2, 16, 100);
  options_.working_directory = folder_ / "elsewhere";
  for (const std::vector<std::string>& data :
       std::vector<std::vector<std::string>>{{}, {"--data", "../tree"}}) {
    std::vector<std::string> args = {"eval", "../runs/001", "--json"};
    args.insert(args.end(), data.begin(), data.end());
    const ProgramResult evaluated = run(args);
    EXPECT_EQ(json::parse(evaluated.out).at("n"), 3);
    EXPECT_THAT(evaluated.err, Not(HasSubstr("too high")));
  }
  const ProgramResult other = run({"eval", "../runs/001", "--data", "tree", "--json"});
  EXPECT_EQ(json::parse(other.out).at("n"), 6);
  EXPECT_THAT(other.err, HasSubstr("too high"));

  // As many as before in the tree and in each part of it, but not the same ones.
  std::filesystem::rename(folder_ / "tree/blue/0000.png", folder_ / "tree/blue/9999.png");
  const ProgramResult moved = run({"eval", "../runs/001"});
  EXPECT_EQ(moved.exit_code, 3);
  EXPECT_THAT(moved.err, HasSubstr("moved"));

  write_small_part(folder_ / "tree", kClasses, 11, 16);
  const ProgramResult changed = run({"eval", "../runs/001"});
  EXPECT_EQ(changed.exit_code, 3);
  EXPECT_THAT(changed.err, HasSubstr("expected the 27 training images"));
}

}  // namespace
}  // namespace skipway
