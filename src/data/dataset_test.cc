// load_dataset from end to end: what a path is taken for, the cache, the division into parts.
#include "data/dataset.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "data/fetch.h"
#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kFashionMnist = "/usr/share/datasets/fashion-mnist";

// Sets a variable of the environment for the length of a test.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

// A folder with `count` images in each class, and one for the cache.
class Folders {
 public:
  void add(const std::string& part_and_class, int count) const {
    for (int i = 0; i < count; ++i) {
      data.write(fmt::format("{}/{:03}.png", part_and_class, i), png_bytes(sample_image(8, 8, i)));
    }
  }
  LoadOptions options() const {
    LoadOptions options;
    options.cache_folder = cache.path();
    return options;
  }

  TemporaryFolder data;
  TemporaryFolder cache;
};

std::vector<int64_t> counts_of(const Split& split) {
  const at::Tensor counts = at::bincount(split.labels);
  const int64_t* first = counts.const_data_ptr<int64_t>();
  return {first, first + counts.numel()};
}

void expect_same(const Split& a, const Split& b) {
  EXPECT_TRUE(at::equal(a.images, b.images));
  EXPECT_TRUE(at::equal(a.labels, b.labels));
  EXPECT_EQ(a.names, b.names);
}

// Other bytes, same size and time stamp: only one who decodes again can notice.
void spoil_unnoticed(const fs::path& path) {
  const auto time = fs::last_write_time(path);
  const std::string rubbish(fs::file_size(path), 'x');
  std::ofstream(path, std::ios::binary) << rubbish;
  fs::last_write_time(path, time);
}

std::string cifar_record(char label) { return std::string(1, label).append(3072, 'x'); }

void write_cifar10(const TemporaryFolder& folder, const std::string& prefix) {
  for (int i = 1; i <= 5; ++i) {
    folder.write(fmt::format("{}data_batch_{}.bin", prefix, i), cifar_record(static_cast<char>(i)));
  }
  folder.write(prefix + "test_batch.bin", cifar_record(9));
}

TEST(Dataset, LoadsAFolderUnderItsName) {
  const Folders folders;
  folders.add("pets/train/cat", 3);
  folders.add("pets/train/dog", 2);
  folders.add("pets/test/cat", 1);
  folders.add("pets/test/dog", 1);
  const std::string path = folders.data.path() / "pets";
  const Dataset dataset = load_dataset(path + "/", folders.options());
  EXPECT_EQ(dataset.name, "pets");
  EXPECT_EQ(dataset.source, path);
  EXPECT_THAT(dataset.classes, ElementsAre("cat", "dog"));
  EXPECT_THAT(counts_of(dataset.train), ElementsAre(3, 2));
  EXPECT_THAT(counts_of(dataset.test), ElementsAre(1, 1));
  EXPECT_EQ(dataset.image_size, 8);
}

TEST(Dataset, OneClassAloneGivesAWarning) {
  const Folders folders;
  folders.add("all", 4);
  const LogLines log;
  EXPECT_EQ(load_dataset(folders.data.path(), folders.options()).classes.size(), 1u);
  EXPECT_THAT(log.text(), HasSubstr("warning: all images are of one class, 'all'"));
}

TEST(Dataset, AFolderIsDecodedOnce) {
  const Folders folders;
  folders.add("train/cat", 3);
  folders.add("train/dog", 3);
  folders.add("test/cat", 2);
  folders.add("test/dog", 2);
  folders.data.write("train/dog/bad.jpg", "bad");
  fs::create_directories(folders.data.path() / "train/emu");
  fs::create_directories(folders.data.path() / "test/emu");
  const Dataset first = load_dataset(folders.data.path(), folders.options());
  spoil_unnoticed(folders.data.path() / "train/cat/001.png");

  const LogLines log;
  const Dataset second = load_dataset(folders.data.path(), folders.options());
  EXPECT_THAT(log.text(), AllOf(HasSubstr("decoded before"), Not(HasSubstr("decoded 10"))));
  EXPECT_THAT(log.text(), AllOf(HasSubstr("warning: left out 1 files"), HasSubstr("bad.jpg"),
                                HasSubstr("warning: 1 of 3 classes have no images to train on")));
  expect_same(first.train, second.train);
  expect_same(first.test, second.test);
  EXPECT_EQ(second.classes, first.classes);
  EXPECT_EQ(second.name, first.name);
  ASSERT_EQ(second.bad_files.size(), 1u);

  LoadOptions without = folders.options();
  without.cache_folder = folders.cache.path() / "other";
  EXPECT_EQ(load_dataset(folders.data.path(), without).bad_files.size(), 2u);
  folders.add("train/cat", 4);  // a change that is noticed
  EXPECT_EQ(load_dataset(folders.data.path(), folders.options()).train.size(), 7);
}

