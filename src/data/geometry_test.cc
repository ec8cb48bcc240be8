// Laws of the geometric operations; tests/augment_parity_test.cc compares them with torchvision.
#include "data/geometry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "data/pixels_for_test.h"

namespace skipway {
namespace {

constexpr int64_t kSide = 9;

std::vector<uint8_t> picture() { return random_picture(kSide, kSide); }

Pixels pixels(std::vector<uint8_t>& values) { return {values.data(), kSide, kSide}; }

TEST(Warp, TheIdentityAndFourQuarterTurnsChangeNothing) {
  for (const Sampling sampling : {Sampling::kNearest, Sampling::kBilinear}) {
    std::vector<uint8_t> values = picture();
    warp(pixels(values), Affine(), sampling);
    EXPECT_EQ(values, picture());
    for (int turn = 0; turn < 4; ++turn) warp(pixels(values), rotation(90), Sampling::kNearest);
    EXPECT_EQ(values, picture());
  }
}

TEST(Warp, AQuarterTurnIsCounterClockwise) {
  std::vector<uint8_t> values(3 * kSide * kSide, 0);
  values[3 * (kSide - 1)] = 200;  // red, top right
  warp(pixels(values), rotation(90), Sampling::kNearest);
  EXPECT_EQ(values[0], 200);  // top left
}

TEST(Warp, OutsideIsGrey) {
  std::vector<uint8_t> values(3 * kSide * kSide, 255);
  warp(pixels(values), {.x0 = kSide}, Sampling::kBilinear);
  EXPECT_EQ(values, std::vector<uint8_t>(values.size(), kGrey));
}

TEST(Warp, OutsideIsTheFillThatIsGiven) {
  for (const Sampling sampling : {Sampling::kNearest, Sampling::kBilinear}) {
    std::vector<uint8_t> values(3 * kSide * kSide, 255);
    warp(pixels(values), {.x0 = kSide}, sampling, {1, 2, 3});
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], 1 + i % 3);
  }
}

TEST(Rectangles, KeepToAreaRatioAndImage) {
  const RectangleRange range{
      .least_area = 0.3, .most_area = 0.8, .least_ratio = 0.5, .most_ratio = 2};
  constexpr int64_t kHigh = 100, kWide = 120;
  Rng rng(1, RngUse::kAugment);
  double tops = 0;
  for (int i = 0; i < 1000; ++i) {
    const Rectangle r = draw_rectangle(range, kHigh, kWide, rng).value();
    const double h = static_cast<double>(r.h), w = static_cast<double>(r.w);
    EXPECT_TRUE(r.top >= 0 && r.left >= 0 && r.top + r.h <= kHigh && r.left + r.w <= kWide);
    EXPECT_NEAR(h * w / (kHigh * kWide), 0.55, 0.25 + 0.02);
    EXPECT_LE(std::abs(std::log(w / h)), std::log(2) + 0.03);
    tops += r.h == kHigh ? 0.5 : static_cast<double>(r.top) / static_cast<double>(kHigh - r.h);
  }
  EXPECT_NEAR(tops / 1000, 0.5, 5 * std::sqrt(1.0 / 12 / 1000));
}

TEST(Rectangles, ThatFitNowhereBecomeTheMiddle) {
  const RectangleRange range{.least_ratio = 4, .most_ratio = 4};
  Rng rng(1, RngUse::kAugment);
  EXPECT_FALSE(draw_rectangle(range, 40, 40, rng).has_value());
  const Rectangle r = middle_rectangle(range, 40, 40);
  EXPECT_TRUE(r.top == 15 && r.left == 0 && r.h == 10 && r.w == 40);
}

TEST(ResizedCrop, OfTheWholeImageIsTheImage) {
  std::vector<uint8_t> values = picture();
  resized_crop(pixels(values), {0, 0, kSide, kSide});
  EXPECT_EQ(values, picture());
}

TEST(Erase, MakesTheRectangleGreyAndNothingElse) {
  std::vector<uint8_t> values(3 * kSide * kSide, 9);
  erase(pixels(values), {2, 3, 4, 5});
  EXPECT_EQ(std::ranges::count(values, kGrey), 3 * 4 * 5);
  EXPECT_EQ(values[3 * (2 * kSide + 3)], kGrey);
  EXPECT_EQ(values[3 * (5 * kSide + 7) + 2], kGrey);
}

TEST(RotatedFillShare, GrowsWithTheAngle) {
  EXPECT_EQ(rotated_fill_share(0, 32), 0);
  EXPECT_LT(rotated_fill_share(15, 32), rotated_fill_share(30, 32));
  // Of a square turned by 45 degrees an octagon stays: 2 (sqrt(2) - 1) of the area.
  EXPECT_NEAR(rotated_fill_share(45, 200), 1 - 2 * (std::sqrt(2) - 1), 0.01);
}

TEST(Rectangles, AreaLogarithmOfTheRatioAndPlaceAreUniform) {
  const RectangleRange range{
      .least_area = 0.1, .most_area = 0.3, .least_ratio = 0.5, .most_ratio = 3};
  constexpr int kDraws = 4000;
  constexpr int64_t kLarge = 1000;  // whole pixels change little, and all of the range fits
  Rng rng(1, RngUse::kAugment);
  std::array<double, 4> sums{}, squares{};
  for (int i = 0; i < kDraws; ++i) {
    const Rectangle r = draw_rectangle(range, kLarge, kLarge, rng).value();
    const double h = static_cast<double>(r.h), w = static_cast<double>(r.w);
    const std::array<double, 4> shares = {
        (h * w / 1e6 - 0.1) / 0.2, std::log(w / h / 0.5) / std::log(6),
        static_cast<double>(r.top) / (kLarge - h), static_cast<double>(r.left) / (kLarge - w)};
    for (size_t k = 0; k < shares.size(); ++k) {
      sums[k] += shares[k];
      squares[k] += shares[k] * shares[k];
    }
  }
  for (size_t k = 0; k < sums.size(); ++k) {
    EXPECT_NEAR(sums[k] / kDraws, 0.5, 5 * std::sqrt(1. / 12 / kDraws)) << k;
    EXPECT_NEAR(squares[k] / kDraws, 1. / 3, 5 * std::sqrt(4. / 45 / kDraws)) << k;
  }
}

}  // namespace
}  // namespace skipway
