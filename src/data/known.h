// Data sets and weights known by name: where their files come from and how they are told right from
// wrong. Not the downloading; see fetch.h.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace skipway {

struct KnownFile {
  std::string name;               // under the data set's folder
  std::vector<std::string> urls;  // mirrors, tried in turn
  HashKind hash_kind;
  std::string hash;   // or its first digits, where no more of it is published
  int64_t bytes = 0;  // 0: not known
};

struct KnownDataset {
  std::string name;         // "cifar10"
  std::string description;  // one line for `data list`
  std::vector<KnownFile> files;
  std::string folder;           // under data_directory(); two labellings of the same files share it
  std::string unpacked_folder;  // what the archive unpacks to; empty: no archive
  std::vector<std::string> unpacked_files;  // that must all be in it
};

const std::vector<KnownDataset>& known_datasets();
/// nullptr when there is none of that name.
const KnownDataset* find_known_dataset(std::string_view name);

/// The archive or folder of a known data set under data_directory() (or, for Fashion-MNIST,
/// Debian's /usr/share/datasets/fashion-mnist), when all its files are there, in their full size;
/// an official archive unpacked by the user counts too. Contents are not verified: `fetch` did, and
/// the loader does. Looked at in this order, for an archive:
///   DATA/<folder>/<file>  DATA/<file>  DATA/<folder>/<unpacked_folder>  DATA/<unpacked_folder>
std::optional<std::filesystem::path> find_local(const KnownDataset& dataset);

/// Files where find_local() looks for an archive, which have the name but not the full size.
std::vector<std::filesystem::path> find_cut_short(const KnownDataset& dataset);

/// A residual network's weights as torchvision publishes them, trained on ImageNet's 1000 classes.
struct KnownWeights {
  std::string name;   // "resnet50", "resnet50-v2" (a longer recipe, more accurate on ImageNet)
  std::string model;  // "resnet50"
  KnownFile file;
};

/// Errors: kUsage that lists the names.
const KnownWeights& known_weights(const std::string& name);

}  // namespace skipway
