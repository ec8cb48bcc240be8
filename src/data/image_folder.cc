// Finds the classes in a tree of files, then decodes in two passes: shapes first, because they
// decide the size that all images are fitted to.
#include "data/image_folder.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/process.h"

namespace skipway {
namespace {

// One image that is to be decoded.
struct Job {
  const SourceFile* file;
  int64_t label;
  std::string name;    // class/…
  std::string reason;  // why it could not be decoded; empty: it could
  bool unreadable = false;
};

// The class folders of one part: `root` is "" or ends with "/".
struct Part {
  std::string root;
  std::vector<std::string> classes;
  std::vector<Job> jobs;
};

std::vector<std::string> subfolders(const FileTree& tree, const std::string& root) {
  std::vector<std::string> names;
  for (const std::string& folder : tree.folders) {
    if (!folder.starts_with(root)) continue;
    const std::string name = folder.substr(root.size());
    if (!name.empty() && name.find('/') == std::string::npos) names.push_back(name);
  }
  return names;
}

std::string lower_case(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// What the folders of the parts are called, in whatever case, the likelier names first.
constexpr std::string_view kTrainNames[] = {"train", "training"};
constexpr std::string_view kTestNames[] = {"test", "testing", "val", "valid", "validation"};

// The first of those that is among `names`, as it is spelled there, or "".
std::string part_among(const std::vector<std::string>& names,
                       std::span<const std::string_view> of_part) {
  for (const std::string_view part : of_part)
    for (const std::string& name : names)
      if (lower_case(name) == part) return name;
  return "";
}

struct Layout {
  Part train;
  Part test;
};

// Fills part.jobs with the images below its classes.
void collect(const FileTree& tree, Part& part) {
  std::map<std::string, int64_t> labels;
  for (const std::string& name : subfolders(tree, part.root)) {
    labels.emplace(name, static_cast<int64_t>(labels.size()));
  }
  for (const auto& [name, label] : labels) part.classes.push_back(name);
  for (const SourceFile& file : tree.files) {
    if (!file.path.starts_with(part.root) || !is_image_name(file.path)) continue;
    const std::string name = file.path.substr(part.root.size());
    const size_t slash = name.find('/');
    if (slash == std::string::npos) continue;  // beside the class folders
    const int64_t label = labels.at(name.substr(0, slash));
    part.jobs.push_back({&file, label, name, ""});
  }
  // In order of paths "a b/x" stands before "a/x"; in order of classes "a" before "a b".
  std::ranges::stable_sort(part.jobs, {}, &Job::label);
}

Layout find_layout(const FileTree& tree) {
  std::string root;
  std::vector<std::string> names = subfolders(tree, root);
  // Without train/, "valid" beside "invalid" is a class.
  const auto is_divided = [&] {
    const auto is_part = [](const std::string& name) {
      return !part_among({name}, kTrainNames).empty() || !part_among({name}, kTestNames).empty();
    };
    if (!names.empty() && std::ranges::all_of(names, is_part)) return true;
    // Beside other folders "train" may be a class, of images alone.
    const std::string train = part_among(names, kTrainNames);
    return !train.empty() && !subfolders(tree, root + train + "/").empty();
  };
  if (names.size() == 1 && !is_divided() && !subfolders(tree, names[0] + "/").empty()) {
    root = names[0] + "/";  // one folder around all
    names = subfolders(tree, root);
  }
  Layout layout;
  if (is_divided()) {
    const std::string train = part_among(names, kTrainNames), test = part_among(names, kTestNames);
    for (const std::string& name : names) {
      if (name != train && name != test) {
        log_info("{} is not used: it is neither the training nor the test part",
                 (tree.root / root / name).string());
      }
    }
    if (!train.empty()) {
      layout.train.root = root + train + "/";
      collect(tree, layout.train);
    }
    if (!test.empty()) {
      layout.test.root = root + test + "/";
      collect(tree, layout.test);
    }
  } else {
    layout.train.root = root;
    collect(tree, layout.train);
  }
  return layout;
}

void check_same_classes(const FileTree& tree, const Part& train, const Part& test) {
  std::vector<std::string> only_train;
  std::vector<std::string> only_test;
  std::ranges::set_difference(train.classes, test.classes, std::back_inserter(only_train));
  std::ranges::set_difference(test.classes, train.classes, std::back_inserter(only_test));
  if (only_train.empty() && only_test.empty()) return;
  fail(ErrorKind::kData, "image_folder",
       "expected the same classes in {} and {}, got '{}' only in the first and '{}' only in the "
       "second at {}; rename or remove those folders",
       train.root, test.root, fmt::join(only_train, "', '"), fmt::join(only_test, "', '"),
       tree.root.string());
}

void log_ignored(const FileTree& tree, const Layout& layout) {
  const size_t ignored = tree.files.size() - layout.train.jobs.size() - layout.test.jobs.size();
  if (ignored + static_cast<size_t>(tree.hidden_count) == 0) return;
  log_info("ignored in {}: {} files that are no .jpg, .jpeg or .png in a class folder, {} hidden",
           tree.root.string(), ignored, tree.hidden_count);
}

// work(bytes) of the job's file; what goes wrong is kept with the job.
template <class Work>
void with_bytes(const FileTree& tree, Job& job, const Work& work) {
  try {
    require_image_bytes(static_cast<uintmax_t>(job.file->size), job.file->path);
    job.unreadable = true;
    const std::string bytes = tree.read(*job.file);
    job.unreadable = false;
    work(bytes);
  } catch (const Error& error) {
    job.reason = error.what();
  }
}

void read_shapes(const FileTree& tree, std::vector<Job>& jobs, std::vector<ImageShape>& shapes) {
  std::vector<ImageShape> found(jobs.size());
  at::parallel_for(0, static_cast<int64_t>(jobs.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Job& job = jobs[static_cast<size_t>(i)];
      with_bytes(tree, job, [&](const std::string& bytes) {
        found[static_cast<size_t>(i)] = image_shape(bytes, job.file->path);
      });
    }
  });
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].reason.empty()) shapes.push_back(found[i]);
  }
}

