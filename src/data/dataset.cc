// From what `--data` says to a Dataset: finds out what a path holds, and divides what comes in one
// piece.
#include "data/dataset.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/archive.h"
#include "data/cifar_binary.h"
#include "data/decoded_cache.h"
#include "data/idx.h"
#include "data/image.h"
#include "data/image_folder.h"
#include "data/known.h"

namespace skipway {
namespace {

constexpr const char* kCoarseName = "cifar100-coarse";

// Decoded images beyond this are not kept: they would fill the disk, and memory that could hold
// the pages they are read from.
constexpr size_t kMaxCachedBytes = size_t{4} << 30;

// ---- dividing ----

// Second part of the random key, so that no division draws the numbers of another.
enum class Division : uint64_t { kTest = 0, kValidation = 1 };

Split rows_of(const Split& split, const std::vector<int64_t>& rows) {
  const at::Tensor index = at::tensor(rows, at::kLong);
  Split chosen{split.images.index_select(0, index), split.labels.index_select(0, index), {}};
  for (int64_t row : rows) chosen.names.push_back(split.names[static_cast<size_t>(row)]);
  return chosen;
}

std::vector<std::vector<int64_t>> rows_by_class(const Split& split, size_t classes) {
  std::vector<std::vector<int64_t>> rows(classes);
  const int64_t* labels = split.labels.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < split.size(); ++i) rows[static_cast<size_t>(labels[i])].push_back(i);
  return rows;
}

// Leaves these rows alone, in place: there may be no memory for a second tensor.
void keep_rows(Split& split, const std::vector<int64_t>& rows) {
  std::vector<std::string> names;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto to = static_cast<int64_t>(i);
    if (to != rows[i]) split.images[to].copy_(split.images[rows[i]]);
    names.push_back(std::move(split.names[static_cast<size_t>(rows[i])]));
  }
  split.images = split.images.narrow(0, 0, static_cast<int64_t>(rows.size()));
  split.labels = split.labels.index_select(0, at::tensor(rows, at::kLong));
  split.names = std::move(names);
}

// Takes counts[c] random images of each class c out of `split`; both parts keep their order.
Split take_out(Split& split, const std::vector<std::vector<int64_t>>& rows,
               const std::vector<int64_t>& counts, uint64_t seed, Division division) {
  std::vector<bool> taken(static_cast<size_t>(split.size()));
  for (size_t c = 0; c < rows.size(); ++c) {
    const Rng rng(seed, RngUse::kSplit, {static_cast<uint64_t>(division), c});
    const auto order = permutation(static_cast<int64_t>(rows[c].size()), rng);
    for (int64_t i = 0; i < counts[c]; ++i) {
      const int64_t member = order[static_cast<size_t>(i)];
      taken[static_cast<size_t>(rows[c][static_cast<size_t>(member)])] = true;
    }
  }
  std::vector<int64_t> kept_rows;
  std::vector<int64_t> taken_rows;
  for (size_t i = 0; i < taken.size(); ++i) {
    (taken[i] ? taken_rows : kept_rows).push_back(static_cast<int64_t>(i));
  }
  Split out = rows_of(split, taken_rows);
  keep_rows(split, kept_rows);
  return out;
}

constexpr double kTestShare = 0.1;

// At least one image of a class goes to each part, when the class has two.
void divide_off_test(Dataset& dataset, uint64_t seed) {
  const auto rows = rows_by_class(dataset.train, dataset.classes.size());
  std::vector<int64_t> counts;
  for (const auto& members : rows) {
    const auto size = static_cast<int64_t>(members.size());
    const auto share = static_cast<int64_t>(std::llround(static_cast<double>(size) * kTestShare));
    counts.push_back(size < 2 ? 0 : std::clamp<int64_t>(share, 1, size - 1));
  }
  dataset.test = take_out(dataset.train, rows, counts, seed, Division::kTest);
  dataset.test_from_train = true;
  log_info("{} has no test part; {} of its {} images, the same share of every class, become it",
           dataset.source, dataset.test.size(), dataset.test.size() + dataset.train.size());
}

// ---- reading ----

// Images of a format with a fixed size of its own, brought to another.
at::Tensor fit_all(const at::Tensor& images, int64_t size) {
  constexpr int64_t kAtOnce = 256;  // keeps what lies between two steps small
  at::Tensor fitted = at::empty({images.size(0), size, size, 3}, at::kByte);
  at::parallel_for(0, images.size(0), kAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kAtOnce) {
      const int64_t count = std::min(kAtOnce, end - i);
      fitted.narrow(0, i, count).copy_(fit_images(images.narrow(0, i, count), size));
    }
  });
  return fitted;
}

