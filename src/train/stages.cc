#include "train/stages.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

#include "base/error.h"

namespace skipway {
namespace {

struct Step {
  int64_t side;
  double end;
};

[[noreturn]] void refuse(const std::string& resize, int64_t image_size) {
  fail(
      ErrorKind::kUsage, "config",
      "expected none, auto, or rising sides below {} with the rising shares of the run, in (0, 1), "
      "after which each ends, such as 16:0.5,24:0.75, got \"{}\" at --resize",
      image_size, resize);
}

std::vector<Step> parse_resize(const std::string& resize, int64_t image_size, const Stage& small) {
  constexpr int64_t kLargeEnough = 32;  // a CIFAR stem makes maps of a sixteenth of the side
  std::vector<Step> steps;
  if (resize == "none" || (resize == "auto" && image_size < kLargeEnough)) return steps;
  if (resize == "auto") return {{small.side, small.end}};
  const char* at = resize.data();
  const char* const text_end = at + resize.size();
  while (true) {
    Step step{};
    const auto side = std::from_chars(at, text_end, step.side);
    if (side.ec != std::errc() || side.ptr == text_end || *side.ptr != ':')
      refuse(resize, image_size);
    const auto end = std::from_chars(side.ptr + 1, text_end, step.end);
    if (end.ec != std::errc()) refuse(resize, image_size);
    const Step before = steps.empty() ? Step{0, 0} : steps.back();
    if (step.side <= before.side || step.side >= image_size || !(step.end > before.end) ||
        step.end >= 1)
      refuse(resize, image_size);
    steps.push_back(step);
    if (end.ptr == text_end) return steps;
    if (*end.ptr != ',') refuse(resize, image_size);
    at = end.ptr + 1;
  }
}

}  // namespace

std::vector<Stage> make_stages(const std::string& resize, double shallow_share, int64_t image_size,
                               const Stage& small) {
  const std::vector<Step> sides = parse_resize(resize, image_size, small);
  std::set<double> ends = {1};
  for (const Step& step : sides) ends.insert(step.end);
  if (shallow_share > 0) ends.insert(shallow_share);
  std::vector<Stage> stages;
  for (const double end : ends) {
    const auto side = std::ranges::find_if(sides, [&](const Step& s) { return s.end >= end; });
    stages.push_back({end, side == sides.end() ? image_size : side->side, end <= shallow_share});
  }
  return stages;
}

double steady_length(double before, double total, double share) {
  return total >= before ? total : before + std::min(1., share) * (total - before);
}

size_t stage_at(const std::vector<Stage>& stages, double done, size_t current) {
  while (current + 1 < stages.size() && done >= stages[current].end) ++current;
  return current;
}

}  // namespace skipway
