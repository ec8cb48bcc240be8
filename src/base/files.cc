#include "base/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <vector>

#include "base/error.h"

namespace skipway {
namespace {

// So that a power cut does not take a new name back. Not every file system can.
void sync_folder(const fs::path& path) {
  const Descriptor folder(
      open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) fsync(folder.get());
}

// The path is removed unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(fs::path path)
      : path_(std::move(path)),
        file_(open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (file_.get() < 0) fail_with_errno("could not create");
  }
  ~TemporaryFile() {
    if (!renamed_) unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write_all(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(file_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_with_errno("could not write");
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  void rename_to(const fs::path& target) {
    if (fsync(file_.get()) != 0 && errno != EINVAL) fail_with_errno("could not flush");
    if (rename(path_.c_str(), target.c_str()) != 0)
      fail_with_errno("could not rename to its final name");
    renamed_ = true;
    sync_folder(target.parent_path());
  }

 private:
  [[noreturn]] void fail_with_errno(std::string_view what) const {
    const int code = errno;
    fail(ErrorKind::kDisk, "files", "{} {}: {}; free some space or choose another folder", what,
         path_.string(), std::strerror(code));
  }

  fs::path path_;
  Descriptor file_;
  bool renamed_ = false;
};

}  // namespace

ErrorKind kind_of_failure(int error_number) {
  const bool is_disk = error_number == EACCES || error_number == EPERM || error_number == EIO;
  return is_disk ? ErrorKind::kDisk : ErrorKind::kData;
}

void fail_to(std::string_view what, const fs::path& path, int error_number, const char* module) {
  fail(kind_of_failure(error_number), module, "could not {} {}: {}", what, path.string(),
       error_number == 0 ? "it ends too soon" : std::strerror(error_number));
}

std::string read_file(const fs::path& path) {
  std::error_code code;
  if (fs::is_directory(path, code)) {
    fail(ErrorKind::kData, "files", "expected a file, got a folder at {}", path.string());
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail_to("open", path, errno, "files");
  std::string bytes(static_cast<size_t>(file.tellg()), '\0');
  file.seekg(0);
  errno = 0;
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) fail_to("read", path, errno, "files");
  return bytes;
}

fs::path temporary_name(const fs::path& path) {
  return fmt::format("{}.tmp{:08x}", path.string(), std::random_device()());
}

void write_file_atomic(const fs::path& path, const std::function<void(const ByteSink&)>& write) {
  std::error_code code;
  if (fs::exists(path, code) && !fs::is_regular_file(path, code))
    fail(ErrorKind::kDisk, "files", "expected a file, got a folder or a device at {}",
         path.string());
  TemporaryFile file(temporary_name(path));
  write([&file](std::string_view bytes) { file.write_all(bytes); });
  file.rename_to(path);
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  write_file_atomic(path, [bytes](const ByteSink& write) { write(bytes); });
}

void require_new_file(const fs::path& path, const char* module, std::string_view flag,
                      std::string_view hint) {
  std::error_code code;
  if (fs::exists(path, code))
    fail(ErrorKind::kUsage, module, "expected a new file at {}, got {}, which exists; {}", flag,
         path.string(), hint);
}

void make_directories(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code) {
    fail(ErrorKind::kDisk, "files",
         "could not create the folder {}: {}; choose another place or mend its permissions",
         path.string(), code.message());
  }
}

void rename_file(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(ErrorKind::kDisk, "files", "could not rename {} to {}: {}; mend the folder's permissions",
         from.string(), to.filename().string(), std::strerror(errno));
  sync_folder(to.parent_path());
}

void rename_to_new(const fs::path& from, const fs::path& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  // EINVAL: a file system that cannot.
  if (errno == EINVAL && !fs::exists(to) && std::rename(from.c_str(), to.c_str()) == 0) return;
  fail(ErrorKind::kDisk, "files", "could not give {} its name: {}", to.string(),
       std::strerror(errno));
}

std::string shell_quoted(std::string_view text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string_view::npos)
    return std::string(text);
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

fs::path expand_user(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  return fs::path(home && *home ? home : "/") / (path.size() > 2 ? path.substr(2) : "");
}

fs::path data_directory() {
  const char* folder = std::getenv("SKIPWAY_DATA");
  return folder && *folder ? expand_user(folder) : expand_user("~/.cache/skipway/data");
}

Hash::Hash(HashKind kind) : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_),
                    kind == HashKind::kMd5 ? EVP_md5() : EVP_sha256(), nullptr);
}

Hash::~Hash() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }

void Hash::update(std::string_view bytes) {
  EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size());
}

std::string Hash::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &length);
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string hash_of(HashKind kind, std::string_view bytes) {
  Hash hash(kind);
  hash.update(bytes);
  return hash.hex();
}

std::string hash_of_file(HashKind kind, const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_to("open", path, errno, "files");
  Hash hash(kind);
  std::vector<char> buffer(1 << 20);
  errno = 0;
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) ||
         file.gcount() > 0) {
    hash.update({buffer.data(), static_cast<size_t>(file.gcount())});
  }
  if (file.bad()) fail_to("read", path, errno, "files");
  return hash.hex();
}

}  // namespace skipway