void fit(Dataset& dataset, int64_t image_size, const fs::path& where) {
  const int64_t height = dataset.train.images.size(1);
  const int64_t width = dataset.train.images.size(2);
  dataset.image_size = image_size > 0 ? image_size : automatic_image_size({{height, width}});
  if (height == dataset.image_size && width == dataset.image_size) return;
  require_memory_for_images(dataset.train.size() + dataset.test.size(), dataset.image_size, where);
  for (Split* split : {&dataset.train, &dataset.test}) {
    split->images = fit_all(split->images, dataset.image_size);
  }
}

struct Source {
  fs::path path;
  bool coarse = false;
  const LoadOptions& options;
};

fs::path cache_folder(const LoadOptions& options) {
  return options.cache_folder.empty() ? expand_user("~/.cache/skipway/decoded")
                                      : options.cache_folder;
}

Dataset decode_tree(const FileTree& tree, const Source& source) {
  if (const auto place = find_cifar_binary(tree)) {
    Dataset dataset = load_cifar_binary(tree, *place, source.coarse);
    fit(dataset, source.options.image_size, source.path);
    return dataset;
  }
  for (const SourceFile& file : tree.files) {
    if (fs::path(file.path).filename() != "data_batch_1") continue;
    fail(ErrorKind::kData, "data",
         "expected the binary version of CIFAR-10, got the one for Python at {}; `skipway data "
         "fetch cifar10` brings cifar-10-binary.tar.gz",
         tree.where(file));
  }
  return load_image_folder(tree, source.options.image_size);
}

size_t bytes_of(const Split& split) { return split.images.defined() ? split.images.nbytes() : 0; }

std::string cache_variant(const Source& source, int64_t image_size) {
  return fmt::format("image_size={} coarse={}", image_size, source.coarse);
}

// key_of(variant) is that of the source.
template <typename KeyOf, typename Decode>
Dataset decode_once(const Source& source, const KeyOf& key_of, const Decode& decode) {
  const Stopwatch watch;
  const fs::path folder = cache_folder(source.options);
  const int64_t size = source.options.image_size;
  const CacheKey key = key_of(cache_variant(source, size));
  std::optional<Dataset> kept = read_decoded_cache(folder, key);
  if (!kept && size > 0) {  // which may be what training found by itself
    kept = read_decoded_cache(folder, key_of(cache_variant(source, /*image_size=*/0)));
    if (kept && kept->image_size != size) kept.reset();
  }
  if (kept) {
    log_info("{} images of {} were decoded before; read in {:.1f} s",
             kept->train.size() + kept->test.size(), source.path.string(), watch.seconds());
    return *std::move(kept);
  }
  Dataset dataset = decode();
  log_info("decoded {} images of {} in {:.1f} s", dataset.train.size() + dataset.test.size(),
           source.path.string(), watch.seconds());
  const size_t bytes = bytes_of(dataset.train) + bytes_of(dataset.test);
  const bool all_read = std::ranges::none_of(dataset.bad_files, &BadFile::unreadable);
  if (all_read && bytes <= kMaxCachedBytes) write_decoded_cache(folder, key, dataset);
  return dataset;
}

// The folder of IDX files: `folder` itself or the one in it ("raw", as torchvision has it).
std::optional<fs::path> find_idx(const FileTree& tree) {
  if (is_idx_folder(tree.root)) return tree.root;
  for (const std::string& folder : tree.folders) {
    if (folder.find('/') == std::string::npos && is_idx_folder(tree.root / folder)) {
      return tree.root / folder;
    }
  }
  return std::nullopt;
}

Dataset read_folder(const Source& source) {
  const FileTree tree = list_folder(source.path);
  if (tree.files.empty()) {
    fail(ErrorKind::kData, "data",
         "expected images in train/<class>/ and test/<class>/, got a folder without files at {}; "
         "`skipway data list` names the data sets that can be fetched",
         source.path.string());
  }
  if (const auto idx = find_idx(tree)) {
    Dataset dataset = load_idx_folder(*idx);
    fit(dataset, source.options.image_size, source.path);
    return dataset;
  }
  if (find_cifar_binary(tree)) return decode_tree(tree, source);  // as fast as a cache
  return decode_once(
      source, [&](const std::string& variant) { return folder_cache_key(tree, variant); },
      [&] { return decode_tree(tree, source); });
}