// As where `eval` asks for the size that training found by itself.
TEST(Dataset, ASizeThatWasFoundBeforeIsNotDecodedAgain) {
  const Folders folders;
  folders.add("train/cat", 2);
  folders.add("test/cat", 2);
  const Dataset found = load_dataset(folders.data.path(), folders.options());
  LoadOptions options = folders.options();
  options.image_size = found.image_size;
  const LogLines same;
  expect_same(load_dataset(folders.data.path(), options).train, found.train);
  EXPECT_THAT(same.text(), HasSubstr("decoded before"));
  options.image_size = 4;
  const LogLines other;
  EXPECT_EQ(load_dataset(folders.data.path(), options).train.images.size(1), 4);
  EXPECT_THAT(other.text(), HasSubstr("decoded 4 images"));
}

// What cannot be read today may be read tomorrow.
TEST(Dataset, AFolderWithAnUnreadableFileIsDecodedAgain) {
  const Folders folders;
  for (const char* name : {"train/cat", "train/dog", "test/cat", "test/dog"}) folders.add(name, 3);
  fs::create_symlink("/proc/self/mem",
                     folders.data.path() / "train/cat/001a.png");  // an input error
  for (int time = 0; time < 2; ++time) {
    const LogLines log;
    const Dataset dataset = load_dataset(folders.data.path(), folders.options());
    EXPECT_THAT(log.text(), Not(HasSubstr("decoded before")));
    ASSERT_EQ(dataset.bad_files.size(), 1u);
    EXPECT_TRUE(dataset.bad_files[0].unreadable);
    EXPECT_THAT(counts_of(dataset.train), ElementsAre(3, 3));
    EXPECT_EQ(dataset.train.names[2], "cat/002.png");
    const Image last =
        decode_image(read_file(folders.data.path() / "train/cat/002.png"), "002.png");
    EXPECT_EQ(
        std::memcmp(dataset.train.images[2].const_data_ptr(), last.rgb.data(), last.rgb.size()), 0);
  }
}

TEST(Dataset, AnArchiveIsDecodedOnce) {
  const Folders folders;
  std::vector<TarEntry> entries;
  for (const char* name : {"train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"}) {
    entries.push_back({name, png_bytes(sample_image(8, 8, static_cast<int>(entries.size()))), ""});
  }
  const fs::path path = folders.data.path() / "letters.tar.gz";
  write_tar(path, entries);
  const Dataset first = load_dataset(path, folders.options());
  EXPECT_EQ(first.name, "letters");
  spoil_unnoticed(path);
  const Dataset second = load_dataset(path, folders.options());
  expect_same(first.train, second.train);
  expect_same(first.test, second.test);

  // Another archive in its place is noticed.
  for (TarEntry& entry : entries) entry.bytes = png_bytes(sample_image(8, 8, 77));
  const auto before = fs::last_write_time(path);
  write_tar(path, entries);
  fs::last_write_time(path, before + std::chrono::seconds(1));
  EXPECT_FALSE(at::equal(load_dataset(path, folders.options()).train.images, first.train.images));
}

TEST(Dataset, ClassNamesAreValidUtf8) {
  const Folders folders;
  std::vector<TarEntry> entries;
  for (const char* name :
       {"train/caf\xe9", "train/k\xc3\xa4se", "test/caf\xe9", "test/k\xc3\xa4se"}) {
    folders.add(fmt::format("names/{}", name), 1);
    entries.push_back({fmt::format("{}/1.png", name), png_bytes(sample_image(8, 8)), ""});
  }
  write_tar(folders.data.path() / "names.tar.gz", entries);
  for (const char* source : {"names", "names.tar.gz"}) {
    for (int i = 0; i < 2; ++i) {  // decoded, and from the cache
      const Dataset dataset = load_dataset(folders.data.path() / source, folders.options());
      EXPECT_THAT(dataset.classes, ElementsAre("caf\xef\xbf\xbd", "k\xc3\xa4se"));
      EXPECT_THAT(dataset.train.names[0], HasSubstr("caf\xe9/"));  // where a person finds it
    }
  }
}

