// Files in memory or on disk under one roof: a folder, or a tar or tar.gz archive. Not what they
// mean.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/process.h"

namespace skipway {

/// A regular file of a FileTree.
struct SourceFile {
  std::string path;      // relative to the root, "/" between its parts
  int64_t size = 0;      // [bytes]
  int64_t modified = 0;  // time stamp in the file system's own unit; 0 in an archive
  std::string bytes;  // in an archive; of a folder's file they stay on disk until read() is asked
};

/// The visible files and folders below a root, in order of their paths. Names that begin with "."
/// are hidden, and so is what macOS puts beside them into an archive ("__MACOSX").
struct FileTree {
  std::filesystem::path root;  // the folder or the archive
  bool in_memory = false;      // read from an archive
  std::vector<SourceFile> files = {};
  std::vector<std::string> folders = {};  // relative paths, the root itself left out; sorted
  int64_t hidden_count = 0;               // files and folders left out

  /// The bytes of a file. Errors: kData when it cannot be read.
  std::string read(const SourceFile& file) const;
  /// What a person finds a file by: root/path.
  std::string where(const SourceFile& file) const;
};

/// Whether a part of the path is hidden, as above.
bool is_hidden(const std::filesystem::path& relative);

/// Follows links, but not into a folder that the way there leads through. Errors: kData when a
/// folder cannot be read.
FileTree list_folder(const std::filesystem::path& root);

/// Reads a tar or tar.gz archive whole; nothing is written to disk, so what its paths lead to does
/// not matter. A hard link has the bytes of its target, hidden or not. Errors: kData when it is
/// neither, is damaged (gzip's checksum is verified) or cut short, or lacks the target of a link;
/// kMemory when it holds `available_bytes` or more.
FileTree read_archive(const std::filesystem::path& path,
                      int64_t available_bytes = available_memory_bytes());

/// The bytes of a file, unpacked when it is gzip. Errors: kData when it cannot be read, is damaged
/// or cut short.
std::string read_maybe_gzip(const std::filesystem::path& path);

}  // namespace skipway
