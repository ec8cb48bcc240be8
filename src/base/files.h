// Files: read whole, write so that a final name always holds a whole file, and hash.
#pragma once
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace skipway {

namespace fs = std::filesystem;

/// Of what could not be read for the reason `error_number`: kDisk where permission is missing or
/// the disk fails, else kData.
ErrorKind kind_of_failure(int error_number);

/// Throws that kind of error: "could not `what` `path`", and the reason; 0: it ends too soon.
[[noreturn]] void fail_to(std::string_view what, const fs::path& path, int error_number,
                          const char* module);

/// The whole file. Errors: kData when it does not exist or ends too soon, kDisk as above.
std::string read_file(const fs::path& path);

/// A name beside `path` that no other program writes to, "x.tmp1a2b3c4d": not by the process id,
/// which two containers may share.
fs::path temporary_name(const fs::path& path);

/// Writes beside `path` and renames, after fsync: a reader sees the old file or the new one, never
/// a part. Errors: kDisk, with the path and the system's reason; the temporary file is removed.
void write_file_atomic(const fs::path& path, std::string_view bytes);

/// Takes the bytes of a file, piece by piece.
using ByteSink = std::function<void(std::string_view)>;

/// The same with what `write` gives, so that a large file is never whole in memory.
void write_file_atomic(const fs::path& path, const std::function<void(const ByteSink&)>& write);

/// Gives a file of the same folder another name, in place of what has it, and brings that to the
/// disk. Errors: kDisk.
void rename_file(const fs::path& from, const fs::path& to);

/// Gives a file its final name, where nothing else may have come in the meantime. Errors: kDisk.
void rename_to_new(const fs::path& from, const fs::path& to);

/// mkdir -p. Errors: kDisk.
void make_directories(const fs::path& path);

/// Errors: kUsage of `module` when `path` exists, naming the flag that gave it and what to do.
void require_new_file(const fs::path& path, const char* module, std::string_view flag,
                      std::string_view hint);

/// As a word of a shell's command: in quotes where it needs them.
std::string shell_quoted(std::string_view text);

/// `~` and `~/x` become $HOME and $HOME/x.
fs::path expand_user(const std::string& path);

/// $SKIPWAY_DATA, else $HOME/.cache/skipway/data.
fs::path data_directory();

/// A file descriptor that closes itself; below zero it stands for none, as open() returns it.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  int get() const { return value_; }

 private:
  int value_ = -1;
};

enum class HashKind { kMd5, kSha256 };

/// Hash as lower-case hexadecimal, fed piece by piece.
class Hash {
 public:
  explicit Hash(HashKind kind);
  ~Hash();
  Hash(const Hash&) = delete;
  Hash& operator=(const Hash&) = delete;
  void update(std::string_view bytes);
  /// Ends the hash; call once.
  std::string hex();

 private:
  void* context_;  // EVP_MD_CTX
};

std::string hash_of(HashKind kind, std::string_view bytes);
/// Errors: as read_file().
std::string hash_of_file(HashKind kind, const fs::path& path);

}  // namespace skipway