TEST(Dataset, FoldersOfOneNameInUtf8AreAnError) {
  const Folders folders;
  folders.add("caf\xe8", 2);
  folders.add("caf\xe9", 2);
  EXPECT_THAT(
      message_of(ErrorKind::kData, [&] { load_dataset(folders.data.path(), folders.options()); }),
      AllOf(HasSubstr("\"caf\\xe8\" and \"caf\\xe9\""), HasSubstr(folders.data.path().string())));
}

TEST(Dataset, ADamagedCacheIsMadeAnew) {
  const Folders folders;
  folders.add("train/cat", 3);
  folders.add("test/cat", 2);
  const Dataset first = load_dataset(folders.data.path(), folders.options());
  for (const auto& entry : fs::directory_iterator(folders.cache.path())) {
    fs::resize_file(entry.path(), fs::file_size(entry.path()) - 1);
  }
  LogLines log;
  expect_same(first.train, load_dataset(folders.data.path(), folders.options()).train);
  EXPECT_THAT(log.text(), HasSubstr("made anew"));
  log.clear();
  expect_same(first.train, load_dataset(folders.data.path(), folders.options()).train);
  EXPECT_THAT(log.text(), HasSubstr("decoded before"));
}

TEST(Dataset, AnUnwritableCacheIsNoError) {
  const Folders folders;
  folders.add("train/cat", 3);
  folders.add("test/cat", 2);
  LoadOptions options;
  options.cache_folder = folders.data.write("file", "no folder") / "cache";
  const LogLines log;
  EXPECT_EQ(load_dataset(folders.data.path(), options).train.size(), 3);
  EXPECT_THAT(log.text(), HasSubstr("warning: decoded images are not kept"));
}

TEST(Dataset, ATreeWithoutTestPartIsDividedByClassAndSeed) {
  const Folders folders;
  folders.add("cat", 20);
  folders.add("dog", 40);
  folders.add("emu", 1);
  LoadOptions options = folders.options();
  const Dataset dataset = load_dataset(folders.data.path(), options);
  EXPECT_THAT(counts_of(dataset.train), ElementsAre(18, 36, 1));
  EXPECT_THAT(counts_of(dataset.test), ElementsAre(2, 4));
  std::set<std::string> names(dataset.train.names.begin(), dataset.train.names.end());
  names.insert(dataset.test.names.begin(), dataset.test.names.end());
  EXPECT_EQ(names.size(), 61u);
  EXPECT_TRUE(std::ranges::is_sorted(dataset.train.names));
  // Names, labels and pixels still belong together.
  for (int64_t i = 0; i < dataset.test.size(); ++i) {
    const std::string& name = dataset.test.names[static_cast<size_t>(i)];
    EXPECT_EQ(dataset.test.images[i][0][0][0].item<int>(), std::stoi(name.substr(4, 3)));
    EXPECT_EQ(dataset.test.labels[i].item<int>(), name.starts_with("cat") ? 0 : 1);
  }
  expect_same(dataset.test, load_dataset(folders.data.path(), options).test);
  options.seed = 1;
  EXPECT_NE(load_dataset(folders.data.path(), options).test.names, dataset.test.names);
  options.image_size = -1;
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { load_dataset(folders.data.path(), options); }), "");
}

TEST(Dataset, ForEvalAWholeTreeIsTheTestPart) {
  const Folders folders;
  folders.add("cat", 3);
  folders.add("dog", 2);
  LoadOptions options = folders.options();
  options.whole_tree_is_test = true;
  const Dataset tree = load_dataset(folders.data.path(), options);
  EXPECT_EQ(tree.train.size(), 0);
  EXPECT_EQ(tree.test.size(), 5);

  const Folders divided;
  divided.add("train/cat", 3);
  divided.add("test/cat", 1);
  options.cache_folder = divided.cache.path();
  EXPECT_EQ(load_dataset(divided.data.path(), options).test.size(), 1);
}

