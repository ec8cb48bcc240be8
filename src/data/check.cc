// Finds what is wrong with a data set: one function for each kind of finding.
#include "data/check.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>

#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

namespace skipway {
namespace {

constexpr size_t kExamples = 5;
constexpr int kMaxHashDistance = 3;  // of 64 bits
// Mean absolute pixel difference up to which two images with like hashes are one. In CIFAR-10 the
// hash alone separates: 181 pairs of 1.5e9 have like hashes, and the 100 below 20 were all the same
// photo by eye. Pictures laid out alike on an empty ground, as in Fashion-MNIST (4e6 pairs of
// 2.4e9), share hashes without being copies: there the pairs below 4 are copies and those above 5
// mostly other trousers.
constexpr double kMaxDifference = 20;
constexpr double kMaxDifferenceLookAlike = 4;
// Pairs of like hashes per image that tell one from the other: 0.003 in CIFAR-10, 57 in
// Fashion-MNIST.
constexpr int64_t kLookAlikePairsPerImage = 1;
// A set of nothing but copies would have 1e9 pairs; nobody needs more than this to know.
constexpr size_t kMaxPairs = 200'000;

constexpr double kImbalanceNote = 1.5;
constexpr double kImbalanceWarning = 3;

constexpr int kThumbWidth = 9, kThumbHeight = 8;
using Thumbnail = std::array<uint8_t, kThumbWidth * kThumbHeight>;

void add_example(std::vector<std::string>& examples, std::string text) {
  if (examples.size() < kExamples) examples.push_back(std::move(text));
}

std::string plural(int64_t count, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

/// Train and test as one row of images: train first.
class AllImages {
 public:
  explicit AllImages(const Dataset& dataset)
      : dataset_(dataset),
        train_size_(dataset.train.size()),
        size_(train_size_ + dataset.test.size()) {
    for (const Split* split : {&dataset.train, &dataset.test}) {
      if (split->size() == 0) continue;
      images_.push_back(split->images.contiguous());
      labels_.push_back(split->labels.contiguous());
    }
    if (size_ == 0) return;
    side_ = images_.front().size(1);
    bytes_ = side_ * side_ * 3;
  }

  int64_t size() const { return size_; }
  int64_t side() const { return side_; }
  bool in_train(int64_t i) const { return i < train_size_; }
  std::string_view pixels(int64_t i) const {
    const auto [part, row] = place(i);
    const auto* first = images_[part].const_data_ptr<uint8_t>() + row * bytes_;
    return {reinterpret_cast<const char*>(first), static_cast<size_t>(bytes_)};
  }
  int64_t label(int64_t i) const {
    const auto [part, row] = place(i);
    return labels_[part].const_data_ptr<int64_t>()[row];
  }
  std::string name(int64_t i) const {
    const Split& split = in_train(i) ? dataset_.train : dataset_.test;
    const auto row = static_cast<size_t>(in_train(i) ? i : i - train_size_);
    return fmt::format("{}: {}", in_train(i) ? "train" : "test",
                       row < split.names.size() ? split.names[row] : fmt::format("image {}", row));
  }
  std::string names(int64_t a, int64_t b) const { return name(a) + " = " + name(b); }

 private:
  std::pair<size_t, int64_t> place(int64_t i) const {
    if (in_train(i)) return {0, i};
    return {images_.size() - 1, i - train_size_};
  }

  const Dataset& dataset_;
  int64_t train_size_, size_, side_ = 0, bytes_ = 0;
  std::vector<at::Tensor> images_, labels_;
};

struct Pair {
  int64_t first, second;  // first < second
  // clang-tidy 14 sees a zero that ought to be nullptr in it. NOLINTNEXTLINE(modernize-use-nullptr)
  auto operator<=>(const Pair&) const = default;
};

// Each image that repeats an earlier one, with the earliest: (earliest, repetition).
std::vector<Pair> find_exact_duplicates(const AllImages& images) {
  std::vector<std::pair<size_t, int64_t>> hashes(static_cast<size_t>(images.size()));
  at::parallel_for(0, images.size(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      hashes[static_cast<size_t>(i)] = {std::hash<std::string_view>()(images.pixels(i)), i};
    }
  });
  std::ranges::sort(hashes);
  std::vector<Pair> pairs;
  std::vector<int64_t> originals;  // different images of the hash at hand
  for (size_t at = 0; at < hashes.size(); ++at) {
    if (at == 0 || hashes[at].first != hashes[at - 1].first) originals.clear();
    const int64_t image = hashes[at].second;
    const auto original = std::ranges::find_if(
        originals, [&](int64_t other) { return images.pixels(other) == images.pixels(image); });
    if (original == originals.end()) {
      originals.push_back(image);
    } else {
      pairs.push_back({*original, image});
    }
  }
  std::ranges::sort(pairs);
  return pairs;
}

// Grey, each cell the mean of the pixels it touches.
Thumbnail make_thumbnail(std::string_view pixels, int64_t side) {
  Thumbnail thumbnail{};
  for (int row = 0; row < kThumbHeight; ++row) {
    const int64_t top = row * side / kThumbHeight;
    const int64_t bottom = ((row + 1) * side + kThumbHeight - 1) / kThumbHeight;
    for (int column = 0; column < kThumbWidth; ++column) {
      const int64_t left = column * side / kThumbWidth;
      const int64_t right = ((column + 1) * side + kThumbWidth - 1) / kThumbWidth;
      int64_t sum = 0;
      for (int64_t y = top; y < bottom; ++y) {
        for (int64_t x = left; x < right; ++x) {
          const auto* rgb = reinterpret_cast<const uint8_t*>(pixels.data()) + (y * side + x) * 3;
          sum += 299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2];  // luma of ITU-R BT.601
        }
      }
      thumbnail[static_cast<size_t>(row * kThumbWidth + column)] =
          static_cast<uint8_t>(sum / (1000 * (bottom - top) * (right - left)));
    }
  }
  return thumbnail;
}

// A bit for every two neighbours in a row: does it get lighter?
uint64_t difference_hash(const Thumbnail& thumbnail) {
  uint64_t hash = 0;
  for (size_t row = 0; row < kThumbHeight; ++row) {
    const uint8_t* cells = thumbnail.data() + row * kThumbWidth;
    for (int column = 0; column + 1 < kThumbWidth; ++column) {
      hash = hash << 1 | static_cast<uint64_t>(cells[column] < cells[column + 1]);
    }
  }
  return hash;
}

double mean_difference(const uint8_t* a, const uint8_t* b, size_t count) {
  constexpr size_t kBlock = 64;  // a loop of known length becomes vector code
  int64_t sum = 0;
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    int block_sum = 0;
    for (size_t k = 0; k < kBlock; ++k) block_sum += std::abs(a[i + k] - b[i + k]);
    sum += block_sum;
  }
  for (; i < count; ++i) sum += std::abs(a[i] - b[i]);
  return static_cast<double>(sum) / static_cast<double>(count);
}

