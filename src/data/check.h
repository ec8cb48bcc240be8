// Lint for a data set: what is wrong with it, said before a training run suffers from it.
#pragma once
#include <string>
#include <vector>

#include "data/dataset.h"

namespace skipway {

enum class FindingLevel { kNote, kWarning, kError };

struct Finding {
  FindingLevel level;
  std::string code;     // "broken-file", "exact-duplicate", "near-duplicate", "train-test-overlap",
                        // "empty-class", "nested-class", "imbalance", "statistics"
  std::string message;  // with counts, and the fix
  std::vector<std::string> examples;  // up to five names or pairs "a = b"
};

/// Broken files, exact and near duplicates inside and across train and test (near: difference hash
/// of 64 bits on an 8-bit grey thumbnail, confirmed by the mean absolute pixel difference), empty
/// or nested classes, class imbalance, and the data's own mean and std against `configured`. 55,000
/// CIFAR images take a few seconds on two cores.
std::vector<Finding> check_dataset(const Dataset& dataset, const Normalisation& configured);

}  // namespace skipway
