// Folders listed, archives unpacked into memory: zlib takes gzip off and verifies it, libarchive
// reads tar.
#include "data/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"

namespace skipway {
namespace {

constexpr size_t kBlockBytes = 1 << 20;
constexpr size_t kTarBlockBytes = 512;

// A stream of bytes, gzip or not. libarchive could take gzip off too, but does not compare its
// checksum.
class GzipStream {
 public:
  explicit GzipStream(const fs::path& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    if (!file_) fail_to("open", path, errno, "archive");
    gzbuffer(file_, 1 << 18);
  }
  ~GzipStream() { gzclose_r(file_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  /// Fills a block as far as the stream goes; 0 at its end.
  size_t read(char* bytes, size_t size) {
    const int got = gzread(file_, bytes, static_cast<unsigned>(size));
    const int reason = errno;
    int code = Z_OK;
    const char* message = gzerror(file_, &code);
    if (code == Z_ERRNO) fail_to("read", path_, reason, "archive");
    if (got < 0 || code != Z_OK) {
      fail(ErrorKind::kData, "archive", "expected whole gzip data, got {} at {}; fetch it again",
           code == Z_BUF_ERROR ? "a file cut short" : message, path_.string());
    }
    return static_cast<size_t>(got);
  }

 private:
  fs::path path_;
  gzFile file_;
};

// What libarchive needs to pull bytes out of a GzipStream. No exception may cross its C code, so
// one is kept here and thrown again behind it.
struct TarInput {
  explicit TarInput(const fs::path& path) : stream(path) {}

  GzipStream stream;
  std::vector<char> block = std::vector<char>(kBlockBytes);
  std::string tail;  // the last bytes seen, one tar block of them
  std::exception_ptr error;

  size_t next_block() {
    const size_t got = stream.read(block.data(), block.size());
    const size_t kept = std::min(got, kTarBlockBytes);
    tail.append(block.data() + got - kept, kept);
    if (tail.size() > kTarBlockBytes) tail.erase(0, tail.size() - kTarBlockBytes);
    return got;
  }
};

la_ssize_t read_tar_block(archive* tar, void* data, const void** block) {
  auto* input = static_cast<TarInput*>(data);
  try {
    const size_t got = input->next_block();
    *block = input->block.data();
    return static_cast<la_ssize_t>(got);
  } catch (...) {
    input->error = std::current_exception();
    archive_set_error(tar, EIO, "read failed");
    return -1;
  }
}

// What is unpacked stays in memory. Errors: kMemory above `available` bytes.
void require_memory_to_unpack(size_t bytes, int64_t available, const fs::path& path) {
  if (static_cast<int64_t>(bytes) < available) return;
  fail(ErrorKind::kMemory, "archive",
       "expected a file that unpacks to less than the {:.1f} GB of free memory, got more at {}; "
       "unpack it and give the folder",
       static_cast<double>(available) / 1e9, path.string());
}

class TarReader {
 public:
  TarReader(const fs::path& path, int64_t available)
      : path_(path), available_(available), input_(path) {
    archive_read_support_format_tar(tar_.get());
    check(archive_read_open(tar_.get(), &input_, nullptr, read_tar_block, nullptr));
  }

  /// nullptr behind the last entry.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int code = archive_read_next_header(tar_.get(), &entry);
    if (code == ARCHIVE_EOF) return nullptr;
    check(code);
    return entry;
  }

  std::string entry_bytes() {
    std::string bytes;
    const void* block = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    int code = ARCHIVE_OK;
    while ((code = archive_read_data_block(tar_.get(), &block, &size, &offset)) == ARCHIVE_OK) {
      if (static_cast<size_t>(offset) != bytes.size()) fail_reading("a sparse file");
      count(size);
      bytes.append(static_cast<const char*>(block), size);
    }
    if (code != ARCHIVE_EOF) check(ARCHIVE_FATAL);  // a warning means that bytes are missing
    return bytes;
  }

  /// Bytes of an entry, of which memory is to hold a copy.
  void count(size_t bytes) { require_memory_to_unpack(bytes_ += bytes, available_, path_); }

  /// tar ends with blocks of zeros, and gzip with a checksum behind them; a file that lost its end
  /// between two entries is found by these alone.
  void finish() {
    while (input_.next_block() > 0) {
    }
    if (input_.tail.size() < kTarBlockBytes ||
        input_.tail.find_first_not_of('\0') != std::string::npos) {
      fail_reading("no end mark (cut short?)");
    }
  }

  [[noreturn]] void fail_reading(std::string_view got) const {
    fail(ErrorKind::kData, "archive",
         "expected a whole tar or tar.gz archive, got '{}' at {}; "
         "fetch or make it again, or give a folder",
         got, path_.string());
  }

 private:
  void check(int code) {
    if (code == ARCHIVE_OK || code == ARCHIVE_WARN) return;
    if (input_.error) std::rethrow_exception(input_.error);
    const char* message = archive_error_string(tar_.get());
    fail_reading(message ? message : "something else");
  }

  struct Free {
    void operator()(archive* tar) const { archive_read_free(tar); }
  };

  fs::path path_;
  const int64_t available_;
  size_t bytes_ = 0;
  TarInput input_;
  std::unique_ptr<archive, Free> tar_{archive_read_new()};
};

// "./a//b/" -> "a/b"
fs::path normal_path(const char* name) {
  const fs::path path = fs::path(name).lexically_normal().relative_path();
  if (path == ".") return {};
  return path.has_filename() ? path : path.parent_path();
}

fs::path entry_path(archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  // A name outside the locale's characters comes as UTF-8 alone.
  if (!name) name = archive_entry_pathname_utf8(entry);
  return name ? normal_path(name) : fs::path();
}

}  // namespace

bool is_hidden(const fs::path& relative) {
  return std::ranges::any_of(relative, [](const fs::path& part) {
    return part.native().starts_with('.') || part == "__MACOSX";
  });
}

std::string FileTree::read(const SourceFile& file) const {
  return in_memory ? file.bytes : read_file(root / file.path);
}

std::string FileTree::where(const SourceFile& file) const { return (root / file.path).string(); }

FileTree list_folder(const fs::path& root) {
  FileTree tree{.root = root};
  fs::path at = root;
  try {
    const auto follow = fs::directory_options::follow_directory_symlink;
    const auto place_of = [](const fs::path& path) { return fs::canonical(path).string() + "/"; };
    std::vector<std::string> above = {place_of(root)};  // where the folders on the way here lie
    std::error_code code;  // of a link to nowhere, or in a circle: neither a folder nor a file
    for (fs::recursive_directory_iterator it(root, follow), end; it != end; ++it) {
      at = it->path();
      const fs::path relative = at.lexically_relative(root);
      if (is_hidden(relative.filename())) {
        ++tree.hidden_count;
        it.disable_recursion_pending();
      } else if (it->is_directory(code)) {
        const std::string place = place_of(at);
        above.resize(static_cast<size_t>(it.depth()) + 1);
        // One that leads upwards would be listed without end.
        if (std::ranges::any_of(above, [&](const auto& a) { return a.starts_with(place); })) {
          it.disable_recursion_pending();
          continue;
        }
        above.push_back(place);
        tree.folders.push_back(relative.string());
      } else if (it->is_regular_file(code)) {
        tree.files.push_back({relative.string(), static_cast<int64_t>(it->file_size()),
                              it->last_write_time().time_since_epoch().count(), ""});
      }
    }
  } catch (const fs::filesystem_error& e) {
    fail_to("list the folder", at, e.code().value(), "archive");
  }
  std::ranges::sort(tree.files, {}, &SourceFile::path);
  std::ranges::sort(tree.folders);
  return tree;
}

FileTree read_archive(const fs::path& path, int64_t available_bytes) {
  FileTree tree{.root = path, .in_memory = true};
  std::set<std::string> folders;
  // Hidden files too: visible links may lead to them. Of a name that comes twice the last counts.
  std::map<std::string, std::string> bytes_by_path;
  int64_t symbolic_links = 0;
  TarReader reader(path, available_bytes);
  while (archive_entry* entry = reader.next()) {
    const char* link = archive_entry_hardlink(entry);
    const bool is_file = link || archive_entry_filetype(entry) == AE_IFREG;
    const fs::path name = entry_path(entry);
    if (name.native().size() > PATH_MAX) reader.fail_reading("a name longer than any path");
    const bool hidden = is_hidden(name);
    if (archive_entry_filetype(entry) == AE_IFLNK && !link && !hidden) ++symbolic_links;
    if (name.empty() || !(is_file || archive_entry_filetype(entry) == AE_IFDIR)) continue;
    if (link) {  // a second name for bytes that came earlier
      const auto target = bytes_by_path.find(normal_path(link).string());
      if (target != bytes_by_path.end()) {
        reader.count(target->second.size());
        bytes_by_path[name.string()] = target->second;
      } else if (!hidden) {
        reader.fail_reading(
            fmt::format("the hard link {} to {}, which is no file before it", name.string(), link));
      }
    } else if (is_file) {
      bytes_by_path[name.string()] = reader.entry_bytes();
    }
    if (hidden) {
      ++tree.hidden_count;
      continue;
    }
    fs::path folder = is_file ? name.parent_path() : name;
    for (; !folder.empty() && folders.insert(folder.string()).second; folder = folder.parent_path())
      reader.count(folder.native().size());
  }
  reader.finish();
  if (symbolic_links > 0)
    log_warning("{} symbolic links in {} are left out; tar --dereference packs what they lead to",
                symbolic_links, path.string());
  for (auto& [name, bytes] : bytes_by_path) {
    if (is_hidden(name)) continue;
    const auto size = static_cast<int64_t>(bytes.size());
    tree.files.push_back({name, size, 0, std::move(bytes)});
  }
  tree.folders.assign(folders.begin(), folders.end());
  return tree;
}

std::string read_maybe_gzip(const fs::path& path) {
  GzipStream stream(path);
  const int64_t available = available_memory_bytes();
  std::string bytes;
  std::string block(kBlockBytes, '\0');
  while (const size_t got = stream.read(block.data(), block.size())) {
    require_memory_to_unpack(bytes.size() + got, available, path);
    bytes.append(block, 0, got);
  }
  return bytes;
}

}  // namespace skipway