// Calls visit(i, j) with every pair of hashes at most kMaxHashDistance bits apart, from several
// threads, until visit gives false. Hashes three bits apart agree in at least one of four bands of
// 16 bits, so only hashes that share a band are compared.
template <typename Visit>
void visit_like_hashes(const std::vector<uint64_t>& hashes, const Visit& visit) {
  constexpr int kBands = 4, kBandBits = 16;
  static_assert(kBands > kMaxHashDistance);
  const auto value_of = [](uint64_t bits, int64_t band) {
    return bits >> (kBandBits * band) & 0xffff;
  };
  const auto visit_band = [&](int64_t band) {
    std::vector<size_t> order(hashes.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto value_at = [&](size_t i) { return value_of(hashes[i], band); };
    std::ranges::sort(order, {}, value_at);
    for (size_t a = 0; a < order.size(); ++a) {
      const uint64_t hash = hashes[order[a]];
      for (size_t b = a + 1; b < order.size(); ++b) {
        const uint64_t different = hash ^ hashes[order[b]];
        if (value_of(different, band) != 0) break;
        if (std::popcount(different) > kMaxHashDistance) continue;
        bool is_new = true;  // not met in an earlier band
        for (int64_t earlier = 0; earlier < band; ++earlier) {
          is_new &= value_of(different, earlier) != 0;
        }
        if (is_new && !visit(order[a], order[b])) return;
      }
    }
  };
  const int64_t bands_per_thread = hashes.size() < 10'000 ? kBands : 1;  // few: not worth a thread
  at::parallel_for(0, kBands, bands_per_thread, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) visit_band(band);
  });
}

