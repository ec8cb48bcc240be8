// Class folders in every layout that is accepted, and what is left out of them.
#include "data/image_folder.h"

#include <ATen/ATen.h>

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The first red value of the image tells it from others.
std::string png(int start, int64_t side = 8) { return png_bytes(sample_image(side, side, start)); }

Dataset load(const TemporaryFolder& folder, int64_t image_size = 0) {
  return load_image_folder(list_folder(folder.path()), image_size);
}

std::vector<int64_t> labels_of(const Split& split) {
  const int64_t* labels = split.labels.const_data_ptr<int64_t>();
  return {labels, labels + split.size()};
}

std::vector<int> starts_of(const Split& split) {
  std::vector<int> starts;
  for (int64_t i = 0; i < split.size(); ++i) {
    starts.push_back(split.images[i][0][0][0].item<int>());
  }
  return starts;
}

TEST(ImageFolder, ClassesAndFilesAreInAlphabeticalOrder) {
  const TemporaryFolder folder;
  folder.write("train/dog/b.PNG", png(4));
  folder.write("train/dog/a.png", png(3));
  folder.write("train/cat a/x.png", png(2));
  folder.write("train/cat/10.png", png(0));
  folder.write("train/cat/2.png", png(1));
  folder.write("test/cat/z.png", png(5));
  folder.write("test/cat a/z.png", png(6));
  folder.write("test/dog/deep/z.png", png(7));
  const Dataset dataset = load(folder);
  EXPECT_THAT(dataset.classes, ElementsAre("cat", "cat a", "dog"));
  EXPECT_EQ(dataset.image_size, 8);
  EXPECT_THAT(starts_of(dataset.train), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(labels_of(dataset.train), ElementsAre(0, 0, 1, 2, 2));
  EXPECT_THAT(dataset.train.names,
              ElementsAre("cat/10.png", "cat/2.png", "cat a/x.png", "dog/a.png", "dog/b.PNG"));
  EXPECT_THAT(labels_of(dataset.test), ElementsAre(0, 1, 2));
  EXPECT_EQ(dataset.test.names[2], "dog/deep/z.png");
  EXPECT_EQ(dataset.test.images.sizes(), (std::vector<int64_t>{3, 8, 8, 3}));
}

TEST(ImageFolder, AcceptsEveryLayout) {
  struct Case {
    std::vector<const char*> files;
    int64_t train;
    int64_t test;
    const char* first_class;
  };
  const Case cases[] = {
      {{"train/a/1.png", "test/a/2.png"}, 1, 1, "a"},
      {{"train/a/1.png", "val/a/2.png"}, 1, 1, "a"},
      {{"train/a/1.png", "valid/a/2.png"}, 1, 1, "a"},
      {{"train/a/1.png", "test/a/2.png", "val/b/3.png"}, 1, 1, "a"},
      {{"train/a/1.png", "train/b/2.png"}, 2, 0, "a"},
      {{"test/a/1.png", "test/b/2.png"}, 0, 2, "a"},
      {{"a/1.png", "b/2.png"}, 2, 0, "a"},
      {{"valid/1.png", "invalid/2.png"}, 2, 0, "invalid"},
      {{"wrap/train/a/1.png", "wrap/test/a/2.png"}, 1, 1, "a"},
      {{"wrap/a/1.png", "wrap/b/2.png"}, 2, 0, "a"},
      {{"wrap/a/1.png", "wrap/b/2.png", "wrap/preview.png", "README"}, 2, 0, "a"},
      {{"a/1.png", "a/2.png"}, 2, 0, "a"},
      {{"train/1.png", "bus/2.png"}, 2, 0, "bus"},
      {{"Training/a/1.png", "Test/a/2.png"}, 1, 1, "a"},
      {{"TRAIN/a/1.png", "validation/a/2.png"}, 1, 1, "a"},
      {{"training/a/1.png", "testing/a/2.png", "validation/b/3.png"}, 1, 1, "a"},
      {{"train/a/1.png", "other/b/2.png"}, 1, 0, "a"},
  };
  for (const Case& layout : cases) {
    const TemporaryFolder folder;
    for (const char* file : layout.files) folder.write(file, png(1));
    const Dataset dataset = load(folder);
    EXPECT_EQ(dataset.train.size(), layout.train) << layout.files[0];
    EXPECT_EQ(dataset.test.size(), layout.test) << layout.files[0];
    EXPECT_EQ(dataset.classes[0], layout.first_class) << layout.files[0];
  }
}

TEST(ImageFolder, ReadsTheArchiveAsTheFolder) {
  const TemporaryFolder folder;
  std::vector<TarEntry> entries;
  for (const char* name : {"test/b/1.png", "train/b/1.png", "train/a/2.png", "test/a/1.png"}) {
    entries.push_back({name, png(static_cast<int>(entries.size())), ""});
  }
  write_tar(folder.path() / "x.tar.gz", entries);
  const Dataset dataset = load_image_folder(read_archive(folder.path() / "x.tar.gz"), 0);
  EXPECT_THAT(dataset.train.names, ElementsAre("a/2.png", "b/1.png"));
  EXPECT_THAT(starts_of(dataset.train), ElementsAre(2, 1));
  EXPECT_THAT(starts_of(dataset.test), ElementsAre(3, 0));
}

TEST(ImageFolder, BrokenImagesAreLeftOutAndNamed) {
  const TemporaryFolder folder;
  const std::string jpeg = jpeg_bytes(sample_image(8, 8));
  folder.write("train/a/1.jpg", jpeg);
  folder.write("train/a/2.jpg", "text named as an image");
  folder.write("train/a/3.jpg", jpeg.substr(0, jpeg.size() - 30));  // its header is whole
  folder.write("train/b/4.png", "");
  folder.write("train/b/5.png", png(5));
  folder.write("test/a/6.jpeg", jpeg);
  folder.write("test/b/7.png", png(7).substr(0, 50));
  folder.write("test/b/8.png", png(8));
  const Dataset dataset = load(folder);
  EXPECT_THAT(dataset.train.names, ElementsAre("a/1.jpg", "b/5.png"));
  EXPECT_THAT(labels_of(dataset.train), ElementsAre(0, 1));
  EXPECT_EQ(starts_of(dataset.train)[1], 5);
  EXPECT_THAT(dataset.test.names, ElementsAre("a/6.jpeg", "b/8.png"));
  std::vector<std::string> bad;
  for (const BadFile& file : dataset.bad_files) bad.push_back(file.name);
  EXPECT_THAT(bad, ElementsAre("train/a/2.jpg", "train/a/3.jpg", "train/b/4.png", "test/b/7.png"));
  EXPECT_THAT(dataset.bad_files[2].reason, HasSubstr("an empty file"));
}

TEST(ImageFolder, NothingButBrokenImagesIsAnError) {
  const TemporaryFolder folder;
  folder.write("a/1.jpg", "text");
  folder.write("b/2.jpg", "text");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder); }),
              AllOf(HasSubstr("2 broken files"), HasSubstr("a/1.jpg")));
}

