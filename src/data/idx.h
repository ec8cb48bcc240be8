// IDX files, the form of MNIST and its successors: four files in a folder, plain or gzip.
#pragma once
#include <filesystem>

#include "data/dataset.h"

namespace skipway {

/// Whether the folder holds one of the four files.
bool is_idx_folder(const std::filesystem::path& folder);

/// Reads train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-… and t10k-labels-…, each
/// plain or with .gz. Grey becomes three equal channels; images keep their own height and width
/// ([n, h, w, 3]; image_size is left 0). Classes have their names when the path speaks of fashion,
/// else they are "0" to "9" (or to the highest label).
/// Errors: kData for a missing file, a wrong magic number, a length that does not fit the counts, a
/// label out of range, different numbers of images and labels.
/// Source: http://yann.lecun.com/exdb/mnist, "file formats".
Dataset load_idx_folder(const std::filesystem::path& folder);

}  // namespace skipway