// Among `candidates` (indices, ascending, no two with equal pixels).
std::vector<Pair> find_near_duplicates(const AllImages& images,
                                       const std::vector<int64_t>& candidates) {
  const size_t count = candidates.size();
  std::vector<Thumbnail> thumbnails(count);
  std::vector<uint64_t> hashes(count);
  at::parallel_for(0, static_cast<int64_t>(count), 256, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      thumbnails[i] = make_thumbnail(images.pixels(candidates[i]), images.side());
      hashes[i] = difference_hash(thumbnails[i]);
    }
  });

  std::atomic<int64_t> like_hashes = 0;
  const int64_t look_alike = kLookAlikePairsPerImage * static_cast<int64_t>(count);
  visit_like_hashes(hashes, [&](size_t, size_t) { return ++like_hashes <= look_alike; });
  const double limit = like_hashes > look_alike ? kMaxDifferenceLookAlike : kMaxDifference;

  std::vector<Pair> pairs;
  std::mutex mutex;
  visit_like_hashes(hashes, [&](size_t a, size_t b) {
    // Thumbnails are compared first because they are small. Twice the limit: green alone moves grey
    // 1.8 times as much as it moves the mean over channels.
    if (mean_difference(thumbnails[a].data(), thumbnails[b].data(), thumbnails[a].size()) >
        2 * limit) {
      return true;
    }
    const std::string_view first = images.pixels(candidates[a]);
    const std::string_view second = images.pixels(candidates[b]);
    if (mean_difference(reinterpret_cast<const uint8_t*>(first.data()),
                        reinterpret_cast<const uint8_t*>(second.data()), first.size()) > limit) {
      return true;
    }
    std::lock_guard lock(mutex);
    pairs.push_back(
        {std::min(candidates[a], candidates[b]), std::max(candidates[a], candidates[b])});
    return pairs.size() < kMaxPairs;
  });
  std::ranges::sort(pairs);
  return pairs;
}

