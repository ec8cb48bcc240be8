// Downloads: mirrors in turn, resume with Range and ETag, checksum, atomic rename.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "data/known.h"

namespace skipway {

struct FetchProgress {
  std::string file;
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;  // 0: unknown
  double bytes_per_s = 0;
};

struct FetchOptions {
  std::function<void(const FetchProgress&)>
      progress;                     // may be empty; at most some ten calls a second
  std::function<bool()> cancelled;  // may be empty; true: stop, keep the part for a later resume
  double stall_timeout_s = 30;      // below 1 kB/s for this long: next mirror
  double connect_timeout_s = 15;
};

/// Brings one file to `target`. A part is kept as target.part with its ETag in target.part.etag and
/// gone on with when the server still has that ETag. Errors: kData with every URL tried and its
/// reason, the expected checksum, and how to put the file there by hand; kDisk.
void fetch_file(const KnownFile& file, const std::filesystem::path& target,
                const FetchOptions& options);

/// Brings all files of a data set into data_directory()/<name> and returns that folder. Files that
/// are there with the right checksum are not fetched again.
std::filesystem::path fetch_dataset(const KnownDataset& dataset, const FetchOptions& options);

}  // namespace skipway
