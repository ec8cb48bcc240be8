// The augmentations' operations against torchvision's own (augment_parity.py), with the same
// parameters on the same images: noise, and smooth pictures as photographs are.
//
// All agree within one grey level. One remains where torchvision cuts a fraction off and rounding
// decides on which side of a whole number it lies: in autocontrast, and in sharpness at the image's
// border, which torchvision blends with itself. Bilinear rotation differs at the rim: where a pixel
// is read half from outside, torchvision weighs the inside twice; there nothing is compared.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/for_test.h"
#include "data/colour.h"
#include "data/geometry.h"
#include "data/rand_augment.h"
#include "python.h"
#include "record/safetensors.h"

namespace skipway {
namespace {

using Cases = std::map<std::string, std::function<void(Pixels)>>;

constexpr int64_t kCount = 16, kHigh = 32, kWide = 28;

at::Tensor images() {
  const at::Generator random = at::detail::createCPUGenerator(5);
  const at::Tensor noise = at::randint(0, 256, {kCount, kHigh, kWide, 3}, random, at::kFloat);
  const at::Tensor coarse = at::randint(0, 256, {kCount, 3, 4, 4}, random, at::kFloat);
  const at::Tensor smooth =
      at::upsample_bilinear2d(coarse, {kHigh, kWide}, /*align_corners=*/true).permute({0, 2, 3, 1});
  return at::cat({noise, smooth}).to(at::kByte).contiguous();
}

Cases colour_cases() {
  Cases cases;
  for (const double x : {0.0, 0.5, 1.3, 1.9}) {
    cases[fmt::format("brightness {}", x)] = [x](Pixels image) { adjust_brightness(image, x); };
    cases[fmt::format("contrast {}", x)] = [x](Pixels image) { adjust_contrast(image, x); };
    cases[fmt::format("saturation {}", x)] = [x](Pixels image) { adjust_saturation(image, x); };
    cases[fmt::format("sharpness {}", x)] = [x](Pixels image) { adjust_sharpness(image, x); };
  }
  for (const double x : {-0.5, -0.1, 0.0, 0.03, 0.25, 0.5})
    cases[fmt::format("hue {}", x)] = [x](Pixels image) { adjust_hue(image, x); };
  for (const int x : {1, 4, 8})
    cases[fmt::format("posterize {}", x)] = [x](Pixels image) { posterize(image, x); };
  for (const double x : {0.0, 100.5, 255.0})
    cases[fmt::format("solarize {}", x)] = [x](Pixels image) { solarize(image, x); };
  cases["autocontrast"] = autocontrast;
  cases["equalize"] = equalize;
  return cases;
}

Cases geometry_cases() {
  Cases cases;
  for (const double x : {-170.0, -30.0, 7.0, 15.0, 90.0}) {
    cases[fmt::format("rotate_nearest {}", x)] = [x](Pixels image) {
      warp(image, rotation(x), Sampling::kNearest);
    };
    cases[fmt::format("rotate_bilinear {}", x)] = [x](Pixels image) {
      warp(image, rotation(x), Sampling::kBilinear);
    };
  }
  for (const char* sampling : {"nearest", "bilinear"})
    cases[fmt::format("rotate_{} 30 0 120 255", sampling)] = [sampling](Pixels image) {
      warp(image, rotation(30),
           std::string_view(sampling) == "nearest" ? Sampling::kNearest : Sampling::kBilinear,
           {0, 120, 255});
    };
  for (const Rectangle& r :
       {Rectangle{2, 3, 23, 21}, Rectangle{0, 0, 5, 28}, Rectangle{9, 7, 1, 1}}) {
    const std::string place = fmt::format("{} {} {} {}", r.top, r.left, r.h, r.w);
    cases["resized_crop " + place] = [r](Pixels image) { resized_crop(image, r); };
    cases["erase " + place] = [r](Pixels image) { erase(image, r); };
  }
  return cases;
}

Cases rand_augment_cases() {
  Cases cases;
  for (int operation = 0; operation < kRandOperations; ++operation)
    for (const int magnitude : {0, 9, 17, 30})
      for (const int opposite : {0, 1})
        cases[fmt::format("randaugment {} {} {}", operation, magnitude, opposite)] =
            [=](Pixels image) {
              apply(static_cast<RandOperation>(operation), image, magnitude, opposite == 1);
            };
  return cases;
}

class AugmentParity : public testing::Test {
 protected:
  void SetUp() override {
    if (!python_has_module("torch") || !python_has_module("torchvision")) {
      GTEST_SKIP() << "needs torchvision to compare with: apt-get install --no-install-recommends "
                      "python3-torch python3-torchvision";
    }
  }

  void compare(const Cases& cases) {
    std::vector<std::string> names;
    for (const auto& [name, run] : cases) names.push_back(name);
    const TemporaryFolder folder;
    const std::string question = (folder / "question").string();
    const std::string answer = (folder / "answer").string();
    const at::Tensor before = images();
    write_safetensors(question, {{"images", before.permute({0, 3, 1, 2}).to(at::kLong)}},
                      {{"cases", fmt::format("{}", fmt::join(names, ";"))}});
    const PythonResult python =
        run_python({SKIPWAY_SOURCE_DIR "/tests/augment_parity.py", question, answer});
    ASSERT_EQ(python.exit_code, 0) << python.output;
    std::map<std::string, at::Tensor> theirs;
    for (const auto& [name, tensor] : read_safetensors(answer).tensors) theirs[name] = tensor;
    for (const auto& [name, run] : cases) {
      const at::Tensor ours = before.clone();
      for (int64_t i = 0; i < ours.size(0); ++i) run({ours[i].data_ptr<uint8_t>(), kHigh, kWide});
      ASSERT_TRUE(theirs.contains(name)) << name;
      at::Tensor difference = (ours.permute({0, 3, 1, 2}).to(at::kLong) - theirs.at(name)).abs();
      if (theirs.contains("inside " + name)) difference = difference * theirs.at("inside " + name);
      EXPECT_LE(difference.max().item<int64_t>(), 1) << name;
    }
  }
};

TEST_F(AugmentParity, ColoursAgreeWithTorchvision) { compare(colour_cases()); }

TEST_F(AugmentParity, GeometryAgreesWithTorchvision) { compare(geometry_cases()); }

TEST_F(AugmentParity, EveryOperationOfRandAugmentAgreesWithTorchvision) {
  compare(rand_augment_cases());
}

}  // namespace
}  // namespace skipway
