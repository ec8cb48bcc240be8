// A labelled image data set in memory, and its loading from everything that `--data` accepts. Not
// augmentation.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensors.h"

namespace skipway {

struct Split {
  at::Tensor images;  // uint8 [n, size, size, 3], on the CPU
  at::Tensor labels;  // int64 [n]
  std::vector<std::string>
      names;  // what a person can find the image by: "cat/0001.jpg", "data_batch_1.bin:17"

  int64_t size() const { return labels.defined() ? labels.size(0) : 0; }
};

/// A file that should have been an image and was not.
struct BadFile {
  std::string name;
  std::string reason;
};

struct Dataset {
  std::string name;    // "cifar10", "fashion-mnist", or the folder's or archive's name
  std::string source;  // the path it was read from
  std::vector<std::string> classes;  // index = label
  int64_t image_size = 0;            // side of the square images [pixels]
  Split train;
  Split test;                      // empty when the source has no test part
  std::vector<BadFile> bad_files;  // left out of train and test
};

struct LoadOptions {
  int64_t image_size = 0;  // 0: the images' own size when they are all square, equal and at most
                           // 64; else 32, 64 or 224 by the median short side
  double test_fraction = 0.1;  // for a single class tree without test/: the share that becomes the
                               // test part, class by class
  uint64_t seed = 0;           // of that division
  bool whole_tree_is_test = false;  // `eval` on a single class tree: all of it is the test part
  std::filesystem::path
      cache_folder;  // decoded images are kept here; empty: $HOME/.cache/skipway/decoded
  bool use_cache = true;
};

/// Loads `--data SPEC`:
///   auto                     CIFAR-10 under data_directory(), else downloaded, else Debian's
///   Fashion-MNIST with a line in the log a known name             cifar10, cifar100,
///   cifar100-coarse, fashion-mnist (see known.h); found locally, else downloaded FOLDER or
///   tar(.gz)       train/<class>/*.{jpg,jpeg,png} and test/<class>/…, or one tree of classes; at
///   most one folder around it FOLDER or tar.gz         CIFAR-10/100 in the official binary form
///   FOLDER                   IDX files (train-images-idx3-ubyte[.gz] …)
/// Classes are in alphabetical order of their folders, files in alphabetical order in a class. For
/// the class folders of CIFAR-10 this is the official label order. Errors: kData with the path,
/// what was expected and what to do.
Dataset load_dataset(const std::string& spec, const LoadOptions& options = {});

/// Moves `count` images, the same share of every class, from train into a new split. A function of
/// the seed. Errors: kUsage when count is not in 1 … train size - 1.
Split split_validation(Dataset& dataset, int64_t count, uint64_t seed);

/// Mean and standard deviation per channel of uint8 [n, h, w, 3] images scaled to [0, 1].
Normalisation channel_statistics(const at::Tensor& images);

}  // namespace skipway
