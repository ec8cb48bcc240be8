// Tests of the lint: mistakes are planted among random and among real images.
#include "data/check.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>

#include "base/files.h"
#include "base/rng.h"

namespace skipway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kSide = 32;

// Eight by eight random colours, enlarged: structure for the hash to see.
Split random_split(int64_t count, int64_t classes, uint64_t seed, const std::string& prefix) {
  Rng rng(seed, RngUse::kSynthetic);
  at::Tensor cells = at::empty({count, 8, 1, 8, 1, 3}, at::kByte);
  for (int64_t i = 0; i < cells.numel(); ++i) {
    cells.data_ptr<uint8_t>()[i] = static_cast<uint8_t>(rng.below(256));
  }
  Split split;
  split.images =
      cells.expand({count, 8, 4, 8, 4, 3}).reshape({count, kSide, kSide, 3}).contiguous();
  split.labels = at::arange(count, at::kLong).remainder(classes);
  for (int64_t i = 0; i < count; ++i) split.names.push_back(fmt::format("{}/{}.png", prefix, i));
  return split;
}

Dataset random_dataset() {
  Dataset dataset;
  dataset.name = "random";
  dataset.classes = {"ant", "bee"};
  dataset.image_size = kSide;
  dataset.train = random_split(100, 2, 1, "a");
  dataset.test = random_split(20, 2, 2, "b");
  return dataset;
}

std::vector<Finding> check(const Dataset& dataset) {
  const Split& split = dataset.train.size() > 0 ? dataset.train : dataset.test;
  return check_dataset(dataset, channel_statistics(split.images));
}

std::vector<Finding> with_code(const std::vector<Finding>& findings, std::string_view code) {
  std::vector<Finding> found;
  std::ranges::copy_if(findings, std::back_inserter(found),
                       [&](const Finding& finding) { return finding.code == code; });
  return found;
}

// As a camera's or an encoder's noise: each value moves by at most `amount`.
at::Tensor disturbed(const at::Tensor& image, int amount) {
  Rng rng(9, RngUse::kSynthetic);
  at::Tensor result = image.clone();
  for (int64_t i = 0; i < result.numel(); ++i) {
    uint8_t& value = result.data_ptr<uint8_t>()[i];
    const int moved = value + static_cast<int>(rng.below(2 * amount + 1)) - amount;
    value = static_cast<uint8_t>(std::clamp(moved, 0, 255));
  }
  return result;
}

TEST(Check, AGoodDataSetGivesItsStatisticsAlone) {
  const std::vector<Finding> findings = check(random_dataset());
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].code, "statistics");
  EXPECT_EQ(findings[0].level, FindingLevel::kNote);
}

TEST(Check, AnEmptyDataSetIsNoReasonToFail) {
  Dataset dataset;
  dataset.classes = {"ant"};
  EXPECT_THAT(check_dataset(dataset, {}), IsEmpty());
}

TEST(Check, ACopyInTheTestPartIsAnOverlap) {
  Dataset dataset = random_dataset();
  dataset.test.images[3].copy_(dataset.train.images[7]);  // labels 1 and 1
  const auto found = with_code(check(dataset), "train-test-overlap");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  EXPECT_THAT(found[0].message, HasSubstr("1 of 20 test images (5.00 %)"));
  EXPECT_THAT(found[0].message, HasSubstr("1 exactly, 0 nearly"));
  EXPECT_THAT(found[0].examples, ElementsAre("train: a/7.png = test: b/3.png"));
  EXPECT_THAT(with_code(check(dataset), "exact-duplicate"), IsEmpty());
}

TEST(Check, ACopyOfANoisyCopyIsAnOverlapToo) {
  Dataset dataset = random_dataset();
  for (const int64_t i : {3, 5})
    dataset.test.images[i].copy_(disturbed(dataset.train.images[7], 6));
  const auto found = with_code(check(dataset), "train-test-overlap");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_THAT(found[0].message, HasSubstr("2 of 20 test images"));
}

TEST(Check, ANoisyCopyInTheTestPartIsAnOverlapToo) {
  Dataset dataset = random_dataset();
  dataset.test.images[3].copy_(disturbed(dataset.train.images[7], 6));
  const auto found = with_code(check(dataset), "train-test-overlap");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_THAT(found[0].message, HasSubstr("0 exactly, 1 nearly"));
  EXPECT_THAT(found[0].examples, ElementsAre("train: a/7.png = test: b/3.png"));
}