TEST(Dataset, OnlyATestPartCanBeJudgedButNotTrainedOn) {
  const Folders folders;
  folders.add("test/cat", 3);
  folders.add("test/dog", 2);
  LoadOptions options = folders.options();
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load_dataset(folders.data.path(), options); }),
              HasSubstr("train/<class>/"));
  options.whole_tree_is_test = true;
  EXPECT_EQ(load_dataset(folders.data.path(), options).test.size(), 5);
}

TEST(Dataset, PathsThatHoldNothingAreErrorsWithAWayOut) {
  const Folders folders;
  const auto message = [&](const fs::path& path) {
    return message_of(ErrorKind::kData, [&] { load_dataset(path, folders.options()); });
  };
  EXPECT_THAT(message(folders.data.path() / "none"),
              AllOf(HasSubstr("nothing at"), HasSubstr("skipway data list")));
  EXPECT_THAT(message(folders.data.path()),
              AllOf(HasSubstr("a folder without files"), HasSubstr("skipway data list")));
  EXPECT_THAT(message(folders.data.write("notes.txt", "text")),
              AllOf(HasSubstr("tar.gz"), HasSubstr("notes.txt")));
  EXPECT_THAT(message("/dev/null"), HasSubstr("/dev/null"));
  const TemporaryFolder pickles;
  pickles.write("cifar-10-batches-py/data_batch_1", "pickle");
  EXPECT_THAT(message(pickles.path()), HasSubstr("cifar-10-binary.tar.gz"));
  EXPECT_THAT(message(folders.data.path()), HasSubstr("train/<class>"));
}

TEST(Dataset, FormatsAreToldByTheirFiles) {
  const Folders folders;
  write_cifar10(folders.data, "cifar-10-batches-bin/");
  const Dataset cifar = load_dataset(folders.data.path(), folders.options());
  EXPECT_EQ(cifar.classes[0], "airplane");
  EXPECT_EQ(cifar.image_size, 32);
  LoadOptions options = folders.options();
  options.image_size = 48;
  const Dataset larger = load_dataset(folders.data.path(), options);
  EXPECT_EQ(larger.image_size, 48);
  EXPECT_EQ(larger.train.images.sizes(), (std::vector<int64_t>{5, 48, 48, 3}));
  EXPECT_EQ(larger.train.images[4][47][47][2].item<int>(), 'x');

  const TemporaryFolder wrapped;
  fs::create_directory_symlink(kFashionMnist, wrapped.path() / "raw");
  EXPECT_EQ(load_dataset(wrapped.path(), folders.options()).train.size(), 60000);
}

// More images than are brought to another size at once.
TEST(Dataset, ImagesOfAFixedSizeAreFittedInTheirOrder) {
  constexpr int kOfABatch = 60;
  const Folders folders;
  const auto pixel = [](int image, int at) {
    return static_cast<char>((at * 7 + image * 31) % 251);
  };
  for (int batch = 0; batch < 6; ++batch) {
    std::string records;
    for (int i = 0; i < kOfABatch; ++i) {
      records += static_cast<char>(i % 10);
      for (int at = 0; at < 3072; ++at) records += pixel(batch * kOfABatch + i, at);
    }
    folders.data.write(batch < 5 ? fmt::format("data_batch_{}.bin", batch + 1) : "test_batch.bin",
                       records);
  }
  LoadOptions options = folders.options();
  options.image_size = 20;
  const Dataset dataset = load_dataset(folders.data.path(), options);
  ASSERT_EQ(dataset.train.size(), 5 * kOfABatch);
  for (const int image : {0, 1, 255, 256, 5 * kOfABatch - 1}) {
    Image stored{32, 32, {}};
    for (int at = 0; at < 1024; ++at)  // red, green and blue apart in the file
      for (int channel = 0; channel < 3; ++channel)
        stored.rgb.push_back(static_cast<uint8_t>(pixel(image, channel * 1024 + at)));
    const Image fitted = fit_image(stored, 20);
    EXPECT_EQ(std::memcmp(dataset.train.images[image].const_data_ptr(), fitted.rgb.data(),
                          fitted.rgb.size()),
              0)
        << image;
    EXPECT_EQ(dataset.train.labels[image].item<int>(), image % kOfABatch % 10);
  }
}

