#include "train/rules.h"

#include <algorithm>
#include <array>
#include <limits>

namespace skipway {
namespace {

constexpr std::array<Rule, 7> kRules{{
    // passes, half-size share, crop, augmentation, rate, Muon's factor, BatchNorm images
    {0.2, 0.55, 2, "flip", 0.05, 0.5, 1024},
    {0.6, 0.55, 2, "flip", 0.08, 0.5, 1024},
    {0.8, 0.55, 2, "flip", 0.14, 0.4, 0},
    {6, 0.55, 2, "flip", 0.14, 0.25, 0},
    {16, 0.55, 2, "flip,crop", 0.14, 0.25, 0},
    {40, 0.40, 4, "flip,crop", 0.14, 0.25, 0},
    {std::numeric_limits<double>::infinity(), 0.25, 4, "flip,crop,cutout", 0.14, 0.25, 0},
}};

}  // namespace

const Rule& rule_for(double passes) {
  return *std::ranges::find_if(kRules, [&](const Rule& rule) { return passes <= rule.passes; });
}

}  // namespace skipway