Split decode(const FileTree& tree, std::vector<Job>& jobs, int64_t size) {
  const auto count = static_cast<int64_t>(jobs.size());
  const int64_t image_bytes = size * size * 3;
  Split split;
  split.images = at::zeros({count, size, size, 3}, at::kByte);
  auto* pixels = split.images.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Job& job = jobs[static_cast<size_t>(i)];
      if (!job.reason.empty()) continue;
      with_bytes(tree, job, [&](const std::string& bytes) {
        const Image image = fit_image(decode_image(bytes, job.file->path), size);
        std::ranges::copy(image.rgb, pixels + i * image_bytes);
      });
    }
  });

  std::vector<int64_t> labels;
  for (int64_t i = 0; i < count; ++i) {
    const Job& job = jobs[static_cast<size_t>(i)];
    if (!job.reason.empty()) continue;
    const auto row = static_cast<int64_t>(labels.size());
    // Where files were left out, within the tensor: there may be no memory for a second one.
    if (row < i) std::copy_n(pixels + i * image_bytes, image_bytes, pixels + row * image_bytes);
    labels.push_back(job.label);
    split.names.push_back(job.name);
  }
  split.images = split.images.narrow(0, 0, static_cast<int64_t>(labels.size()));
  split.labels = at::tensor(labels, at::kLong);
  return split;
}

void keep_bad_files(const std::vector<Job>& jobs, std::vector<BadFile>& bad_files) {
  for (const Job& job : jobs) {
    if (!job.reason.empty()) bad_files.push_back({job.file->path, job.reason, job.unreadable});
  }
}

}  // namespace

bool is_image_name(std::string_view path) {
  const std::string extension = lower_case(std::filesystem::path(path).extension().string());
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

void require_memory_for_images(int64_t count, int64_t size, const std::filesystem::path& where) {
  const double needed = static_cast<double>(count) * static_cast<double>(size * size * 3);
  const auto available = static_cast<double>(available_memory_bytes());
  if (needed < available) return;
  fail(ErrorKind::kMemory, "data",
       "expected decoded images that fit in {:.1f} GB of free memory, got {} of {} x {} pixels, "
       "{:.1f} GB, at {}; choose a smaller image size",
       available / 1e9, count, size, size, needed / 1e9, where.string());
}

int64_t automatic_image_size(const std::vector<ImageShape>& shapes) {
  const int64_t side = shapes.front().height;
  const bool equal = std::ranges::all_of(shapes, [side](const ImageShape& shape) {
    return shape.height == side && shape.width == side;
  });
  if (equal && side <= 64) return side;
  std::vector<int64_t> sides;
  sides.reserve(shapes.size());
  for (const ImageShape& shape : shapes) sides.push_back(std::min(shape.height, shape.width));
  const auto middle = sides.begin() + static_cast<int64_t>(sides.size() / 2);
  std::ranges::nth_element(sides, middle);
  // Borders between 32, 64 and 224 are their geometric means: equally far to shrink and to enlarge.
  return *middle < 45 ? 32 : *middle < 120 ? 64 : 224;
}

Dataset load_image_folder(const FileTree& tree, int64_t image_size) {
  Layout layout = find_layout(tree);
  auto& [train, test] = layout;
  log_ignored(tree, layout);
  const size_t count = train.jobs.size() + test.jobs.size();
  if (count == 0) {
    fail(ErrorKind::kData, "image_folder",
         "expected train/<class>/*.jpg and test/<class>/*.jpg (or .png), <class>/*.jpg, the binary "
         "files of CIFAR-10 or CIFAR-100, or IDX files, got {} files of other kinds or places at "
         "{}; `skipway data list` names the data sets that can be fetched",
         tree.files.size(), tree.root.string());
  }
  if (!train.root.empty() && !test.root.empty()) check_same_classes(tree, train, test);

  Dataset dataset;
  dataset.image_size = image_size;
  if (image_size == 0) {
    std::vector<ImageShape> shapes;
    read_shapes(tree, train.jobs, shapes);
    read_shapes(tree, test.jobs, shapes);
    if (!shapes.empty()) dataset.image_size = automatic_image_size(shapes);
  }
  if (dataset.image_size > 0) {
    require_memory_for_images(static_cast<int64_t>(count), dataset.image_size, tree.root);
    dataset.train = decode(tree, train.jobs, dataset.image_size);
    dataset.test = decode(tree, test.jobs, dataset.image_size);
  }
  dataset.classes = train.classes.empty() ? test.classes : train.classes;
  keep_bad_files(train.jobs, dataset.bad_files);
  keep_bad_files(test.jobs, dataset.bad_files);
  // A part without images would be divided off the other one, or that taken for it.
  const auto require_images = [&tree](const Part& part, const Split& split) {
    if (split.size() > 0) return;
    fail(ErrorKind::kData, "image_folder",
         "expected images at {}, got {}; mend that folder or take it away",
         (tree.root / part.root).parent_path().string(),
         part.jobs.empty() ? "none"
                           : fmt::format("{} broken files; the first: {}", part.jobs.size(),
                                         part.jobs.front().reason));
  };
  if (!train.jobs.empty()) require_images(train, dataset.train);
  if (!test.root.empty()) require_images(test, dataset.test);
  return dataset;
}

}  // namespace skipway