TEST(Dataset, KnownNamesAreFoundUnderTheDataFolder) {
  const Folders folders;
  const Variable data("SKIPWAY_DATA", folders.data.path());
  write_cifar10(folders.data, "cifar-10-batches-bin/");
  folders.data.write("cifar-100-binary/train.bin", std::string(1, '\x02') + cifar_record(77));
  folders.data.write("cifar-100-binary/test.bin", std::string(1, '\x02') + cifar_record(77));
  for (const char* name : {"fine_label_names.txt", "coarse_label_names.txt"}) {
    std::string lines;
    for (int i = 0; i < (name[0] == 'f' ? 100 : 20); ++i) lines += fmt::format("name{}\n", i);
    folders.data.write(std::string("cifar-100-binary/") + name, lines);
  }
  EXPECT_EQ(load_dataset("cifar10", folders.options()).name, "cifar10");
  EXPECT_EQ(load_dataset("auto", folders.options()).name, "cifar10");
  EXPECT_EQ(load_dataset("cifar100", folders.options()).train.labels[0].item<int>(), 77);
  const Dataset coarse = load_dataset("cifar100-coarse", folders.options());
  EXPECT_EQ(coarse.train.labels[0].item<int>(), 2);
  EXPECT_EQ(coarse.name, "cifar100-coarse");
}

TEST(Dataset, AutoFallsBackForNoMistakeInTheSettings) {
  const Folders folders;
  const Variable data("SKIPWAY_DATA", folders.data.path());
  const Variable mirror("SKIPWAY_MIRROR", "/mnt/mirror");
  EXPECT_THAT(message_of(ErrorKind::kUsage, [&] { load_dataset("auto", folders.options()); }),
              HasSubstr("SKIPWAY_MIRROR"));
}

TEST(Dataset, AutoFallsBackToFashionMnistAndSaysSo) {
  const Folders folders;
  const Variable data("SKIPWAY_DATA", folders.data.path());
  const Variable https("https_proxy", "http://127.0.0.1:9");  // nobody listens there
  const Variable http("http_proxy", "http://127.0.0.1:9");
  folders.data.write("cifar-10-binary.tar.gz", "cut short");
  const LogLines log;
  const Dataset dataset = load_dataset("auto", folders.options());
  EXPECT_EQ(dataset.name, "fashion-mnist");
  EXPECT_THAT(log.text(), HasSubstr("cifar-10-binary.tar.gz is not used"));
  EXPECT_EQ(dataset.source, kFashionMnist);
  EXPECT_EQ(dataset.image_size, 28);
  EXPECT_EQ(dataset.train.size(), 60000);
  EXPECT_EQ(dataset.test.size(), 10000);
  EXPECT_THAT(log.text(), HasSubstr("warning: CIFAR-10 is not on this machine"));
  EXPECT_NE(message_of(ErrorKind::kData, [&] { load_dataset("cifar10", folders.options()); }), "");
}

TEST(Dataset, RealCifarImagesComeInClassOrder) {
  const char* place = std::getenv("SKIPWAY_CIFAR");
  if (!place) GTEST_SKIP() << "SKIPWAY_CIFAR names no CIFAR-10 class folders or archive";
  const Folders folders;
  const Dataset dataset = load_dataset(place, folders.options());
  EXPECT_THAT(dataset.classes, ElementsAre("airplane", "automobile", "bird", "cat", "deer", "dog",
                                           "frog", "horse", "ship", "truck"));
  EXPECT_EQ(dataset.image_size, 32);
  EXPECT_EQ(dataset.bad_files.size(), 0u);
  EXPECT_EQ(counts_of(dataset.train), std::vector<int64_t>(10, 5000));
  EXPECT_EQ(counts_of(dataset.test), std::vector<int64_t>(10, 500));
  EXPECT_EQ(dataset.train.names[5001], "automobile/0001.jpg");
  // CIFAR-10's own statistics; JPEG moves them by less than a hundredth.
  const Normalisation statistics = channel_statistics(dataset.train.images);
  const double mean[] = {0.4914, 0.4822, 0.4465};
  const double std[] = {0.2470, 0.2435, 0.2616};
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(statistics.mean[c], mean[c], 0.01);
    EXPECT_NEAR(statistics.std[c], std[c], 0.01);
  }
  const LogLines log;
  const Dataset again = load_dataset(place, folders.options());
  EXPECT_THAT(log.text(), HasSubstr("decoded before"));
  expect_same(dataset.test, again.test);
  EXPECT_TRUE(at::equal(dataset.train.images, again.train.images));
}

