// Decoded images kept on disk, so that the same folder or archive is not decoded twice. Not a data
// format to share.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "data/archive.h"
#include "data/dataset.h"

namespace skipway {

/// What decoded images depend on. `place` tells which source and how it is read, `state` which
/// version of it: a new state replaces the file of an old one.
struct CacheKey {
  std::string place;
  std::string state;
};

/// Of an archive: its path, size and time stamp. `variant` is all else that decides the result.
CacheKey archive_cache_key(const std::filesystem::path& path, const std::string& variant);
/// Of a folder: its path, and the path, size and time stamp of every file in it.
CacheKey folder_cache_key(const FileTree& tree, const std::string& variant);

/// nullopt when there is none; also, with a line in the log, when it is damaged (its SHA-256 is
/// verified). name and source stay empty.
std::optional<Dataset> read_decoded_cache(const std::filesystem::path& folder, const CacheKey& key);

/// Writes atomically and removes older states of the same place. What cannot be written is a
/// warning in the log and no error.
void write_decoded_cache(const std::filesystem::path& folder, const CacheKey& key,
                         const Dataset& dataset);

}  // namespace skipway