TEST(Check, LikeHashesAloneMakeNoDuplicate) {
  Dataset dataset = random_dataset();
  // Darkened by half: the same hash, but a difference of some 60.
  dataset.test.images[3].copy_(dataset.train.images[7].div(2, "floor"));
  EXPECT_THAT(with_code(check(dataset), "train-test-overlap"), IsEmpty());
}

TEST(Check, CopiesInsideAPartAreNoted) {
  Dataset dataset = random_dataset();
  dataset.train.images[9].copy_(dataset.train.images[5]);
  dataset.train.images[11].copy_(dataset.train.images[5]);
  dataset.train.images[20].copy_(disturbed(dataset.train.images[30], 6));
  const std::vector<Finding> findings = check(dataset);
  const auto exact = with_code(findings, "exact-duplicate");
  ASSERT_EQ(exact.size(), 1U);
  EXPECT_EQ(exact[0].level, FindingLevel::kNote);
  EXPECT_THAT(exact[0].message, HasSubstr("2 images repeat another one"));
  EXPECT_THAT(exact[0].examples,
              ElementsAre("train: a/5.png = train: a/9.png", "train: a/5.png = train: a/11.png"));
  const auto near = with_code(findings, "near-duplicate");
  ASSERT_EQ(near.size(), 1U);
  EXPECT_THAT(near[0].examples, ElementsAre("train: a/20.png = train: a/30.png"));
}

TEST(Check, TheSamePixelsUnderTwoLabelsAreAWarning) {
  Dataset dataset = random_dataset();
  dataset.train.images[8].copy_(dataset.train.images[5]);
  const auto found = with_code(check(dataset), "exact-duplicate");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  EXPECT_THAT(found[0].examples, ElementsAre("train: a/5.png = train: a/8.png (bee and ant)"));
}

TEST(Check, NothingButCopiesEndsSoon) {
  Dataset dataset = random_dataset();
  dataset.train = random_split(700, 2, 3, "a");
  dataset.train.images.copy_(dataset.train.images[0].clone().unsqueeze(0));
  for (int64_t i = 0; i < 700; ++i) {  // all different, none by much
    dataset.train.images[i][0][0][0] = i % 256;
    dataset.train.images[i][31][31][0] = i / 256;
  }
  const auto found = with_code(check(dataset), "near-duplicate");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_THAT(found[0].message, HasSubstr("more than"));
}

TEST(Check, BrokenFilesAreErrorsAndComeFirst) {
  Dataset dataset = random_dataset();
  dataset.test.images[3].copy_(dataset.train.images[7]);
  for (int i = 0; i < 7; ++i)
    dataset.bad_files.push_back({fmt::format("a/{}.jpg", i), "cut short"});
  const std::vector<Finding> findings = check(dataset);
  ASSERT_GE(findings.size(), 3U);
  EXPECT_EQ(findings[0].code, "broken-file");
  EXPECT_EQ(findings[0].level, FindingLevel::kError);
  EXPECT_THAT(findings[0].message, HasSubstr("7 files"));
  EXPECT_EQ(findings[0].examples.size(), 5U);
  EXPECT_EQ(findings[0].examples[0], "a/0.jpg: cut short");
  EXPECT_EQ(findings[1].level, FindingLevel::kWarning);
}

TEST(Check, AClassWithoutTrainingImagesIsAnErrorOneWithoutTestImagesAWarning) {
  Dataset dataset = random_dataset();
  dataset.classes = {"ant", "bee", "cow"};
  dataset.test.labels.fill_(1);
  const auto found = with_code(check(dataset), "empty-class");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].level, FindingLevel::kError);
  EXPECT_THAT(found[0].examples, ElementsAre("cow"));
  EXPECT_EQ(found[1].level, FindingLevel::kWarning);
  EXPECT_THAT(found[1].examples, ElementsAre("ant", "cow"));
}

TEST(Check, ImbalanceIsNotedFromOneAndAHalfAndWarnedOfFromThree) {
  Dataset dataset = random_dataset();
  EXPECT_THAT(with_code(check(dataset), "imbalance"), IsEmpty());
  dataset.train.labels.zero_();
  dataset.train.labels.slice(0, 0, 40).fill_(1);
  auto found = with_code(check(dataset), "imbalance");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kNote);
  dataset.train.labels.slice(0, 20, 40).fill_(0);
  found = with_code(check(dataset), "imbalance");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  EXPECT_THAT(found[0].message, HasSubstr("class ant has 4.0 times"));
}