Dataset synthetic_dataset(const std::vector<int64_t>& counts) {
  Dataset dataset;
  std::vector<int64_t> labels;
  for (size_t c = 0; c < counts.size(); ++c) {
    dataset.classes.push_back(std::to_string(c));
    labels.insert(labels.end(), static_cast<size_t>(counts[c]), static_cast<int64_t>(c));
  }
  const auto n = static_cast<int64_t>(labels.size());
  dataset.train.labels = at::tensor(labels, at::kLong);
  dataset.train.images =
      at::arange(n).to(at::kByte).view({n, 1, 1, 1}).expand({n, 2, 2, 3}).contiguous();
  for (int64_t i = 0; i < n; ++i) dataset.train.names.push_back(std::to_string(i));
  return dataset;
}

TEST(Dataset, ValidationTakesTheSameShareOfEveryClass) {
  Dataset dataset = synthetic_dataset({40, 20, 10, 0, 3});
  const Split validation = split_validation(dataset, 25, 7);
  EXPECT_EQ(validation.size(), 25);
  EXPECT_EQ(dataset.train.size(), 48);
  // Exact shares: 13.7, 6.85, 3.42, 0, 1.03.
  EXPECT_THAT(counts_of(validation), ElementsAre(14, 7, 3, 0, 1));
  std::set<std::string> names(validation.names.begin(), validation.names.end());
  names.insert(dataset.train.names.begin(), dataset.train.names.end());
  EXPECT_EQ(names.size(), 73u);
  for (const Split* part : {&validation, static_cast<const Split*>(&dataset.train)}) {
    ASSERT_EQ(part->images.size(0), part->size());
    for (int64_t i = 0; i < part->size(); ++i)
      EXPECT_EQ(part->images[i][1][1][2].item<int>(),
                std::stoi(part->names[static_cast<size_t>(i)]));
  }
}

TEST(Dataset, ValidationIsAFunctionOfTheSeed) {
  Dataset a = synthetic_dataset({50, 50});
  Dataset b = synthetic_dataset({50, 50});
  Dataset c = synthetic_dataset({50, 50});
  const Split first = split_validation(a, 20, 1);
  EXPECT_EQ(first.names, split_validation(b, 20, 1).names);
  EXPECT_NE(first.names, split_validation(c, 20, 2).names);
}

TEST(Dataset, ValidationLeavesAnImageOnEitherSide) {
  for (int64_t count : {0, 10, 11, -1}) {
    Dataset dataset = synthetic_dataset({5, 5});
    EXPECT_THAT(message_of(ErrorKind::kUsage, [&] { split_validation(dataset, count, 0); }),
                HasSubstr("1 to 9"));
  }
  Dataset dataset = synthetic_dataset({5, 5});
  EXPECT_EQ(split_validation(dataset, 9, 0).size(), 9);
}

TEST(Dataset, ChannelStatisticsAreThoseOfTheScaledPixels) {
  at::Tensor images = at::zeros({2, 2, 2, 3}, at::kByte);
  images.select(3, 1).fill_(51);
  images.select(3, 2)[1].fill_(255);
  const Normalisation statistics = channel_statistics(images);
  EXPECT_THAT(statistics.mean,
              ElementsAre(0, testing::DoubleNear(0.2, 1e-12), testing::DoubleNear(0.5, 1e-12)));
  EXPECT_THAT(statistics.std,
              ElementsAre(0, testing::DoubleNear(0, 1e-7), testing::DoubleNear(0.5, 1e-12)));
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { channel_statistics(images.narrow(0, 0, 0)); }), "");
}

TEST(Dataset, ChannelStatisticsAgreeWithDoubles) {
  const at::Tensor images =
      at::arange(40 * 64 * 64 * 3).mul(7919).remainder(251).to(at::kByte).view({40, 64, 64, 3});
  const Normalisation statistics = channel_statistics(images);
  const at::Tensor channels = images.to(at::kDouble).div(255).view({-1, 3});
  for (int64_t c = 0; c < 3; ++c) {
    const at::Tensor channel = channels.select(1, c);
    EXPECT_NEAR(statistics.mean[static_cast<size_t>(c)], channel.mean().item<double>(), 1e-12);
    EXPECT_NEAR(statistics.std[static_cast<size_t>(c)],
                channel.std(/*unbiased=*/false).item<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace skipway
