// `train`, `eval` and `predict` on data sets other than CIFAR-10, as files in their own formats.
// How well a model learns is not judged here.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/files.h"
#include "base/for_test.h"
#include "data/dataset.h"
#include "program.h"
#include "record/safetensors.h"
#include "small_data.h"

namespace skipway {
namespace {

using nlohmann::json;

class E2eData : public testing::Test {
 protected:
  E2eData() {
    options_.working_directory = folder_ / ".";
    options_.environment["SKIPWAY_DATA"] = (folder_ / "data").string();
  }

  json run(std::vector<std::string> args) {
    args.emplace_back("--json");
    const ProgramResult result = run_program(args, options_);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
  json train(const std::string& data, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"train", "--data",      data,       "--batch",  "16",
                                     "--lr",  "0.01",        "--epochs", "1",        "--precision",
                                     "fp32",  "--optimizer", "sgd",      "--kernel", kTestKernel};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  }
  json metadata(const std::string& key) const {
    return json::parse(read_safetensors(folder_ / "runs/001/model.safetensors").metadata.at(key));
  }

  // The run's accuracy comes out again, whether it or the caller names the data; the model carries
  // what the images are normalised by, and predicts by its own class names without any data.
  void check_run(const json& trained, const std::string& data, const std::string& source,
                 int64_t classes, int64_t size) {
    ASSERT_TRUE(trained.is_object());
    for (const std::vector<std::string>& named : std::vector<std::vector<std::string>>{
             {"eval", "runs/001"}, {"eval", "runs/001", "--data", data}}) {
      const json evaluated = run(named);
      EXPECT_EQ(evaluated.at("n"), trained.at("accuracy").at("n"));
      EXPECT_NEAR(evaluated.at("accuracy").at("plain"), trained.at("accuracy").at("last"), 1e-6);
    }
    LoadOptions load;
    load.image_size = size, load.cache_folder = folder_ / "cache";
    const Dataset dataset = load_dataset((folder_ / source).string(), load);
    const Normalisation expected = channel_statistics(dataset.train.images);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(metadata("mean").at(i), expected.mean[i], 1e-6);
      EXPECT_NEAR(metadata("std").at(i), expected.std[i], 1e-6);
    }
    EXPECT_EQ(metadata("image_size"), size);
    EXPECT_EQ(metadata("classes").size(), static_cast<size_t>(classes));

    std::filesystem::remove_all(folder_ / source);
    Image image = small_image(0, 0, 60);  // of another size and shape than any before
    image.height = 40;
    image.rgb.resize(40 * 60 * 3);
    write_png(folder_ / "new.png", image);
    const json predicted = run({"predict", "runs/001", "new.png"});
    EXPECT_EQ(predicted.at("classes"), metadata("classes"));
    EXPECT_EQ(predicted.at("predictions").at(0).at("probabilities").size(),
              static_cast<size_t>(classes));
  }

  // Records as in cifar-100-binary: coarse label, fine label, 3 planes of 32x32.
  void write_cifar100(const std::string& name, int records) {
    std::filesystem::create_directories(folder_ / "data/cifar-100-binary");
    std::ofstream file(folder_ / "data/cifar-100-binary" / name, std::ios::binary);
    for (int i = 0; i < records; ++i) {
      file.put(static_cast<char>(i % 20)).put(static_cast<char>(i % 100));
      for (int at = 0; at < 3 * 32 * 32; ++at) file.put(static_cast<char>((at * 7 + i * 31) % 251));
    }
  }
  void write_names(const std::string& name, int count) {
    std::ofstream file(folder_ / "data/cifar-100-binary" / name);
    for (int i = 0; i < count; ++i) file << "class_" << i << '\n';
  }

  // IDX: the magic number, sizes in big endian, bytes.
  void write_idx(const std::string& name, const std::vector<uint32_t>& sizes) {
    std::filesystem::create_directories(folder_ / "clothes");
    std::ofstream file(folder_ / "clothes" / name, std::ios::binary);
    const auto put = [&](uint32_t value) {
      for (int shift = 24; shift >= 0; shift -= 8) file.put(static_cast<char>(value >> shift));
    };
    put(0x800 + static_cast<uint32_t>(sizes.size()));
    for (const uint32_t size : sizes) put(size);
    const uint32_t count = std::accumulate(sizes.begin(), sizes.end(), 1U, std::multiplies<>());
    for (uint32_t i = 0; i < count; ++i)
      file.put(static_cast<char>(sizes.size() == 1 ? i % 10 : i * 7 % 253));
  }

