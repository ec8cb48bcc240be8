// Tests of the run's folder: numbering, taking, opening, and metrics that survive a crash.
#include "record/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "record/full_disk_for_test.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::ordered_json;

// Runs with a folder of its own as the current one.
class RunFolderTest : public testing::Test {
 protected:
  RunFolderTest() { fs::current_path(folder_.path()); }
  ~RunFolderTest() override { fs::current_path(old_); }

  template <typename Function>
  static std::string complaint(ErrorKind kind, const Function& function) {
    const Error error = error_of(function);
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }

  TemporaryFolder folder_;
  const fs::path old_ = fs::current_path();
};

TEST_F(RunFolderTest, TakesTheNextFreeNumber) {
  EXPECT_EQ(RunFolder::create({}).path(), "runs/001");
  EXPECT_EQ(RunFolder::create({}).path(), "runs/002");
  fs::create_directories("runs/041");
  fs::create_directories("runs/mine");
  EXPECT_EQ(RunFolder::create({}).path(), "runs/042");
  fs::create_directories("runs/999");
  EXPECT_EQ(RunFolder::create({}).path(), "runs/1000");
}

// As the completion of a shell writes it.
TEST_F(RunFolderTest, ASlashAtTheEndChangesNothing) {
  const RunFolder run = RunFolder::create("mine/");
  EXPECT_EQ(run.path(), "mine");
  write_file_atomic(run.config_toml(), "");
  EXPECT_EQ(RunFolder::open("mine/").path(), "mine");
  run.discard();
  EXPECT_FALSE(fs::exists("mine"));
}

TEST_F(RunFolderTest, RunsThatStartTogetherGetFoldersOfTheirOwn) {
  std::vector<std::string> paths(16);
  std::vector<std::thread> threads;
  for (std::string& path : paths)
    threads.emplace_back([&path] { path = RunFolder::create({}).path().string(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<std::string>(paths.begin(), paths.end()).size(), paths.size());
}

TEST_F(RunFolderTest, TakesARequestedFolderOnlyWhenItIsNewOrEmpty) {
  EXPECT_EQ(RunFolder::create("a/b").path(), "a/b");
  fs::create_directories("empty");
  EXPECT_EQ(RunFolder::create("empty").path(), "empty");
  for (const char* taken : {"a/b", "a", "empty"})
    EXPECT_THAT(complaint(ErrorKind::kUsage, [&] { RunFolder::create(taken); }), HasSubstr(taken));
  std::ofstream("file") << "x";
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::create("file"); }), HasSubstr("file"));
  complaint(ErrorKind::kDisk, [] { RunFolder::create("/proc/none/run"); });
}

TEST_F(RunFolderTest, AnErrorNamesTheFlagThatGaveTheFolder) {
  fs::create_directories("notes/old");
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::create("notes", "--out"); }),
              AllOf(HasSubstr("another with --out"), Not(HasSubstr("resume"))));
  write_file_atomic(RunFolder::create("run").config_toml(), "");
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::create("run"); }),
              AllOf(HasSubstr("another with --run-dir"), HasSubstr("skipway resume run")));
  EXPECT_THAT(complaint(ErrorKind::kDisk, [] { RunFolder::create("/proc/run", "--out"); }),
              HasSubstr("another with --out"));
}

TEST_F(RunFolderTest, OneLogIsOpenAtATime) {
  const RunFolder run = RunFolder::create({});
  {
    const Descriptor log = run.open_log();
    EXPECT_THAT(complaint(ErrorKind::kDisk, [&] { run.open_log(); }),
                HasSubstr("another process trains in this folder: runs/001"));
  }
  const Descriptor again = run.open_log();
  EXPECT_GE(again.get(), 0);
}

TEST_F(RunFolderTest, ARunThatNeverBeganLeavesWhatWasThereBefore) {
  const auto begin = [](const RunFolder& run) {
    const Descriptor log = run.open_log();
    write_file_atomic(run.config_toml(), "");
    write_file_atomic(run.env_json(), "");
    write_file_atomic(run.metrics_jsonl(), "");
    fs::create_directories(run.tensorboard());
    return run;
  };
  begin(RunFolder::create({})).discard();
  EXPECT_FALSE(fs::exists("runs/001"));
  fs::create_directories("mine");
  begin(RunFolder::create("mine")).discard();
  EXPECT_TRUE(fs::is_empty("mine"));

  const RunFolder shared = begin(RunFolder::create("shared"));
  std::ofstream("shared/notes.txt") << "mine";
  shared.discard();
  EXPECT_EQ(std::distance(fs::directory_iterator("shared"), {}), 1);
}

