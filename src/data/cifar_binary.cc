// Records of CIFAR's binary files into [n,32,32,3] images; see
// https://www.cs.toronto.edu/~kriz/cifar.html for the format.
#include "data/cifar_binary.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

#include "base/error.h"

namespace skipway {
namespace {

constexpr int64_t kSide = 32;
constexpr int64_t kImageBytes = kSide * kSide * 3;

struct Form {
  std::vector<std::string> train_files;
  std::vector<std::string> test_files;
  std::string names_file;
  std::vector<std::string> classes;
  int64_t label_bytes = 1;  // at the beginning of a record
  int64_t label_at = 0;     // the one that counts
};

std::vector<std::string> parts(const std::string& text, char separator) {
  std::istringstream stream(text);
  std::vector<std::string> found;
  for (std::string part; std::getline(stream, part, separator);) {
    if (part.ends_with('\r')) part.pop_back();
    if (!part.empty()) found.push_back(part);
  }
  return found;
}

std::vector<std::string> words(const std::string& text) { return parts(text, ' '); }
std::vector<std::string> lines(const std::string& text) { return parts(text, '\n'); }

Form cifar10_form() {
  return {{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
           "data_batch_5.bin"},
          {"test_batch.bin"},
          "batches.meta.txt",
          words("airplane automobile bird cat deer dog frog horse ship truck")};
}

Form cifar100_form(bool coarse) {
  if (coarse) {
    return {{"train.bin"},
            {"test.bin"},
            "coarse_label_names.txt",
            words("aquatic_mammals fish flowers food_containers fruit_and_vegetables "
                  "household_electrical_devices household_furniture insects large_carnivores "
                  "large_man-made_outdoor_things large_natural_outdoor_scenes "
                  "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people "
                  "reptiles small_mammals trees vehicles_1 vehicles_2"),
            2,
            0};
  }
  return {
      {"train.bin"},
      {"test.bin"},
      "fine_label_names.txt",
      words("apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge "
            "bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud "
            "cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox "
            "girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
            "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter "
            "palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit "
            "raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake "
            "spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
            "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman "
            "worm"),
      2,
      1};
}

std::string joined(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + "/" + name;
}

const SourceFile* find_file(const FileTree& tree, const std::string& path) {
  const auto found = std::ranges::lower_bound(tree.files, path, {}, &SourceFile::path);
  return found != tree.files.end() && found->path == path ? &*found : nullptr;
}

class Reader {
 public:
  Reader(const FileTree& tree, std::string folder, Form form)
      : tree_(tree), folder_(std::move(folder)), form_(std::move(form)) {}

  std::vector<std::string> classes() const {
    const SourceFile* file = find_file(tree_, joined(folder_, form_.names_file));
    if (!file) return form_.classes;
    std::vector<std::string> names = lines(tree_.read(*file));
    if (names.size() != form_.classes.size()) {
      fail(ErrorKind::kData, "cifar", "expected {} class names, got {} at {}", form_.classes.size(),
           names.size(), tree_.where(*file));
    }
    return names;
  }

  Split split(const std::vector<std::string>& file_names) const {
    std::vector<at::Tensor> images;
    std::vector<at::Tensor> labels;
    Split split;
    for (const std::string& name : file_names) {
      const SourceFile* file = find_file(tree_, joined(folder_, name));
      if (!file) {
        fail(ErrorKind::kData, "cifar",
             "expected the batch file {}, got none at {}; unpack the whole official archive, or "
             "give the archive itself",
             name, (tree_.root / folder_).string());
      }
      read_records(*file, images, labels);
      for (int64_t i = 0; i < labels.back().size(0); ++i) {
        split.names.push_back(name + ":" + std::to_string(i));
      }
    }
    split.images = at::cat(images);
    split.labels = at::cat(labels);
    return split;
  }

 private:
  void read_records(const SourceFile& file, std::vector<at::Tensor>& images,
                    std::vector<at::Tensor>& labels) const {
    std::string bytes = tree_.read(file);
    const int64_t record_bytes = form_.label_bytes + kImageBytes;
    const auto size = static_cast<int64_t>(bytes.size());
    if (size == 0 || size % record_bytes != 0) {
      fail(ErrorKind::kData, "cifar",
           "expected a whole number of records of {} bytes, got {} bytes at {}; fetch it again",
           record_bytes, size, tree_.where(file));
    }
    const at::Tensor records =
        at::from_blob(bytes.data(), {size / record_bytes, record_bytes}, at::kByte);
    check_labels(records.select(1, form_.label_at), file);
    labels.push_back(records.select(1, form_.label_at).to(at::kLong));
    images.push_back(records.narrow(1, form_.label_bytes, kImageBytes)
                         .view({-1, 3, kSide, kSide})
                         .permute({0, 2, 3, 1})
                         .contiguous());
  }

  void check_labels(const at::Tensor& labels, const SourceFile& file) const {
    const auto count = static_cast<int64_t>(form_.classes.size());
    const at::Tensor wrong = (labels >= count).nonzero();
    if (wrong.size(0) == 0) return;
    const int64_t record = wrong[0].item<int64_t>();
    fail(ErrorKind::kData, "cifar",
         "expected labels of 0 to {}, got {} at {}, record {}; fetch it again", count - 1,
         labels[record].item<int64_t>(), tree_.where(file), record);
  }

  const FileTree& tree_;
  std::string folder_;
  Form form_;
};

}  // namespace

std::optional<CifarBinaryPlace> find_cifar_binary(const FileTree& tree) {
  const Form ten = cifar10_form();
  for (const SourceFile& file : tree.files) {
    const std::filesystem::path path = file.path;
    const std::string folder = path.parent_path().string();
    const std::string name = path.filename().string();
    if (folder.find('/') != std::string::npos) continue;
    if (name == ten.test_files[0] || std::ranges::count(ten.train_files, name) > 0) {
      return CifarBinaryPlace{folder, false};
    }
    if (name == "train.bin" || name == "test.bin") return CifarBinaryPlace{folder, true};
  }
  return std::nullopt;
}

Dataset load_cifar_binary(const FileTree& tree, const CifarBinaryPlace& place, bool coarse) {
  if (coarse && !place.hundred) {
    fail(ErrorKind::kUsage, "cifar",
         "expected CIFAR-100, which has coarse labels, got CIFAR-10 at "
         "{}",
         tree.root.string());
  }
  const Form form = place.hundred ? cifar100_form(coarse) : cifar10_form();
  const Reader reader(tree, place.folder, form);
  Dataset dataset;
  dataset.classes = reader.classes();
  dataset.image_size = kSide;
  dataset.train = reader.split(form.train_files);
  dataset.test = reader.split(form.test_files);
  return dataset;
}

}  // namespace skipway
