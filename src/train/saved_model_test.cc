// Tests of the way of a model into a run folder and back.
#include "train/saved_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "model/resnet.h"
#include "record/checkpoint.h"
#include "record/safetensors.h"

namespace skipway {
namespace {

class SavedModelTest : public testing::Test {
 protected:
  static ModelSpec spec() {
    ModelSpec spec;
    spec.num_classes = 3;
    spec.image_size = 24;
    spec.classes = {"cat", "a \"dog\", brown", "Z\xc3\xbc"};
    spec.normalisation = {{0.1, 0.2, 1.0 / 3}, {0.4, 0.5, 0.6}};
    return spec;
  }
  ErrorKind kind_of_load_error() {
    return error_of([&] { load_saved_model(run_); }).kind();
  }

  TemporaryFolder folder_;
  RunFolder run_ = RunFolder::create(folder_.path());
};

void expect_equal_models(const Model& a, const Model& b) {
  const NamedTensors x = a.state(), y = b.state();
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].first, y[i].first);
    EXPECT_TRUE(at::equal(x[i].second, y[i].second)) << x[i].first;
  }
  EXPECT_EQ(to_metadata(a.spec()), to_metadata(b.spec()));
}

TEST_F(SavedModelTest, TheFileAloneGivesTheSameModel) {
  const ResNet model(spec(), 7);
  const std::string sha256 = save_model(run_, model);
  EXPECT_EQ(sha256, hash_of_file(HashKind::kSha256, run_.model()));
  const std::unique_ptr<Model> back = load_saved_model(run_);
  expect_equal_models(model, *back);
  EXPECT_EQ(back->spec().classes, spec().classes);
  EXPECT_EQ(read_safetensors(run_.model()).metadata.at("format"), "pt");
}

TEST_F(SavedModelTest, AnUnfinishedRunGivesItsLastCheckpoint) {
  const ResNet model(spec(), 8);
  Checkpoint checkpoint;
  checkpoint.model = model.state();
  checkpoint.metadata = to_metadata(model.spec());
  save_checkpoint(run_, checkpoint);
  expect_equal_models(model, *load_saved_model(run_));
}

TEST_F(SavedModelTest, KernelsAreThoseOfTheRunElseTheFastest) {
  ResNet model(spec(), 7);
  const auto loaded_with = [&](const std::map<std::string, std::string>& kernels) {
    std::map<std::string, std::string> metadata = to_metadata(model.spec());
    metadata.insert(kernels.begin(), kernels.end());
    write_safetensors(run_.model(), model.state(), metadata);
    return load_saved_model(run_)->kernels();
  };
  EXPECT_EQ(loaded_with({}).word(), "auto");
  EXPECT_EQ(loaded_with({{"kernels", "{}"}}).word(), "auto");
  EXPECT_EQ(loaded_with({{"kernels", "not JSON"}}).word(), "auto");
  EXPECT_EQ(loaded_with({{"kernel", "a later version's"}}).word(), "auto");
  const KernelChoice kept = loaded_with({{"kernels", R"({"a shape": "im2col"})"}});
  EXPECT_EQ(kept.word(), "auto");
  EXPECT_EQ(kept.chosen().at("a shape"), "im2col");

  for (const char* word : {"torch", "winograd"}) {
    model.kernels() = KernelChoice(word);
    save_model(run_, model);
    EXPECT_EQ(load_saved_model(run_)->kernels().word(), word);
  }
}

TEST_F(SavedModelTest, ACheckpointHasItsKernelsInItsProgress) {
  const ResNet model(spec(), 8);
  Checkpoint checkpoint;
  checkpoint.model = model.state();
  checkpoint.metadata = to_metadata(model.spec());
  checkpoint.metadata["progress"] = R"({"step": 3, "kernels": {"a shape": "winograd"}})";
  save_checkpoint(run_, checkpoint);
  const std::unique_ptr<Model> back = load_saved_model(run_);
  EXPECT_EQ(back->kernels().word(), "auto");
  EXPECT_EQ(back->kernels().chosen().at("a shape"), "winograd");
}

TEST_F(SavedModelTest, WhatDoesNotFitIsRefused) {
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);  // nothing there
  write_safetensors(run_.model(), ResNet(spec(), 1).state(), {{"format", "pt"}});
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);  // no spec
  ModelSpec other = spec();
  other.name = "resnet34";
  write_safetensors(run_.model(), ResNet(spec(), 1).state(), to_metadata(other));
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);  // tensors of another model
}

TEST_F(SavedModelTest, AnUnfinishedRunGivesItsAverages) {
  const ResNet model(spec(), 8), averages(spec(), 9);
  Checkpoint checkpoint;
  checkpoint.model = model.state();
  checkpoint.ema = averages.state();
  checkpoint.metadata = to_metadata(model.spec());
  save_checkpoint(run_, checkpoint);
  expect_equal_models(averages, *load_saved_model(run_));
}

TEST_F(SavedModelTest, AChangedByteIsSeen) {
  save_model(run_, ResNet(spec(), 7));
  std::string bytes = read_file(run_.model());
  bytes[bytes.size() / 2] ^= 1;
  write_file_atomic(run_.model(), bytes);
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);
}

TEST_F(SavedModelTest, WeightsThatAreNotFiniteAreRefused) {
  const ResNet model(spec(), 7);
  model.parameters().front().second.detach().fill_(NAN);
  save_model(run_, model);
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);
  NamedTensors wide = ResNet(spec(), 7).state();  // finite in 64 bits, and not in 32
  wide.front().second = wide.front().second.detach().to(at::kDouble).fill_(1e300);
  write_safetensors(run_.model(), wide, to_metadata(spec()));
  EXPECT_EQ(kind_of_load_error(), ErrorKind::kCheckpoint);
}

}  // namespace
}  // namespace skipway
