// Laws of the colour operations; tests/augment_parity_test.cc compares them with torchvision.
#include "data/colour.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "data/pixels_for_test.h"

namespace skipway {
namespace {

// A picture of 16 x 12 pixels, all of them different.
std::vector<uint8_t> picture() { return random_picture(12, 16); }

template <typename Change>
std::vector<uint8_t> changed(Change&& change, std::vector<uint8_t> values = picture()) {
  change(Pixels{values.data(), 12, 16});
  return values;
}

TEST(Colour, AFactorOfOneChangesNothing) {
  for (auto* const adjust :
       {adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness})
    EXPECT_EQ(changed([&](Pixels image) { adjust(image, 1); }), picture());
  EXPECT_EQ(changed([](Pixels image) { posterize(image, 8); }), picture());
  EXPECT_EQ(changed([](Pixels image) { solarize(image, 256); }), picture());
  EXPECT_EQ(changed([](Pixels image) { jitter(image, {}, Rng(1, RngUse::kAugment)); }), picture());
}

TEST(Colour, AFactorOfZeroLeavesBlackOrOneGrey) {
  EXPECT_EQ(changed([](Pixels image) { adjust_brightness(image, 0); }),
            std::vector<uint8_t>(picture().size(), 0));
  const auto flat = changed([](Pixels image) { adjust_contrast(image, 0); });
  EXPECT_EQ(flat, std::vector<uint8_t>(flat.size(), flat[0]));
  const auto grey = changed([](Pixels image) { adjust_saturation(image, 0); });
  for (size_t i = 0; i < grey.size(); i += 3)
    EXPECT_TRUE(grey[i] == grey[i + 1] && grey[i] == grey[i + 2]);
}

TEST(Colour, TwoHalfTurnsOfTheHueComeBack) {
  const auto there_and_back = changed([](Pixels image) {
    adjust_hue(image, 0.5);
    adjust_hue(image, 0.5);
  });
  for (size_t i = 0; i < there_and_back.size(); ++i)
    EXPECT_NEAR(there_and_back[i], picture()[i], 4) << i;  // each turn cuts fractions off
}

TEST(Colour, SolarizeInvertsTwiceToTheSame) {
  EXPECT_EQ(changed([](Pixels image) { solarize(image, 0), solarize(image, 0); }), picture());
}

TEST(Colour, AutocontrastReachesBothEndsAndLeavesAFlatImage) {
  const auto stretched = changed(autocontrast, changed([](Pixels i) { adjust_contrast(i, 0.3); }));
  EXPECT_EQ(*std::ranges::min_element(stretched), 0);
  EXPECT_EQ(*std::ranges::max_element(stretched), 255);
  const std::vector<uint8_t> flat(picture().size(), 90);
  EXPECT_EQ(changed(autocontrast, flat), flat);
  EXPECT_EQ(changed(equalize, flat), flat);
}

TEST(Jitter, StaysInItsRangeAndIsAFunctionOfItsKey) {
  const std::vector<uint8_t> grey(picture().size(), 100);
  int darkest = 255, brightest = 0;
  for (uint64_t key = 0; key < 500; ++key) {
    const auto run = [&](Pixels image) {
      jitter(image, {.brightness = 0.2}, Rng(1, RngUse::kAugment, {key}));
    };
    const auto result = changed(run, grey);
    EXPECT_EQ(result, changed(run, grey));
    darkest = std::min<int>(darkest, result[0]);
    brightest = std::max<int>(brightest, result[0]);
  }
  EXPECT_GE(darkest, 79);
  EXPECT_LE(darkest, 82);
  EXPECT_GE(brightest, 117);
  EXPECT_LE(brightest, 120);
}

TEST(Jitter, EachStrengthMovesItsOwnToBothSides) {
  std::vector<uint8_t> values;  // two greys and a pale red
  for (int i = 0; i < 64; ++i)
    for (const int value : {50, 50, 50, 150, 150, 150, 160, 80, 80})
      values.push_back(static_cast<uint8_t>(value));
  struct Case {
    JitterOptions options;
    size_t more, less;  // the difference of these two values
    double least, most;
  };
  for (const Case& c :
       {Case{{.contrast = 0.2}, 3, 0, 80, 120}, Case{{.saturation = 0.2}, 6, 7, 64, 96},
        Case{{.hue = 0.1}, 7, 8, -48, 48}}) {
    double lowest = 1e9, highest = -1e9, sum = 0;
    for (uint64_t key = 0; key < 500; ++key) {
      const auto result = changed(
          [&](Pixels image) { jitter(image, c.options, Rng(1, RngUse::kAugment, {key})); }, values);
      const double difference = result[c.more] - result[c.less];
      lowest = std::min(lowest, difference);
      highest = std::max(highest, difference);
      sum += difference;
    }
    EXPECT_NEAR(lowest, c.least, 3);
    EXPECT_NEAR(highest, c.most, 3);
    EXPECT_NEAR(sum / 500, (c.least + c.most) / 2,
                5 * (c.most - c.least) / std::sqrt(12. * 500) + 1);
  }
}

}  // namespace
}  // namespace skipway
