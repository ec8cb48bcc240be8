// Layout of a cache file, in the byte order of the machine:
//   magic, SHA-256 of all that follows, six int64 numbers, strings that end with 0, train images,
//   train labels, test images, test labels.
#include "data/decoded_cache.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "data/image_folder.h"

namespace skipway {
namespace {

// To be raised where other images, classes or parts come out of the same files, too.
constexpr std::string_view kMagic = "skipway.decoded/3\n";
constexpr size_t kHashBytes = 64;

struct Header {
  int64_t image_size;
  int64_t classes;
  int64_t bad_files;
  int64_t train_images;
  int64_t test_images;
  int64_t string_bytes;
};

std::string_view bytes_of(const Header& header) {
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

fs::path cache_path(const fs::path& folder, const CacheKey& key) {
  return folder / (key.place + "-" + key.state + ".images");
}

std::string short_hash(const std::string& text) {
  return hash_of(HashKind::kSha256, text).substr(0, 24);
}

int64_t time_stamp(const fs::path& path) {
  return fs::last_write_time(path).time_since_epoch().count();
}

void append(std::string& strings, const std::string& text) {
  strings.append(text.c_str(), text.size() + 1);
}

std::string join_strings(const Dataset& dataset) {
  std::string strings;
  for (const std::string& name : dataset.classes) append(strings, name);
  for (const BadFile& bad : dataset.bad_files) {
    append(strings, bad.name);
    append(strings, bad.reason);
  }
  for (const Split* split : {&dataset.train, &dataset.test}) {
    for (const std::string& name : split->names) append(strings, name);
  }
  return strings;
}

[[noreturn]] void fail_reading(std::string_view what) {
  fail(ErrorKind::kData, "cache", "{}", what);
}

class CacheReader {
 public:
  explicit CacheReader(const fs::path& path)
      : path_(path),
        file_(path, std::ios::binary),
        bytes_left_(static_cast<int64_t>(fs::file_size(path))) {}

  Dataset read() {
    std::string magic(kMagic.size(), '\0');
    std::string expected_hash(kHashBytes, '\0');
    read_into(magic.data(), magic.size());
    if (magic != kMagic) fail_reading("another format");
    read_into(expected_hash.data(), expected_hash.size());
    Header header{};
    read_hashed(&header, sizeof header);
    // Counts are believed once their sum fits the length; each is bounded before it is multiplied.
    const int64_t limit = bytes_left_;
    for (int64_t number : {header.image_size, header.classes, header.bad_files, header.train_images,
                           header.test_images, header.string_bytes}) {
      if (number < 0 || number > limit) fail_reading("impossible counts");
    }
    std::string strings(static_cast<size_t>(header.string_bytes), '\0');
    read_hashed(strings.data(), strings.size());

    Dataset dataset;
    dataset.image_size = header.image_size;
    require_memory_for_images(header.train_images + header.test_images, header.image_size, path_);
    read_tensors(dataset.train, header.train_images, header.image_size);
    read_tensors(dataset.test, header.test_images, header.image_size);
    if (bytes_left_ != 0 || hash_.hex() != expected_hash) fail_reading("a wrong checksum");

    // Behind the checksum the strings are as they were written.
    const char* at = strings.data();
    const auto next = [&] {
      std::string text = at;
      at += text.size() + 1;
      return text;
    };
    for (int64_t i = 0; i < header.classes; ++i) dataset.classes.push_back(next());
    for (int64_t i = 0; i < header.bad_files; ++i) {
      std::string name = next();
      dataset.bad_files.push_back({std::move(name), next()});
    }
    for (int64_t i = 0; i < header.train_images; ++i) dataset.train.names.push_back(next());
    for (int64_t i = 0; i < header.test_images; ++i) dataset.test.names.push_back(next());
    return dataset;
  }

 private:
  void read_into(void* target, size_t size) {
    if (static_cast<int64_t>(size) > bytes_left_) fail_reading("a file cut short");
    if (!file_.read(static_cast<char*>(target), static_cast<std::streamsize>(size))) {
      fail_reading("an unreadable file");
    }
    bytes_left_ -= static_cast<int64_t>(size);
  }

  void read_hashed(void* target, size_t size) {
    read_into(target, size);
    hash_.update({static_cast<const char*>(target), size});
  }

  void read_tensors(Split& split, int64_t count, int64_t side) {
    const int64_t image_bytes = side * side * 3;  // side is below 2^31, checked here before use
    if (side >= (int64_t{1} << 15) || (image_bytes > 0 && count > bytes_left_ / image_bytes)) {
      fail_reading("impossible counts");
    }
    split.images = at::empty({count, side, side, 3}, at::kByte);
    split.labels = at::empty({count}, at::kLong);
    read_hashed(split.images.mutable_data_ptr(), split.images.nbytes());
    read_hashed(split.labels.mutable_data_ptr(), split.labels.nbytes());
  }

  fs::path path_;
  std::ifstream file_;
  int64_t bytes_left_;
  Hash hash_{HashKind::kSha256};
};

}  // namespace

CacheKey archive_cache_key(const fs::path& path, const std::string& variant) {
  return {short_hash(fs::absolute(path).lexically_normal().string() + '\0' + variant),
          short_hash(fmt::format("{} {}", fs::file_size(path), time_stamp(path)))};
}

CacheKey folder_cache_key(const FileTree& tree, const std::string& variant) {
  std::string state;
  for (const SourceFile& file : tree.files) {
    state += fmt::format("{}{}{} {}\n", file.path, '\0', file.size, file.modified);
  }
  for (const std::string& folder : tree.folders) state += folder + '\0';
  return {short_hash(fs::absolute(tree.root).lexically_normal().string() + '\0' + variant),
          short_hash(state)};
}

std::optional<Dataset> read_decoded_cache(const fs::path& folder, const CacheKey& key) {
  const fs::path path = cache_path(folder, key);
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return std::nullopt;
  try {
    return CacheReader(path).read();
  } catch (const std::exception& error) {
    log_info("the cache {} is made anew: {}", path.string(), error.what());
    return std::nullopt;
  }
}

void write_decoded_cache(const fs::path& folder, const CacheKey& key, const Dataset& dataset) {
  const std::string strings = join_strings(dataset);
  const Header header{dataset.image_size,
                      static_cast<int64_t>(dataset.classes.size()),
                      static_cast<int64_t>(dataset.bad_files.size()),
                      dataset.train.size(),
                      dataset.test.size(),
                      static_cast<int64_t>(strings.size())};
  std::vector<at::Tensor> tensors;  // hold what the pieces point to
  for (const Split* split : {&dataset.train, &dataset.test}) {
    if (split->size() == 0) continue;
    tensors.push_back(split->images.contiguous());
    tensors.push_back(split->labels.contiguous());
  }
  std::vector<std::string_view> pieces = {bytes_of(header), strings};
  for (const at::Tensor& tensor : tensors) pieces.push_back(bytes_of(tensor));
  Hash hash(HashKind::kSha256);
  for (std::string_view piece : pieces) hash.update(piece);
  const std::string digest = hash.hex();
  pieces.insert(pieces.begin(), {kMagic, digest});

  try {
    make_directories(folder);
    write_file_atomic(cache_path(folder, key),
                      [&](const ByteSink& write) { std::ranges::for_each(pieces, write); });
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(key.place + "-") || entry.path() == cache_path(folder, key)) continue;
      const bool is_old = name.ends_with(".images");
      std::error_code gone;  // meanwhile, where another process writes here too
      const fs::file_time_type written = entry.last_write_time(gone);
      // Of a process that was killed; one that still writes is never silent for so long.
      const bool is_abandoned =
          !gone && fs::file_time_type::clock::now() - written > std::chrono::hours(1);
      if (is_old || is_abandoned) fs::remove(entry.path());
    }
  } catch (const std::exception& error) {
    log_warning("decoded images are not kept for the next run: {}", error.what());
  }
}

}  // namespace skipway