  TemporaryFolder folder_;
  ProgramOptions options_;
};

TEST_F(E2eData, Cifar100WithFineAndCoarseLabelsByOneWord) {
  write_cifar100("train.bin", 100);
  write_cifar100("test.bin", 20);
  write_names("fine_label_names.txt", 100);
  write_names("coarse_label_names.txt", 20);
  const json coarse = train("cifar100-coarse");
  EXPECT_EQ(coarse.at("dataset"), "cifar100-coarse");
  const json fine = train("cifar100");
  EXPECT_EQ(fine.at("dataset"), "cifar100");
  EXPECT_EQ(
      json::parse(read_safetensors(folder_ / "runs/002/model.safetensors").metadata.at("classes"))
          .size(),
      100u);
  check_run(coarse, "cifar100-coarse", "data/cifar-100-binary", 20, 32);
}

// Files of the official binary form, as the archive has them, under SKIPWAY_DATA.
TEST_F(E2eData, WhatIsThereUnpackedIsNotFetchedAndAutoIsRemembered) {
  const std::filesystem::path unpacked = folder_ / "data/cifar10/cifar-10-batches-bin";
  std::filesystem::create_directories(unpacked);
  const auto write = [&](const std::string& name, int records) {
    std::ofstream file(unpacked / name, std::ios::binary);
    for (int i = 0; i < records; ++i) {
      file.put(static_cast<char>(i % 10));
      for (int at = 0; at < 3 * 32 * 32; ++at) file.put(static_cast<char>((at * 7 + i * 31) % 251));
    }
  };
  for (int i = 1; i <= 5; ++i) write("data_batch_" + std::to_string(i) + ".bin", 10);
  write("test_batch.bin", 10);
  std::ofstream names(unpacked / "batches.meta.txt");
  for (int i = 0; i < 10; ++i) names << "class_" << i << '\n';
  names.close();

  options_.environment["SKIPWAY_MIRROR"] = "http://127.0.0.1:9";  // nobody answers there
  EXPECT_EQ(run({"data", "fetch", "cifar10"}).at("path"), unpacked.string());
  EXPECT_THAT(run_program({"data", "fetch", "cifar10"}, options_).out,
              testing::HasSubstr("cifar10 is at " + unpacked.string()));
  EXPECT_EQ(train("auto").at("dataset"), "cifar10");
  EXPECT_THAT(read_file(folder_ / "runs/001/config.toml"),
              testing::HasSubstr("data = \"cifar10\"  # found\n"));
}

TEST_F(E2eData, TheKnownNamesAreListed) {
  const json object = run({"data", "list"});
  std::set<std::string> names;
  for (const json& dataset : object.at("datasets")) names.insert(dataset.at("name"));
  EXPECT_EQ(names,
            (std::set<std::string>{"cifar10", "cifar100", "cifar100-coarse", "fashion-mnist"}));
  EXPECT_THAT(run_program({"data", "list"}, options_).out,
              testing::HasSubstr("skipway data fetch cifar100"));
  const ProgramResult unknown = run_program({"data", "fetch", "cifar11"}, options_);
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, testing::HasSubstr("cifar100-coarse"));
}

