// A labelled image data set in memory, and its loading from everything that `--data` accepts. Not
// augmentation.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensors.h"
#include "data/fetch.h"

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
  bool unreadable = false;  // now, and perhaps not the next time
};

struct Dataset {
  std::string name;    // "cifar10", "fashion-mnist", or the folder's or archive's name
  std::string source;  // the path it was read from
  std::vector<std::string> classes;  // index = label
  int64_t image_size = 0;            // side of the square images [pixels]
  Split train;
  Split test;                      // empty when the source has no test part
  std::vector<BadFile> bad_files;  // left out of train and test
  bool test_from_train = false;    // the source has none: some of its images, at random
};

struct LoadOptions {
  int64_t image_size = 0;  // 0: the images' own size when they are all square, equal and at most
                           // 64; else 32, 64 or 224, the nearest to the median short side
  uint64_t seed = 0;       // of what a source without test part leaves out of train, a tenth of
                           // each class, to be that
  bool whole_tree_is_test = false;  // `eval` on a source without test part: all of it is that
  std::filesystem::path
      cache_folder;  // decoded images, up to 4 GB, are kept here; empty: ~/.cache/skipway/decoded
  std::function<void(const FetchProgress&)> fetch_progress;  // of a download; may be empty
};

/// Loads `--data SPEC`:
///   auto              CIFAR-10 under data_directory(), else downloaded, else Fashion-MNIST as
///                     found locally, with a warning in the log that says so
///   a known name      cifar10, cifar100, cifar100-coarse, fashion-mnist (see known.h); found
///                     locally, else downloaded; goes before a folder of that name
///   FOLDER, tar(.gz)  train/<class>/*.{jpg,jpeg,png} and test/<class>/…, or one tree of classes;
///                     at most one folder around it
///   FOLDER, tar(.gz)  CIFAR-10/100 in the official binary form
///   FOLDER            IDX files (train-images-idx3-ubyte[.gz] …)
/// Classes are in alphabetical order of their folders, files in alphabetical order in a class. For
/// the class folders of CIFAR-10 this is the official label order. Their names are valid UTF-8:
/// U+FFFD stands for each sequence in a folder's name that is not.
/// Files left out and classes without images to train on are said in the log.
/// Errors: kData with the path, what was expected and what to do, also for two folders that become
/// one name by that; kUsage for options out of range; kMemory when the images would not fit.
Dataset load_dataset(const std::string& spec, const LoadOptions& options = {});

/// Moves `count` images, the same share of every class, from train into a new split. A function of
/// the seed. Errors: kUsage when count is not in 1 … train size - 1.
Split split_validation(Dataset& dataset, int64_t count, uint64_t seed);

/// Mean and standard deviation (over all pixels) per channel of uint8 [n, h, w, 3] images scaled to
/// [0, 1]. Same bits for any number of threads. Errors: kUsage when there are no images.
Normalisation channel_statistics(const at::Tensor& images);

/// Whether images of the statistics `own` may be normalised with `used`: means within 0.1, standard
/// deviations within 1.5 times. Data sets of photographs differ by half of that.
bool normalisation_fits(const Normalisation& used, const Normalisation& own);

}  // namespace skipway
