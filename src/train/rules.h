// What `budget` changes with the length of a run, in one table.
#pragma once
#include <cstdint>

namespace skipway {

struct Rule {
  double passes;              // up to so many passes over the images at full size
  double small_share;         // of the steps, first, that see images of half the side
  int64_t crop_pad;           // padding before the random crop [pixels]
  const char* augment;        // words of --augment
  double lr;                  // peak rate, at the recipe's batch of 128
  double muon_lr;             // factor of the rate for filters under Muon
  int64_t batch_norm_images;  // from which BatchNorm's statistics are taken anew at the end
};

/// The row for a run that can afford so many passes. docs/recipes.md says which of it is measured.
const Rule& rule_for(double passes);

}  // namespace skipway
