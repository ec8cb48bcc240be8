// Downloads: mirrors in turn, resume with Range, checksum, atomic rename.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

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
      progress;                 // may be empty; at most some ten calls a second
  double stall_timeout_s = 30;  // below 1 kB/s for this long: next mirror
};

/// Whether it is one that can be fetched from: http or https.
bool is_address(std::string_view text);

/// False where there is no such file, too.
bool has_right_checksum(const std::filesystem::path& path, const KnownFile& file);

/// Brings one file to `target`; does nothing when it is there with the right checksum.
/// Mirrors:  $SKIPWAY_MIRROR/<file.name> first when that is set (http or https), then file.urls.
/// Resume:   a part is kept as target.part, and gone on with, at another mirror too.
/// Checksum: compared before the part gets its final name; a wrong part is removed and the next
///           mirror asked, or the same one anew when the part had been gone on with.
/// Two programs that want the same file take turns.
/// Errors:   kData with every URL tried and its reason, the expected checksum, and how to put the
///           file there by hand; kUsage for a SKIPWAY_MIRROR that is no http URL; kDisk, which
///           keeps the part. So does the end of the process, whenever it comes.
void fetch_file(const KnownFile& file, const std::filesystem::path& target,
                const FetchOptions& options);

/// Brings all files of a data set into data_directory()/<folder> and returns that folder. Files
/// that are there with the right checksum are not fetched again. Errors: as fetch_file.
std::filesystem::path fetch_dataset(const KnownDataset& dataset, const FetchOptions& options);

}  // namespace skipway