TEST_F(RunFolderTest, ACheckpointUnderAnyNameKeepsTheRun) {
  for (const char* name : {"last", "previous", "next"}) {
    const RunFolder run = RunFolder::create(name);
    EXPECT_FALSE(run.has_checkpoint());
    write_file_atomic(run.path() / fmt::format("{}.safetensors", name), "weights");
    EXPECT_TRUE(run.has_checkpoint());
    run.discard();
    EXPECT_TRUE(fs::exists(run.log_txt())) << name;
  }
}

TEST_F(RunFolderTest, WeightsAloneAreImported) {
  const RunFolder run = RunFolder::create("run");
  write_file_atomic(run.model(), "weights");
  EXPECT_TRUE(RunFolder::open("run").is_imported());
  write_file_atomic(run.config_toml(), "");
  EXPECT_FALSE(RunFolder::open("run").is_imported());
}

TEST_F(RunFolderTest, OpensWhatHoldsARunAndElseListsRunsNearby) {
  const RunFolder made = RunFolder::create({});
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::open("runs/001"); }),
              HasSubstr("skipway train"));
  write_file_atomic(made.config_toml(), "");
  EXPECT_EQ(RunFolder::open("runs/001").path(), "runs/001");
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::open("elsewhere"); }),
              HasSubstr("near it: runs/001"));
  EXPECT_THAT(complaint(ErrorKind::kUsage, [] { RunFolder::open("runs"); }),
              HasSubstr("near it: runs/001"));
}

TEST_F(RunFolderTest, MetricsComeBackInOrder) {
  const RunFolder run = RunFolder::create({});
  EXPECT_TRUE(run.read_metrics().empty());
  const Json first{{"epoch", 1.0}, {"loss", 1.5}}, second{{"epoch", 2.0}, {"name", "\"ü\n"}};
  run.append_metrics(first);
  run.append_metrics(second);
  EXPECT_EQ(run.read_metrics(), (std::vector<Json>{first, second}));
}

TEST_F(RunFolderTest, ALineCutOffByACrashIsLeftOutAndWrittenOver) {
  const RunFolder run = RunFolder::create({});
  run.append_metrics({{"step", 1}});
  std::ofstream(run.metrics_jsonl(), std::ios::app) << R"({"step":2,"lo)";
  EXPECT_EQ(run.read_metrics().size(), 1U);
  run.append_metrics({{"step", 3}});
  ASSERT_EQ(run.read_metrics().size(), 2U);
  EXPECT_EQ(run.read_metrics()[1]["step"], 3);
}

TEST_F(RunFolderTest, LinesThatNoRunWritesAreLeftOut) {
  const RunFolder run = RunFolder::create({});
  std::ofstream(run.metrics_jsonl()) << R"({"event":3})"
                                     << "\n"
                                     << R"({"step":"4"})"
                                     << "\n"
                                     << R"({"event":"epoch"})"
                                     << "\n";
  ASSERT_EQ(run.read_metrics().size(), 1U);
  EXPECT_EQ(run.read_metrics()[0]["event"], "epoch");
}

TEST_F(RunFolderTest, ADamagedLineBeforeTheLastIsNamed) {
  const RunFolder run = RunFolder::create({});
  std::ofstream(run.metrics_jsonl()) << "{\"step\":1}\n{\"st\n{\"step\":3}\n";
  EXPECT_THAT(complaint(ErrorKind::kCheckpoint, [&] { run.read_metrics(); }), HasSubstr("line 2"));
  std::ofstream(run.metrics_jsonl()) << "{\"step\":1}\n{\"st\n";
  EXPECT_EQ(run.read_metrics().size(), 1U);
}

TEST_F(RunFolderTest, AFullDiskIsAnErrorAndLeavesWholeLines) {
  const RunFolder run = RunFolder::create({});
  run.append_metrics({{"step", 1}});
  const std::string before = read_file(run.metrics_jsonl());
  {
    FullDisk full(before.size() + 5);
    complaint(ErrorKind::kDisk, [&] { run.append_metrics({{"step", 2}}); });
  }
  EXPECT_EQ(read_file(run.metrics_jsonl()), before);
}

TEST(Environment, DescribesThisMachine) {
  const Json env = environment();
  EXPECT_EQ(env["skipway"], SKIPWAY_VERSION);
  EXPECT_THAT(env["libtorch"].get<std::string>(), testing::StartsWith("2."));
  EXPECT_GE(env["cores"].get<int>(), 1);
  EXPECT_GT(env["memory_bytes"].get<int64_t>(), int64_t{1} << 28);
  EXPECT_NE(env["operating_system"], "");
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  ASSERT_NE(std::string(host), "");
  for (const auto& [key, value] : env.items())  // a longer name would be no word of a processor's
    EXPECT_TRUE(value != host &&
                (std::string(host).size() < 6 || value.dump().find(host) == std::string::npos))
        << key;
}

}  // namespace
}  // namespace skipway