Dataset read_file_or_folder(const Source& source) {
  std::error_code code;
  if (fs::is_directory(source.path, code)) return read_folder(source);
  if (!fs::exists(source.path, code)) {
    if (code) fail_to("look at", source.path, code.value(), "data");
    fail(ErrorKind::kData, "data",
         "expected the name of a data set, a folder or a tar.gz, got nothing at {}; `skipway data "
         "list` shows the names, and a folder has train/<class>/*.jpg and test/<class>/*.jpg",
         source.path.string());
  }
  if (!fs::is_regular_file(source.path, code)) {
    fail(ErrorKind::kData, "data", "expected a folder or a tar.gz, got a device or a pipe at {}",
         source.path.string());
  }
  return decode_once(
      source, [&](const std::string& variant) { return archive_cache_key(source.path, variant); },
      [&] { return decode_tree(read_archive(source.path), source); });
}

// U+FFFD takes the place of what is not UTF-8, as where a model's classes are written as JSON.
std::string valid_utf8(const std::string& text) {
  using nlohmann::json;
  return json::parse(json(text).dump(-1, ' ', false, json::error_handler_t::replace));
}

// A class is named after a folder, which need not be UTF-8; a model's classes must be, and the two
// are compared.
void make_classes_utf8(Dataset& dataset) {
  std::map<std::string, std::string> found;  // by the valid name the one it came from
  for (std::string& name : dataset.classes) {
    const auto [place, is_new] = found.emplace(valid_utf8(name), name);
    if (!is_new && place->second != name) {
      fail(ErrorKind::kData, "data",
           "expected class names that differ in UTF-8, got {:?} and {:?} at {}; rename one of the "
           "folders",
           place->second, name, dataset.source);
    }
    name = place->first;
  }
}

// "a/cats.tar.gz" and "a/cats/" -> "cats".
std::string name_of(const fs::path& path) {
  std::string name = path.filename().string();
  for (const char* ending : {".tar.gz", ".tgz", ".tar"}) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - std::string(ending).size());
  }
  return name;
}

// Said at every loading, decoded now or before.
void log_gaps(const Dataset& dataset) {
  if (!dataset.bad_files.empty()) {
    log_warning("left out {} files that could not be decoded; the first: {}",
                dataset.bad_files.size(), dataset.bad_files.front().reason);
  }
  if (dataset.train.size() == 0) return;
  std::vector<std::string> empty;
  const auto rows = rows_by_class(dataset.train, dataset.classes.size());
  for (size_t c = 0; c < rows.size(); ++c) {
    if (rows[c].empty()) empty.push_back(dataset.classes[c]);
  }
  if (dataset.classes.size() == 1) {
    log_warning(
        "all images are of one class, '{}', so there is nothing to tell apart; put each class in a "
        "folder of its own",
        dataset.classes.front());
  }
  if (!empty.empty()) {
    log_warning("{} of {} classes have no images to train on, among them '{}'", empty.size(),
                dataset.classes.size(), empty.front());
  }
}

Dataset load_path(const fs::path& path, const std::string& name, const LoadOptions& options,
                  bool coarse = false) {
  const Source source{path, coarse, options};
  Dataset dataset = read_file_or_folder(source);
  dataset.name = name;
  dataset.source = path.string();
  make_classes_utf8(dataset);  // of a cache too, which an older version may have written
  if (options.whole_tree_is_test && dataset.test.size() == 0) {
    std::swap(dataset.train, dataset.test);
  } else if (dataset.train.size() == 0 && !options.whole_tree_is_test) {
    fail(ErrorKind::kData, "data", "expected images to train on in train/<class>/, got none at {}",
         path.string());
  } else if (dataset.test.size() == 0) {
    divide_off_test(dataset, options.seed);
  }
  log_gaps(dataset);
  return dataset;
}

fs::path fetch_known(const KnownDataset& known, const LoadOptions& options) {
  for (const fs::path& path : find_cut_short(known))
    log_warning("{} is not used: it has another size than the published file", path.string());
  return fetch_dataset(known, {.progress = options.fetch_progress});
}

Dataset load_known(const KnownDataset& known, const LoadOptions& options) {
  std::optional<fs::path> path = find_local(known);
  if (!path) {
    const fs::path folder = fetch_known(known, options);
    path = find_local(known).value_or(folder);
  }
  return load_path(*path, known.name, options, known.name == kCoarseName);
}

const KnownDataset& known_dataset(std::string_view name) {
  const KnownDataset* known = find_known_dataset(name);
  if (!known) fail(ErrorKind::kInternal, "data", "expected {} among the known data sets", name);
  return *known;
}

