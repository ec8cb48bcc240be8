#include "train/rules.h"

#include <algorithm>
#include <array>
#include <limits>

namespace skipway {
namespace {

constexpr std::array<Rule, 3> kRules{{
    // passes, half-size share, crop, augmentation
    {16, 0.55, 2, "flip,crop"},
    {40, 0.40, 4, "flip,crop"},
    {std::numeric_limits<double>::infinity(), 0.25, 4, "flip,crop,cutout"},
}};

}  // namespace

const Rule& rule_for(double passes) {
  return *std::ranges::find_if(kRules, [&](const Rule& rule) { return passes <= rule.passes; });
}

}  // namespace skipway
