// IDX headers checked, grey pixels spread over three channels.
#include "data/idx.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "data/archive.h"

namespace skipway {
namespace {

// Third byte: unsigned bytes; fourth: the number of dimensions.
constexpr uint32_t kLabelsMagic = 0x00000801;
constexpr uint32_t kImagesMagic = 0x00000803;

const std::vector<std::string> kFashionClasses = {"t-shirt", "trouser",   "pullover", "dress",
                                                  "coat",    "sandal",    "shirt",    "sneaker",
                                                  "bag",     "ankle-boot"};

std::string file_name(const std::string& part, const std::string& what, uint32_t magic) {
  return fmt::format("{}-{}-idx{}-ubyte", part, what, magic & 0xff);
}

fs::path existing_file(const fs::path& folder, const std::string& name) {
  for (const char* ending : {"", ".gz"}) {
    if (fs::is_regular_file(folder / (name + ending))) return folder / (name + ending);
  }
  return {};
}

// Pixels or labels as uint8 of the dimensions that the header tells.
at::Tensor read_idx(const fs::path& folder, const std::string& name, uint32_t magic) {
  const fs::path path = existing_file(folder, name);
  if (path.empty()) {
    fail(ErrorKind::kData, "idx", "expected {0} or {0}.gz, got none at {1}", name, folder.string());
  }
  const std::string bytes = read_maybe_gzip(path);
  const size_t dimensions = magic & 0xff;
  const size_t header_bytes = 4 + 4 * dimensions;
  const auto word = [&](size_t index) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[4 * index + i]);
    return value;
  };
  if (bytes.size() < header_bytes) {
    fail(ErrorKind::kData, "idx", "expected a header of {} bytes, got {} bytes at {}", header_bytes,
         bytes.size(), path.string());
  }
  if (word(0) != magic) {
    fail(ErrorKind::kData, "idx", "expected the magic number {:#010x}, got {:#010x} at {}", magic,
         word(0), path.string());
  }
  // Counts are checked against the length one by one, so that no product can overflow.
  std::vector<int64_t> sizes;
  const auto data_bytes = static_cast<int64_t>(bytes.size() - header_bytes);
  int64_t told = 1;
  for (size_t i = 1; i <= dimensions; ++i) {
    const int64_t size = word(i);
    sizes.push_back(size);
    told = size > 0 && told <= data_bytes / size ? told * size : data_bytes + 1;
  }
  if (told != data_bytes) {
    fail(ErrorKind::kData, "idx", "expected {} bytes of data as the header says, got {} at {}",
         fmt::join(sizes, " x "), data_bytes, path.string());
  }
  at::Tensor values = at::empty(sizes, at::kByte);
  std::copy(bytes.begin() + static_cast<int64_t>(header_bytes), bytes.end(),
            values.mutable_data_ptr<uint8_t>());
  return values;
}

Split read_split(const fs::path& folder, const std::string& part) {
  const std::string images_name = file_name(part, "images", kImagesMagic);
  const at::Tensor grey = read_idx(folder, images_name, kImagesMagic);
  const at::Tensor labels = read_idx(folder, file_name(part, "labels", kLabelsMagic), kLabelsMagic);
  if (grey.size(0) != labels.size(0)) {
    fail(ErrorKind::kData, "idx", "expected as many labels as images, got {} and {} at {}",
         labels.size(0), grey.size(0), (folder / images_name).string());
  }
  Split split;
  split.images = grey.unsqueeze(3).expand({-1, -1, -1, 3}).contiguous();
  split.labels = labels.to(at::kLong);
  for (int64_t i = 0; i < grey.size(0); ++i) {
    split.names.push_back(images_name + ":" + std::to_string(i));
  }
  return split;
}

std::vector<std::string> class_names(const fs::path& folder, int64_t highest_label) {
  fs::path named = fs::absolute(folder).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();      // "fashion/"
  if (named.filename() == "raw") named = named.parent_path();  // torchvision's FashionMNIST/raw
  std::string name = named.filename().string();
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.find("fashion") != std::string::npos) return kFashionClasses;
  std::vector<std::string> names;
  for (int64_t i = 0; i <= std::max<int64_t>(highest_label, 9); ++i) {
    names.push_back(std::to_string(i));
  }
  return names;
}

}  // namespace

bool is_idx_folder(const fs::path& folder) {
  for (const char* part : {"train", "t10k"}) {
    if (!existing_file(folder, file_name(part, "images", kImagesMagic)).empty()) return true;
    if (!existing_file(folder, file_name(part, "labels", kLabelsMagic)).empty()) return true;
  }
  return false;
}

Dataset load_idx_folder(const fs::path& folder) {
  Dataset dataset;
  dataset.train = read_split(folder, "train");
  dataset.test = read_split(folder, "t10k");
  dataset.classes = class_names(folder, dataset.train.labels.max().item<int64_t>());
  for (const Split* split : {&dataset.train, &dataset.test}) {
    const int64_t highest = split->labels.max().item<int64_t>();
    if (highest < static_cast<int64_t>(dataset.classes.size())) continue;
    fail(ErrorKind::kData, "idx", "expected labels of 0 to {}, got {} at {}, {} part",
         dataset.classes.size() - 1, highest, folder.string(),
         split == &dataset.train ? "train" : "t10k");
  }
  if (dataset.train.images.sizes().slice(1) != dataset.test.images.sizes().slice(1)) {
    fail(ErrorKind::kData, "idx", "expected images of one size, got {} and {} at {}",
         fmt::join(dataset.train.images.sizes().slice(1, 2), " x "),
         fmt::join(dataset.test.images.sizes().slice(1, 2), " x "), folder.string());
  }
  return dataset;
}

}  // namespace skipway