void check_duplicates(const Dataset& dataset, std::vector<Finding>& findings) {
  const AllImages images(dataset);
  const std::vector<Pair> exact = find_exact_duplicates(images);
  std::vector<bool> repeats(static_cast<size_t>(images.size()), false);
  for (const Pair& pair : exact) repeats[static_cast<size_t>(pair.second)] = true;
  std::vector<int64_t> different;
  for (int64_t i = 0; i < images.size(); ++i) {
    if (!repeats[static_cast<size_t>(i)]) different.push_back(i);
  }
  const std::vector<Pair> near = find_near_duplicates(images, different);
  const bool is_cut_short = near.size() >= kMaxPairs;

  Finding labels{FindingLevel::kWarning, "exact-duplicate", {}, {}};
  Finding copies{FindingLevel::kNote, "exact-duplicate", {}, {}};
  Finding alike{FindingLevel::kNote, "near-duplicate", {}, {}};
  Finding overlap{FindingLevel::kWarning, "train-test-overlap", {}, {}};
  int64_t contradictions = 0, copies_count = 0, alike_count = 0, alike_labels = 0;
  std::set<int64_t> test_exact, test_near;
  for (const Pair& pair : exact) {
    const std::string names = images.names(pair.first, pair.second);
    const bool contradict = images.label(pair.first) != images.label(pair.second);
    if (contradict) {
      ++contradictions;
      const auto class_of = [&](int64_t i) {
        return dataset.classes[static_cast<size_t>(images.label(i))];
      };
      add_example(labels.examples, fmt::format("{} ({} and {})", names, class_of(pair.first),
                                               class_of(pair.second)));
    }
    if (images.in_train(pair.first) && !images.in_train(pair.second)) {
      test_exact.insert(pair.second);
      add_example(overlap.examples, names);
    } else if (!contradict) {
      ++copies_count;
      add_example(copies.examples, names);
    }
  }
  for (const Pair& pair : near) {
    if (images.in_train(pair.first) && !images.in_train(pair.second)) {
      test_near.insert(pair.second);
      add_example(overlap.examples, images.names(pair.first, pair.second));
    } else {
      ++alike_count;
      alike_labels += images.label(pair.first) != images.label(pair.second);
      add_example(alike.examples, images.names(pair.first, pair.second));
    }
  }
  for (const Pair& pair : exact)  // a copy of what is nearly in train is so too
    if (test_near.contains(pair.first)) test_near.insert(pair.second);
  if (!test_exact.empty() || !test_near.empty()) {
    const auto share = static_cast<double>(test_exact.size() + test_near.size()) /
                       static_cast<double>(dataset.test.size());
    overlap.message = fmt::format(
        "{}{} of {} test images ({:.2f} %) are in train too: {} exactly, {} nearly; accuracy on "
        "them is memory, so leave them out of train or of test",
        is_cut_short ? "at least " : "", test_exact.size() + test_near.size(), dataset.test.size(),
        100 * share, test_exact.size(), test_near.size());
    findings.push_back(overlap);
  }
  if (contradictions > 0) {
    labels.message = fmt::format(
        "{} the pixels of another one under a different label; keep the right label, or neither",
        plural(contradictions, "image has", "images have"));
    findings.push_back(labels);
  }
  if (copies_count > 0) {
    copies.message = fmt::format("{} another one of the same part; each extra copy weighs double",
                                 plural(copies_count, "image repeats", "images repeat"));
    findings.push_back(copies);
  }
  if (alike_count > 0) {
    alike.message = fmt::format(
        "{}{} of hardly different images inside one part, {} of them with different labels",
        is_cut_short ? "more than " : "", plural(alike_count, "pair", "pairs"), alike_labels);
    findings.push_back(alike);
  }
}

std::vector<int64_t> images_per_class(const Dataset& dataset, const Split& split) {
  std::vector<int64_t> counts(dataset.classes.size(), 0);
  if (split.size() == 0) return counts;
  const at::Tensor labels = split.labels.contiguous();
  for (int64_t i = 0; i < split.size(); ++i) {
    ++counts[static_cast<size_t>(labels.const_data_ptr<int64_t>()[i])];
  }
  return counts;
}

void check_classes(const Dataset& dataset, std::vector<Finding>& findings) {
  for (const Split* split : {&dataset.train, &dataset.test}) {
    if (split->size() == 0) continue;
    const bool is_train = split == &dataset.train;
    const std::vector<int64_t> counts = images_per_class(dataset, *split);
    Finding empty{is_train ? FindingLevel::kError : FindingLevel::kWarning, "empty-class", {}, {}};
    int64_t missing = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0) continue;
      ++missing;
      add_example(empty.examples, dataset.classes[i]);
    }
    if (missing > 0) {
      empty.message =
          fmt::format("{} no image in {}; {}", plural(missing, "class has", "classes have"),
                      is_train ? "train" : "test",
                      is_train ? "add images, or take the class away in train and test"
                               : "its accuracy cannot be measured");
      findings.push_back(empty);
    }
    if (!is_train || missing > 0) continue;
    const auto [least, most] = std::ranges::minmax_element(counts);
    const double ratio = static_cast<double>(*most) / static_cast<double>(*least);
    if (ratio < kImbalanceNote) continue;
    const auto class_of = [&](auto place) {
      return dataset.classes[static_cast<size_t>(place - counts.begin())];
    };
    findings.push_back(
        {ratio < kImbalanceWarning ? FindingLevel::kNote : FindingLevel::kWarning,
         "imbalance",
         fmt::format("class {} has {:.1f} times the training images of class {} ({} and {}); read "
                     "the accuracy per class, and add images to the small ones",
                     class_of(most), ratio, class_of(least), *most, *least),
         {}});
  }
}

