// Tests that a checkpoint survives a kill at any instant, a full disk and flipped bits.
#include "record/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "record/full_disk_for_test.h"

namespace skipway {
namespace {

using testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest()
      : folder_(fs::path(testing::TempDir()) / fmt::format("checkpoint-{}", getpid())),
        run_(RunFolder::create(folder_)),
        sink_(add_log_sink([this](LogLevel, std::string_view line) { log_ += line; })) {}
  ~CheckpointTest() override {
    remove_log_sink(sink_);
    fs::remove_all(folder_);
  }

  static Checkpoint at_step(int step) {
    return {.model = {{"conv1.weight", at::full({4, 3, 3, 3}, step)},
                      {"n", at::scalar_tensor(step, at::kLong)}},
            .optimizer = {{"momentum.conv1.weight", at::full({4, 3, 3, 3}, -step)}},
            .ema = {{"conv1.weight", at::full({4, 3, 3, 3}, step + 0.5)}},
            .metadata = {{"step", std::to_string(step)}, {"config", "data = \"/a\xff\"\n"}}};
  }
  int loaded_step() const { return std::stoi(load_checkpoint(run_).metadata.at("step")); }
  static void flip_bit(const fs::path& path, size_t byte) {
    std::string bytes = read_file(path);
    bytes.at(byte) = static_cast<char>(bytes[byte] ^ 1);
    write_file_atomic(path, bytes);
  }

  fs::path folder_;
  RunFolder run_;
  std::string log_;
  int sink_;
};

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
  const Checkpoint saved = at_step(7);
  const std::string sha256 = save_checkpoint(run_, saved);
  EXPECT_EQ(sha256, hash_of_file(HashKind::kSha256, run_.last()));
  const Checkpoint loaded = load_checkpoint(run_);
  ASSERT_EQ(loaded.model.size(), 2U);
  EXPECT_EQ(loaded.model[0].first, "conv1.weight");
  EXPECT_TRUE(loaded.model[0].second.equal(saved.model[0].second));
  EXPECT_EQ(loaded.model[1].second.item<int64_t>(), 7);
  ASSERT_EQ(loaded.optimizer.size(), 1U);
  EXPECT_EQ(loaded.optimizer[0].first, "momentum.conv1.weight");
  EXPECT_TRUE(loaded.optimizer[0].second.equal(saved.optimizer[0].second));
  ASSERT_EQ(loaded.ema.size(), 1U);
  EXPECT_EQ(loaded.ema[0].first, "conv1.weight");
  EXPECT_TRUE(loaded.ema[0].second.equal(saved.ema[0].second));
  EXPECT_EQ(loaded.metadata.size(), 2U);
  EXPECT_EQ(loaded.metadata.at("step"), "7");
  EXPECT_EQ(log_, "");
}

TEST_F(CheckpointTest, KeepsTheOneBefore) {
  for (int step : {1, 2, 3}) save_checkpoint(run_, at_step(step));
  EXPECT_EQ(loaded_step(), 3);
  fs::remove(run_.last());
  EXPECT_EQ(loaded_step(), 2);
  EXPECT_THAT(log_, HasSubstr("last.safetensors"));
}

TEST_F(CheckpointTest, NoticesAFlippedBitAnywhere) {
  save_checkpoint(run_, at_step(1));
  save_checkpoint(run_, at_step(2));
  const std::string whole = read_file(run_.last());
  Rng rng(3, RngUse::kSynthetic);
  for (int i = 0; i < 40; ++i) {
    flip_bit(run_.last(), rng.below(whole.size()));
    log_.clear();
    EXPECT_EQ(loaded_step(), 1);
    EXPECT_THAT(log_, HasSubstr("going on from"));
    write_file_atomic(run_.last(), whole);
  }
}

TEST_F(CheckpointTest, TwoDamagedFilesAreAnErrorThatNamesBoth) {
  save_checkpoint(run_, at_step(1));
  save_checkpoint(run_, at_step(2));
  fs::resize_file(run_.last(), 100);
  flip_bit(run_.previous(), fs::file_size(run_.previous()) - 1);
  try {
    load_checkpoint(run_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), HasSubstr("last.safetensors"));
    EXPECT_THAT(error.what(), HasSubstr("previous.safetensors"));
  }
}

TEST_F(CheckpointTest, AFullDiskLeavesBothAsTheyWere) {
  save_checkpoint(run_, at_step(1));
  save_checkpoint(run_, at_step(2));
  const std::string last = read_file(run_.last()), previous = read_file(run_.previous());
  {
    FullDisk full(256);
    try {
      save_checkpoint(run_, at_step(3));
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDisk);
    }
  }
  EXPECT_EQ(read_file(run_.last()), last);
  EXPECT_EQ(read_file(run_.previous()), previous);
}

// A child saves without pause and is killed at an unforeseen instant.
TEST_F(CheckpointTest, SurvivesAKillAtAnyInstant) {
  save_checkpoint(run_, at_step(1));
  Rng rng(4, RngUse::kSynthetic);
  for (int i = 0; i < 20; ++i) {
    const int before = loaded_step();
    const pid_t child = fork();
    if (child == 0) {
      for (int step = before + 1;; ++step) save_checkpoint(run_, at_step(step));
    }
    usleep(static_cast<useconds_t>(rng.below(10000)));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_GE(loaded_step(), before);
  }
}

}  // namespace
}  // namespace skipway