TEST(Check, ANormalisationOfOtherDataIsAWarning) {
  const Dataset dataset = random_dataset();
  Normalisation other = channel_statistics(dataset.train.images);
  other.mean[1] += 0.2;
  auto found = with_code(check_dataset(dataset, other), "statistics");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  EXPECT_THAT(found[0].message, HasSubstr("--mean"));
  // The classic slip: values for images in 0 … 255.
  found = with_code(check_dataset(dataset, {{0, 0, 0}, {255, 255, 255}}), "statistics");
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  // Deviations alone.
  const Normalisation own = channel_statistics(dataset.train.images);
  for (const double factor : {1.6, 1 / 1.6, 1.4, 1 / 1.4}) {
    other = own;
    other.std[2] *= factor;
    found = with_code(check_dataset(dataset, other), "statistics");
    const bool warned = !found.empty() && found[0].level == FindingLevel::kWarning;
    EXPECT_EQ(warned, factor > 1.5 || factor < 1 / 1.5) << factor;
  }
}

TEST(Check, ImagesOfOneColourAreAWarning) {
  Dataset dataset = random_dataset();
  dataset.train.images.fill_(7);
  const auto found = with_code(check(dataset), "statistics");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].level, FindingLevel::kWarning);
  EXPECT_THAT(found[0].message, HasSubstr("hardly varies"));
}

TEST(Check, ImagesInFoldersInsideTheirClassAreAWarning) {
  Dataset dataset = random_dataset();
  dataset.train.names[4] = "ant/red/1.png";
  dataset.train.names[6] = "ant/red/2.png";
  dataset.test.names[1] = "bee/small/far/1.png";
  const auto nested = with_code(check(dataset), "nested-class");
  ASSERT_EQ(nested.size(), 1U);
  EXPECT_EQ(nested[0].level, FindingLevel::kWarning);
  EXPECT_THAT(nested[0].message, HasSubstr("3 images"));
  EXPECT_THAT(nested[0].examples, ElementsAre("ant/red: 2 images", "bee/small: 1 image"));
}

// Debian's file, unpacked by gzip itself so that this test does not lean on the loader.
std::string unpack(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(("gzip -dc " + path).c_str(), "r"),
                                                   pclose);
  std::string bytes;
  std::vector<char> buffer(1 << 20);
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe.get())) {
    bytes.append(buffer.data(), count);
  }
  return bytes;
}

TEST(Check, FindsPlantedCopiesAmongRealImagesThatLookAlike) {
  const std::string folder = "/usr/share/datasets/fashion-mnist/";
  if (!fs::exists(folder)) GTEST_SKIP() << "Debian's dataset-fashion-mnist is not installed";
  const std::string bytes = unpack(folder + "t10k-images-idx3-ubyte.gz");
  ASSERT_EQ(bytes.size(), 16U + 10000 * 28 * 28);
  const at::Tensor images =
      at::from_blob(const_cast<char*>(bytes.data()) + 16, {10000, 28, 28, 1}, at::kByte)
          .expand({10000, 28, 28, 3})
          .contiguous();
  Dataset dataset;
  dataset.classes = {"any"};
  dataset.train.images = images.slice(0, 0, 5000);
  dataset.test.images = images.slice(0, 5000, 6000).clone();
  dataset.train.labels = at::zeros({5000}, at::kLong);
  dataset.test.labels = at::zeros({1000}, at::kLong);
  dataset.test.images.slice(0, 0, 50).copy_(images.slice(0, 100, 150));
  for (int64_t i = 50; i < 100; ++i) dataset.test.images[i].copy_(disturbed(images[i + 200], 2));
  const auto found = with_code(check(dataset), "train-test-overlap");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_THAT(found[0].message, HasSubstr(" 50 exactly"));
  int total = 0;
  ASSERT_EQ(sscanf(found[0].message.c_str(), "%d of", &total), 1);
  EXPECT_GE(total, 95);
  EXPECT_LE(total, 110) << "images that only look alike are taken for copies";
}

}  // namespace
}  // namespace skipway
