// What a training step costs and sees over a run: small images and fewer blocks first, the whole
// task at the end. Knows no model.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace skipway {

/// Consecutive steps that are alike.
struct Stage {
  double end = 1;        // share of the run's steps at which it is over
  int64_t side = 32;     // of the training images [pixels]
  bool shallow = false;  // without the blocks that can start as identity

  bool operator==(const Stage&) const = default;
};

/// `resize`: "none", "auto" (`small`, up to its end, where the images have 32 pixels or more), or
/// sides that rise and the shares after which each ends: "16:0.5,24:0.7"; what is left is
/// `image_size`. `shallow_share`: of the steps that are shallow, in [0, 1). Errors: kUsage naming
/// the flag.
std::vector<Stage> make_stages(const std::string& resize, double shallow_share, int64_t image_size,
                               const Stage& small);

/// The length of a run that its stages go by, where `total` is the latest estimate, made after each
/// step: it rises at once but falls by `share` of the way only, so that seconds in which something
/// else ran end no stage. `before`: what it was.
double steady_length(double before, double total, double share);

/// Which stage a step belongs to. `done`: share of the run before it; a run that is planned anew
/// never goes back before `current`.
size_t stage_at(const std::vector<Stage>& stages, double done, size_t current);

}  // namespace skipway