// The first row as the images are, below it what two epochs make of them.
TEST_F(E2eData, APictureOfAugmentedImages) {
  constexpr int64_t kSide = 48, kColumns = 4, kScale = 2, kCell = kSide * kScale;
  write_small_part(folder_ / "photos", {"a", "b", "c", "d"}, 3, kSide);
  const std::vector<std::string> args = {"data",      "show", "photos",  "--augmented",
                                         "--augment", "flip", "--out",   "s.png",
                                         "--columns", "4",    "--count", "12"};
  EXPECT_EQ(run(args).at("images"), 12);
  const Image picture = decode_image(read_file(folder_ / "s.png"), "s.png");
  const int64_t gap = (picture.width - kColumns * kCell) / (kColumns - 1);
  ASSERT_EQ(picture.width, kColumns * kCell + (kColumns - 1) * gap);
  ASSERT_EQ(picture.height, 3 * kCell + 2 * gap);
  const at::Tensor pixels =
      at::tensor(at::ArrayRef<uint8_t>(picture.rgb)).view({picture.height, picture.width, 3});
  const auto cell = [&](int64_t row, int64_t column) {
    return pixels.narrow(0, row * (kCell + gap), kCell).narrow(1, column * (kCell + gap), kCell);
  };
  for (int64_t column = 0; column < kColumns; ++column) {
    const at::Tensor stored = cell(0, column), first = cell(1, column), second = cell(2, column);
    EXPECT_FALSE(stored.equal(stored.flip(1)));
    EXPECT_TRUE(first.equal(stored) || first.equal(stored.flip(1))) << column;
    EXPECT_TRUE(second.equal(first.flip(1))) << column;  // in turn, from epoch to epoch
  }
  const ProgramResult again = run_program(args, options_);
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("--force"), std::string::npos) << again.err;

  // As stored, in place of it, in words; and with every flag of an augmentation.
  const ProgramResult stored = run_program(
      {"data", "show", "photos", "--out", "s.png", "--force", "--columns", "2"}, options_);
  EXPECT_THAT(stored.out, testing::HasSubstr("8 images of photos are in s.png"));
  EXPECT_EQ(decode_image(read_file(folder_ / "s.png"), "s.png").width, 2 * kCell + gap);
  for (const char* flag : {"--count", "--augmented"}) {  // the usual crop is larger than these
    std::vector<std::string> tiny = {"data", "show", "photos", "--out", "s.png", "--force"};
    tiny.insert(tiny.end(), {"--image-size", "2", flag});
    if (std::string(flag) == "--count") tiny.emplace_back("4");
    EXPECT_EQ(run_program(tiny, options_).exit_code, 0) << flag;
  }
  const ProgramResult cropped =
      run_program({"data", "show", "photos", "--augmented", "--out", "c.png", "--augment",
                   "crop,cutmix", "--crop-pad", "2", "--cutmix-alpha", "0.5", "--epoch", "3"},
                  options_);
  EXPECT_THAT(cropped.out, testing::HasSubstr("one row for each epoch from 3 on")) << cropped.err;
}

TEST_F(E2eData, ACheckFindsABrokenImage) {
  write_small_part(folder_ / "photos", {"a", "b"}, 4, 16);
  const json sound = run({"data", "check", "photos"});
  EXPECT_EQ(sound.at("ok"), true) << sound;
  folder_.write("photos/a/broken.jpg", "broken");
  const ProgramResult result = run_program({"data", "check", "photos", "--json"}, options_);
  EXPECT_EQ(result.exit_code, 3);
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("ok"), false);
  EXPECT_EQ(object.at("error").at("exit_code"), 3);
  const std::string text = run_program({"data", "check", "photos"}, options_).out;
  EXPECT_THAT(text, testing::AllOf(testing::HasSubstr("error broken-file: "),
                                   testing::HasSubstr("photos: 6 + 2 images of 2 classes")));
  const json& findings = object.at("findings");
  const auto broken = std::find_if(findings.begin(), findings.end(), [](const json& finding) {
    return finding.at("code") == "broken-file";
  });
  ASSERT_NE(broken, findings.end()) << object;
  EXPECT_EQ(broken->at("level"), "error");
  EXPECT_NE(broken->at("examples").dump().find("a/broken.jpg"), std::string::npos);
}

TEST_F(E2eData, IdxFilesOfGreyImages) {
  write_idx("train-images-idx3-ubyte", {40, 28, 28});
  write_idx("train-labels-idx1-ubyte", {40});
  write_idx("t10k-images-idx3-ubyte", {20, 28, 28});
  write_idx("t10k-labels-idx1-ubyte", {20});
  check_run(train("clothes"), "clothes", "clothes", 10, 28);
}

TEST_F(E2eData, PhotosOfAnySizeWithAttention) {
  const std::vector<std::string> classes = {"Käfer", "two words", "z"};
  int64_t size = 30;  // each folder has another one
  for (const std::string part : {"photos/train", "photos/test"})
    for (const std::string& name : classes) {
      write_small_part(folder_ / part, {name}, 8, size, /*first_number=*/size);
      size += 7;
    }
  const json trained = train("photos", {"--image-size", "24", "--attention", "se"});
  check_run(trained, "photos", "photos", 3, 24);
  EXPECT_EQ(metadata("classes"), json(classes));
}

}  // namespace
}  // namespace skipway
