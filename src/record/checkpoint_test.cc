// Tests that a checkpoint survives a kill at any instant, a full disk and flipped bits.
#include "record/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <set>

#include "base/allocator.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "base/process.h"
#include "base/rng.h"
#include "record/full_disk_for_test.h"

namespace skipway {
namespace {

using testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() : run_(RunFolder::create(folder_.path())) {}

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
  // For a child process: saves until it is killed, and after the first time writes a byte to
  // `ready`. An error must not unwind into the tests that come after.
  [[noreturn]] void save_without_end(int first_step, int ready) const noexcept {
    for (int step = first_step;; ++step) {
      save_checkpoint(run_, at_step(step));
      if (step == first_step && write(ready, "1", 1) != 1) _exit(1);
    }
  }

  TemporaryFolder folder_;
  RunFolder run_;
  LogLines log_;
};

int64_t kilobytes_of_process(std::string_view key) {
  return std::stoll(value_in_file("/proc/self/status", key, ':'));
}

// Weights lie in memory in another order than in a file: a copy of all of them would be the peak of
// a run, which `plan` does not see.
TEST_F(CheckpointTest, TakesMemoryForOneTensorAtATime) {
  prepare_allocator();
  constexpr int64_t kTensors = 6, kKilobytes = 16 << 10;  // of each
  Checkpoint checkpoint = at_step(1);
  for (int64_t i = 0; i < kTensors; ++i)
    checkpoint.model.emplace_back(
        fmt::format("large{}", i),
        at::ones({256, 1024, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast));
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak begins anew
  const int64_t before = kilobytes_of_process("VmRSS");
  save_checkpoint(run_, checkpoint);
  if (kSanitized) return;  // what is freed is kept for a while
  EXPECT_LT(kilobytes_of_process("VmHWM") - before, 2.5 * kKilobytes);
}

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
  const Checkpoint saved = at_step(7);
  save_checkpoint(run_, saved);
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
  EXPECT_EQ(log_.text(), "");
}

TEST_F(CheckpointTest, KeepsTheOneBefore) {
  for (int step : {1, 2, 3}) save_checkpoint(run_, at_step(step));
  EXPECT_EQ(loaded_step(), 3);
  fs::remove(run_.last());
  EXPECT_EQ(loaded_step(), 2);
  EXPECT_THAT(log_.text(), HasSubstr("last.safetensors"));
}

TEST_F(CheckpointTest, WhatIsNotWorthKeepingIsReplaced) {
  for (int step : {1, 2}) save_checkpoint(run_, at_step(step));
  save_checkpoint(run_, at_step(3), /*keeps_last=*/false);
  EXPECT_EQ(loaded_step(), 3);
  const std::optional<Checkpoint> previous = load_previous_checkpoint(run_);
  ASSERT_TRUE(previous);
  EXPECT_EQ(previous->metadata.at("step"), "1");
  flip_bit(run_.previous(), 200);
  EXPECT_FALSE(load_previous_checkpoint(run_));
}

// As a kill between the two renames leaves it: both names for the same file.
TEST_F(CheckpointTest, ThePreviousMayBeTheLast) {
  save_checkpoint(run_, at_step(1));
  fs::create_hard_link(run_.last(), run_.previous());
  save_checkpoint(run_, at_step(2));
  EXPECT_EQ(loaded_step(), 2);
  std::set<std::string> names;
  for (const auto& file : fs::directory_iterator(run_.path()))
    if (file.path().extension() != ".txt") names.insert(file.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"last.safetensors", "previous.safetensors"}));
  fs::remove(run_.last());
  EXPECT_EQ(loaded_step(), 1);
}

// As a kill before the last rename leaves it.
TEST_F(CheckpointTest, TheNewestIsTakenBeforeItHasItsName) {
  for (int step : {1, 2, 3}) save_checkpoint(run_, at_step(step));
  fs::rename(run_.last(), run_.next());
  EXPECT_EQ(loaded_step(), 3);
  EXPECT_EQ(log_.text(), "");
  flip_bit(run_.next(), 200);
  EXPECT_EQ(loaded_step(), 2);
  EXPECT_THAT(log_.text(), HasSubstr("next.safetensors"));
}

TEST_F(CheckpointTest, WhatAKilledProcessLeftUnfinishedIsRemoved) {
  write_file_atomic(run_.path() / "next.safetensors.tmp123", "half");
  write_file_atomic(run_.path() / "next.safetensors.mine", "whole");
  write_file_atomic(run_.path() / "previous.safetensors.tmp9", "half");
  save_checkpoint(run_, at_step(1));
  EXPECT_FALSE(fs::exists(run_.path() / "next.safetensors.tmp123"));
  EXPECT_FALSE(fs::exists(run_.path() / "previous.safetensors.tmp9"));
  EXPECT_TRUE(fs::exists(run_.path() / "next.safetensors.mine"));
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
    EXPECT_THAT(log_.text(), HasSubstr("going on from"));
    write_file_atomic(run_.last(), whole);
  }
}

TEST_F(CheckpointTest, TwoDamagedFilesAreAnErrorThatNamesBoth) {
  save_checkpoint(run_, at_step(1));
  save_checkpoint(run_, at_step(2));
  fs::resize_file(run_.last(), 100);
  flip_bit(run_.previous(), fs::file_size(run_.previous()) - 1);
  const Error error = error_of([&] { load_checkpoint(run_); });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), HasSubstr("last.safetensors"));
  EXPECT_THAT(error.what(), HasSubstr("previous.safetensors"));
}

TEST_F(CheckpointTest, AFullDiskLeavesBothAsTheyWere) {
  save_checkpoint(run_, at_step(1));
  save_checkpoint(run_, at_step(2));
  const std::string last = read_file(run_.last()), previous = read_file(run_.previous());
  {
    FullDisk full(256);
    EXPECT_EQ(error_of([&] { save_checkpoint(run_, at_step(3)); }).kind(), ErrorKind::kDisk);
  }
  EXPECT_EQ(read_file(run_.last()), last);
  EXPECT_EQ(read_file(run_.previous()), previous);
}

// A child saves without pause and is killed at an unforeseen instant, but not before its first save
// is done: where a save takes long, none would else come so far as to rename a file.
TEST_F(CheckpointTest, SurvivesAKillAtAnyInstant) {
  save_checkpoint(run_, at_step(1));
  Rng rng(4, RngUse::kSynthetic);
  for (int i = 0; i < 20; ++i) {
    const int before = loaded_step();
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const Descriptor ready(ends[0]);
    Descriptor childs_end(ends[1]);
    const Stopwatch watch;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_without_end(before + 1, childs_end.get());
    childs_end = Descriptor();  // so that the end of a child that fails ends the read
    char byte = 0;
    const bool has_saved = read(ready.get(), &byte, 1) == 1;
    // For one or two saves more, as fast as they are here.
    usleep(static_cast<useconds_t>(rng.below(1 + static_cast<uint64_t>(2e6 * watch.seconds()))));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    ASSERT_TRUE(has_saved);
    EXPECT_GT(loaded_step(), before);
  }
}

}  // namespace
}  // namespace skipway