Dataset load_auto(const LoadOptions& options) {
  const KnownDataset& cifar = known_dataset("cifar10");
  if (find_local(cifar)) return load_known(cifar, options);
  std::string reason;
  try {
    fetch_known(cifar, options);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kUsage || error.kind() == ErrorKind::kDisk) throw;
    reason = error.what();
    reason = reason.substr(0, reason.find('\n'));
  }
  if (reason.empty()) return load_known(cifar, options);

  const auto fashion = find_local(known_dataset("fashion-mnist"));
  if (!fashion) {
    fail(ErrorKind::kData, "data",
         "expected CIFAR-10, got none below {} and no download ({}); put cifar-10-binary.tar.gz "
         "there, give --data FOLDER, or install Debian's dataset-fashion-mnist",
         data_directory().string(), reason);
  }
  log_warning(
      "CIFAR-10 is not on this machine and could not be fetched; Fashion-MNIST at {} is used "
      "instead, and its accuracy is not comparable with CIFAR-10's ({})",
      fashion->string(), reason);
  return load_path(*fashion, "fashion-mnist", options);
}

}  // namespace

Dataset load_dataset(const std::string& spec, const LoadOptions& options) {
  if (options.image_size < 0 || options.image_size > kMaxImageSize)
    fail(ErrorKind::kUsage, "data", "expected an image size of 0 to {}, got {}", kMaxImageSize,
         options.image_size);
  if (spec == "auto") return load_auto(options);
  if (const KnownDataset* known = find_known_dataset(spec)) return load_known(*known, options);
  fs::path path = fs::absolute(expand_user(spec)).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "cats/"
  return load_path(path, name_of(path), options);
}

Split split_validation(Dataset& dataset, int64_t count, uint64_t seed) {
  const int64_t size = dataset.train.size();
  if (count < 1 || count >= size) {
    fail(ErrorKind::kUsage, "data",
         "expected 1 to {} images at --val-split, of the {} training images in {}, got {}",
         size - 1, size, dataset.source, count);
  }
  // Largest remainders: whole shares first, then one more for the classes that lost most.
  const auto rows = rows_by_class(dataset.train, dataset.classes.size());
  std::vector<int64_t> counts;
  std::vector<size_t> by_remainder(rows.size());
  std::iota(by_remainder.begin(), by_remainder.end(), 0);
  counts.reserve(rows.size());
  for (const auto& members : rows) {
    counts.push_back(static_cast<int64_t>(members.size()) * count / size);
  }
  std::ranges::stable_sort(by_remainder, std::ranges::greater(), [&](size_t c) {
    return static_cast<int64_t>(rows[c].size()) * count % size;
  });
  const int64_t missing = count - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (int64_t i = 0; i < missing; ++i) ++counts[by_remainder[static_cast<size_t>(i)]];
  return take_out(dataset.train, rows, counts, seed, Division::kValidation);
}

Normalisation channel_statistics(const at::Tensor& images) {
  if (images.numel() == 0) fail(ErrorKind::kUsage, "data", "expected images, got none");
  // Whole numbers of each value: their sums are exact in any order.
  using Histogram = std::array<std::array<int64_t, 256>, 3>;
  const at::Tensor pixels = images.cpu().contiguous();
  const uint8_t* rgb = pixels.const_data_ptr<uint8_t>();
  Histogram total{};
  std::mutex mutex;
  at::parallel_for(0, pixels.numel() / 3, 1 << 16, [&](int64_t begin, int64_t end) {
    Histogram part{};
    for (int64_t i = begin; i < end; ++i) {
      for (size_t c = 0; c < 3; ++c) ++part[c][rgb[3 * i + static_cast<int64_t>(c)]];
    }
    const std::lock_guard lock(mutex);
    for (size_t c = 0; c < 3; ++c) {
      for (size_t value = 0; value < 256; ++value) total[c][value] += part[c][value];
    }
  });

  Normalisation result;
  const double count = static_cast<double>(pixels.numel()) / 3;
  for (size_t c = 0; c < 3; ++c) {
    double sum = 0;
    double squares = 0;
    for (size_t value = 0; value < 256; ++value) {
      const double weight = static_cast<double>(total[c][value]);
      const double scaled = static_cast<double>(value) / 255;
      sum += weight * scaled;
      squares += weight * scaled * scaled;
    }
    result.mean[c] = sum / count;
    result.std[c] = std::sqrt(std::max(0.0, squares / count - result.mean[c] * result.mean[c]));
  }
  return result;
}

bool normalisation_fits(const Normalisation& used, const Normalisation& own) {
  constexpr double kMeanOff = 0.1;  // of [0, 1]
  constexpr double kStdOff = 1.5;   // times; the article's 0.20 for CIFAR-10's 0.25 is inside
  for (size_t c = 0; c < 3; ++c)
    if (std::abs(used.mean[c] - own.mean[c]) > kMeanOff || used.std[c] > kStdOff * own.std[c] ||
        own.std[c] > kStdOff * used.std[c])
      return false;
  return true;
}

}  // namespace skipway