void check_bad_files(const Dataset& dataset, std::vector<Finding>& findings) {
  if (dataset.bad_files.empty()) return;
  Finding broken{FindingLevel::kError, "broken-file", {}, {}};
  broken.message =
      fmt::format("{} left out; replace or delete them",
                  plural(static_cast<int64_t>(dataset.bad_files.size()),
                         "file that cannot be read was", "files that cannot be read were"));
  for (const BadFile& file : dataset.bad_files) {
    add_example(broken.examples, file.name + ": " + file.reason);
  }
  findings.push_back(broken);
}

// Images of class folders are named "class/…"; a second slash is a folder inside the class.
void check_nested(const Dataset& dataset, std::vector<Finding>& findings) {
  std::map<std::string, int64_t> inner;  // "class/folder" -> images
  int64_t images = 0;
  for (const Split* split : {&dataset.train, &dataset.test}) {
    for (const std::string& name : split->names) {
      const size_t first = name.find('/');
      const size_t second = first == std::string::npos ? first : name.find('/', first + 1);
      if (second == std::string::npos) continue;
      ++inner[name.substr(0, second)];
      ++images;
    }
  }
  if (images == 0) return;
  Finding nested{FindingLevel::kWarning, "nested-class", {}, {}};
  nested.message = fmt::format(
      "{} in folders inside class folders and count as images of the outer one; if the inner "
      "folders are the classes, move them up",
      plural(images, "image is", "images are"));
  for (const auto& [folder, count] : inner) {
    add_example(nested.examples, fmt::format("{}: {}", folder, plural(count, "image", "images")));
  }
  findings.push_back(nested);
}

void check_statistics(const Dataset& dataset, const Normalisation& configured,
                      std::vector<Finding>& findings) {
  const Split& split = dataset.train.size() > 0 ? dataset.train : dataset.test;
  if (split.size() == 0) return;
  const Normalisation own = channel_statistics(split.images);
  const bool far = !normalisation_fits(configured, own);
  const bool flat = std::ranges::min(own.std) < 1.0 / 255;
  const auto text = [](const std::array<double, 3>& v) {
    return fmt::format("{:.4f},{:.4f},{:.4f}", v[0], v[1], v[2]);
  };
  std::string message = fmt::format("mean {} and std {}", text(own.mean), text(own.std));
  if (flat) {
    message += ": a channel hardly varies; look at the images with `data show`";
  } else if (far) {
    message += fmt::format(
        ", not the mean {} and std {} that were asked for; pass --mean {} --std {}, or auto",
        text(configured.mean), text(configured.std), text(own.mean), text(own.std));
  }
  findings.push_back({far || flat ? FindingLevel::kWarning : FindingLevel::kNote,
                      "statistics",
                      std::move(message),
                      {}});
}

}  // namespace

std::vector<Finding> check_dataset(const Dataset& dataset, const Normalisation& configured) {
  std::vector<Finding> findings;
  check_bad_files(dataset, findings);
  check_classes(dataset, findings);
  check_nested(dataset, findings);
  check_duplicates(dataset, findings);
  check_statistics(dataset, configured, findings);
  std::ranges::stable_sort(findings, std::greater(), &Finding::level);
  return findings;
}

}  // namespace skipway
