// CIFAR-10 and CIFAR-100 in their official binary form. Not the Python pickles.
#pragma once
#include <optional>
#include <string>

#include "data/archive.h"
#include "data/dataset.h"

namespace skipway {

/// Where the batch files stand in a tree, and of which set.
struct CifarBinaryPlace {
  std::string folder;  // relative to the root; empty: the root itself
  bool hundred = false;
};

/// Looks in the root and one folder below for a batch file of CIFAR-10 or CIFAR-100.
std::optional<CifarBinaryPlace> find_cifar_binary(const FileTree& tree);

/// Reads data_batch_1 … 5.bin and test_batch.bin (a record: label, 32x32 red, green, blue), or
/// train.bin and test.bin (coarse label, fine label, planes). Files may hold fewer records than the
/// official ones. Class names come from the set's own text files, where they are there; image_size
/// is 32. `coarse` takes the 20 superclasses of CIFAR-100.
/// Errors: kData for a missing file, a length that is no whole number of records, a label out of
/// range, a list of names of the wrong length; kUsage for `coarse` of CIFAR-10.
Dataset load_cifar_binary(const FileTree& tree, const CifarBinaryPlace& place, bool coarse);

}  // namespace skipway