TEST(ImageFolder, APartOfNothingButBrokenImagesIsAnErrorToo) {
  for (const auto& [good, bad] :
       {std::pair("train/a/1.png", "test/a/1.png"), std::pair("test/a/1.png", "train/a/1.png")}) {
    const TemporaryFolder folder;
    folder.write(good, png(1));
    folder.write(bad, "text");
    EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder); }),
                AllOf(HasSubstr(fs::path(bad).begin()->string()), HasSubstr("1 broken files")));
  }
  const TemporaryFolder folder;
  folder.write("train/a/1.png", png(1));
  folder.write("test/a/1.webp", "another kind");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder); }), HasSubstr("got none"));
}

TEST(ImageFolder, OtherFilesAreCountedInTheLog) {
  const TemporaryFolder folder;
  const LogLines log;
  folder.write("a/1.png", png(1));
  folder.write("a/notes.txt", "text");
  folder.write("b/1.png", png(1));
  folder.write("b/1.gif", "text");
  folder.write("b/.1.png", "text");
  folder.write("beside.png", png(1));
  EXPECT_EQ(load(folder).train.size(), 2);
  EXPECT_THAT(log.text(), AllOf(HasSubstr(": 3 files"), HasSubstr("1 hidden")));
}

TEST(ImageFolder, AnEmptyClassKeepsItsLabel) {
  const TemporaryFolder folder;
  folder.write("a/1.png", png(1));
  folder.write("c/1.png", png(2));
  fs::create_directories(folder.path() / "b");
  const Dataset dataset = load(folder);
  EXPECT_THAT(dataset.classes, ElementsAre("a", "b", "c"));
  EXPECT_THAT(labels_of(dataset.train), ElementsAre(0, 2));
}

TEST(ImageFolder, DifferentClassesInTrainAndTestAreNamed) {
  const TemporaryFolder folder;
  folder.write("train/cat/1.png", png(1));
  folder.write("train/dog/1.png", png(1));
  folder.write("test/cat/1.png", png(1));
  folder.write("test/dogs/1.png", png(1));
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder); }),
              AllOf(HasSubstr("'dog' only in the first"), HasSubstr("'dogs' only in the second")));
}

TEST(ImageFolder, AFolderWithoutClassesIsAnErrorThatTellsTheLayouts) {
  const TemporaryFolder folder;
  folder.write("1.png", png(1));
  folder.write("notes.txt", "text");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder); }),
              AllOf(HasSubstr("train/<class>"), HasSubstr("skipway data list"),
                    HasSubstr("got 2 files"), HasSubstr(folder.path().string())));
}

TEST(ImageFolder, FitsImagesOfAnySizeToOne) {
  const TemporaryFolder folder;
  folder.write("a/1.png", png_bytes(sample_image(20, 33)));
  folder.write("a/2.jpg", jpeg_bytes(sample_image(50, 40)));
  EXPECT_EQ(load(folder).train.images.sizes(), (std::vector<int64_t>{2, 32, 32, 3}));
  EXPECT_EQ(load(folder, 17).train.images.sizes(), (std::vector<int64_t>{2, 17, 17, 3}));
}

TEST(ImageFolder, SizeFollowsTheImages) {
  EXPECT_EQ(automatic_image_size({{28, 28}, {28, 28}}), 28);
  EXPECT_EQ(automatic_image_size({{64, 64}}), 64);
  EXPECT_EQ(automatic_image_size({{28, 28}, {28, 29}}), 32);
  EXPECT_EQ(automatic_image_size({{28, 28}, {60, 90}, {70, 60}}), 64);
  EXPECT_EQ(automatic_image_size({{96, 96}}), 64);
  EXPECT_EQ(automatic_image_size({{300, 500}, {200, 150}, {60, 60}}), 224);
}

TEST(ImageFolder, ImagesThatCannotFitInMemoryAreRefused) {
  const TemporaryFolder folder;
  folder.write("a/1.png", png(1));
  EXPECT_THAT(message_of(ErrorKind::kMemory, [&] { load(folder, 10'000'000); }),
              HasSubstr("smaller image size"));
}

TEST(ImageFolder, KnowsItsExtensions) {
  for (const char* name : {"a.jpg", "a.JPEG", "x/a.b.Png"}) EXPECT_TRUE(is_image_name(name));
  for (const char* name : {"a.gif", "jpg", "a.jpg.txt", "a"}) EXPECT_FALSE(is_image_name(name));
}

}  // namespace
}  // namespace skipway
