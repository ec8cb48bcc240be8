// Downloads from a real nginx that breaks off, lies, stalls and changes its files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "base/error.h"
#include "base/rng.h"
#include "data/fetch.h"
#include "nginx.h"

namespace skipway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kBytes = 600'000;
// 0.2 MB come at once, the rest in two more seconds: time to break off.
constexpr const char* kSlow = "limit_rate 200k;";

std::string noise(uint64_t seed) {
  Rng rng(seed, RngUse::kSynthetic);
  std::string bytes(kBytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng.below(256));
  return bytes;
}

class FetchNginx : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = Nginx::missing(); !missing.empty()) GTEST_SKIP() << missing;
    unsetenv("SKIPWAY_MIRROR");
    setenv("no_proxy", "127.0.0.1", 1);
    server_ = std::make_unique<Nginx>();
    std::string name = testing::TempDir() + "/skipway_fetch_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    target_ = folder_ / "file.bin";
    part_ = folder_ / "file.bin.part";
    write_file_atomic(server_->root() / "file.bin", bytes_);
    file_ = {"file.bin",
             {server_->url("file.bin")},
             HashKind::kMd5,
             hash_of(HashKind::kMd5, bytes_),
             kBytes};
  }
  void TearDown() override { fs::remove_all(folder_); }

  // The error of a fetch that must fail.
  Error failure(const FetchOptions& options = {}) {
    try {
      fetch_file(file_, target_, options);
    } catch (const Error& error) {
      EXPECT_FALSE(fs::exists(target_)) << "a file under the final name after: " << error.what();
      return error;
    }
    ADD_FAILURE() << "the fetch succeeded";
    return Error(ErrorKind::kInternal, "");
  }
  // Kills the server when something has come.
  FetchOptions killing_the_server() {
    FetchOptions options;
    options.progress = [this](const FetchProgress& progress) {
      if (progress.bytes_done > 0) server_->kill();
    };
    return options;
  }
  void expect_whole_file() {
    ASSERT_TRUE(fs::exists(target_));
    EXPECT_EQ(read_file(target_), bytes_);
    EXPECT_FALSE(fs::exists(part_));
  }

  const std::string bytes_ = noise(1);
  std::unique_ptr<Nginx> server_;
  fs::path folder_, target_, part_;
  KnownFile file_;
};

TEST_F(FetchNginx, BringsTheFileAndReportsItsProgress) {
  server_->start();
  FetchProgress last;
  FetchOptions options;
  options.progress = [&](const FetchProgress& progress) { last = progress; };
  fetch_file(file_, target_, options);
  expect_whole_file();
  EXPECT_EQ(last.file, "file.bin");
  EXPECT_EQ(last.bytes_done, kBytes);
  EXPECT_EQ(last.bytes_total, kBytes);
  EXPECT_GT(last.bytes_per_s, 0);
}

// Of torchvision's weights only the first digits are published.
TEST_F(FetchNginx, TheFirstDigitsOfAChecksumTellRightFromWrong) {
  file_.hash_kind = HashKind::kSha256;
  file_.hash = hash_of(HashKind::kSha256, bytes_).substr(0, 8);
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  fs::remove(target_);
  file_.hash[7] = file_.hash[7] == '0' ? '1' : '0';
  EXPECT_THAT(failure().what(), HasSubstr(file_.hash));
}

TEST_F(FetchNginx, PublishedWeightsAreAskedForByNameAndKnownByTheirChecksum) {
  write_file_atomic(server_->root() / "resnet18-f37072fd.pth", "other weights");
  server_->start();
  setenv("SKIPWAY_MIRROR", server_->url("").c_str(), 1);
  KnownFile published = known_weights("resnet18").file;
  EXPECT_THAT(published.urls,
              ElementsAre("https://download.pytorch.org/models/resnet18-f37072fd.pth"));
  published.urls.clear();  // no test asks a server of others
  file_ = published;
  const Error error = failure();
  unsetenv("SKIPWAY_MIRROR");
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr("f37072fd"));
  EXPECT_THAT(server_->requests(1), ElementsAre(StartsWith("200 /resnet18-f37072fd.pth")));
}

TEST_F(FetchNginx, AWrongFileUnderTheFinalNameIsReplaced) {
  write_file_atomic(target_, "rubbish");
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
}

TEST_F(FetchNginx, GoesOnWhereAKilledServerBrokeOff) {
  server_->start(kSlow);
  EXPECT_EQ(failure(killing_the_server()).kind(), ErrorKind::kData);
  const auto kept = fs::file_size(part_);
  ASSERT_GT(kept, 0U);
  ASSERT_LT(kept, static_cast<uintmax_t>(kBytes));
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(1), ElementsAre(fmt::format("206 /file.bin bytes={}-", kept)));
}

// As it does at a mirror that breaks off every time.
TEST_F(FetchNginx, AnotherMirrorGoesOnWhereTheFirstBrokeOff) {
  server_->start(kSlow);
  failure(killing_the_server());
  const auto kept = fs::file_size(part_);
  server_->start();
  fs::create_directory(server_->root() / "elsewhere");
  fs::rename(server_->root() / "file.bin", server_->root() / "elsewhere/file.bin");
  fs::last_write_time(server_->root() / "elsewhere/file.bin",  // and so another ETag
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  file_.urls = {server_->url("file.bin"), server_->url("elsewhere/file.bin")};
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(2),
              ElementsAre(fmt::format("404 /file.bin bytes={}-", kept),
                          fmt::format("206 /elsewhere/file.bin bytes={}-", kept)));
}

TEST_F(FetchNginx, StartsAnewWhereTheServerKnowsNoRanges) {
  server_->start(kSlow);
  failure(killing_the_server());
  server_->start("max_ranges 0;");
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(1), ElementsAre(StartsWith("200 /file.bin bytes=")));
}

TEST_F(FetchNginx, ADamagedPartIsFetchedAnewFromTheSameMirror) {
  server_->start(kSlow);
  failure(killing_the_server());
  std::string damaged = read_file(part_);
  damaged[100] = static_cast<char>(damaged[100] ^ 1);
  write_file_atomic(part_, damaged);
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(2), ElementsAre(StartsWith("206 "), StartsWith("200 ")));
}

TEST_F(FetchNginx, AWholeButWrongPartIsFetchedAnew) {
  write_file_atomic(part_, noise(3));
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(1), ElementsAre("200 /file.bin -"));
}

TEST_F(FetchNginx, AWholeButWrongPartOfAFileOfUnknownSizeIsFetchedAnew) {
  write_file_atomic(part_, noise(3));
  file_.bytes = 0;
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(2), ElementsAre(StartsWith("416 "), "200 /file.bin -"));
}

TEST_F(FetchNginx, AsksTheNextMirrorAfter404) {
  server_->start();
  file_.urls.insert(file_.urls.begin(), server_->url("nowhere.bin"));
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(2),
              ElementsAre(StartsWith("404 /nowhere.bin"), StartsWith("200 /file.bin")));
}

TEST_F(FetchNginx, AWrongChecksumRemovesThePartAndAsksTheNextMirror) {
  write_file_atomic(server_->root() / "wrong.bin", noise(2));
  server_->start();
  file_.urls.insert(file_.urls.begin(), server_->url("wrong.bin"));
  fetch_file(file_, target_, {});
  expect_whole_file();
  fs::remove(target_);

  file_.urls = {server_->url("wrong.bin")};
  const Error error = failure();
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr(file_.hash));
  EXPECT_THAT(error.what(), HasSubstr(hash_of(HashKind::kMd5, noise(2))));
  EXPECT_THAT(error.what(), HasSubstr(target_.string()));
  EXPECT_FALSE(fs::exists(part_));
}

TEST_F(FetchNginx, AWebPageIsNotTakenForTheFileAndCostsNoPart) {
  server_->start(kSlow);
  failure(killing_the_server());
  const std::string kept = read_file(part_);
  write_file_atomic(server_->root() / "portal.html", "<html>Please log in</html>");
  server_->start("rewrite ^ /portal.html break; max_ranges 0;");  // made for each who asks
  EXPECT_THAT(failure().what(), HasSubstr("web page"));
  EXPECT_EQ(read_file(part_), kept);
}

TEST_F(FetchNginx, AFileOfAnotherSizeIsRefusedBeforeItCostsAPart) {
  write_file_atomic(server_->root() / "file.bin", "short");
  server_->start();
  write_file_atomic(part_, "kept");
  EXPECT_THAT(failure().what(), HasSubstr("5 bytes"));
  EXPECT_EQ(read_file(part_), "kept");
  write_file_atomic(part_, "longer");
  EXPECT_THAT(failure().what(), HasSubstr("nothing after the first 6 bytes"));
  EXPECT_EQ(read_file(part_), "longer");
}

TEST_F(FetchNginx, EveryMirrorAndItsReasonAreInTheError) {
  server_->start("location /secret { return 403; } location /broken { return 500; }");
  file_.urls = {server_->url("secret"), server_->url("broken"), "http://127.0.0.1:1/file.bin"};
  const std::string message = failure().what();
  EXPECT_THAT(message, HasSubstr(server_->url("secret") + ": answered with HTTP 403"));
  EXPECT_THAT(message, HasSubstr(server_->url("broken") + ": answered with HTTP 500"));
  EXPECT_THAT(message, HasSubstr("http://127.0.0.1:1/file.bin: "));
  EXPECT_THAT(message, HasSubstr("SKIPWAY_MIRROR"));
}

TEST_F(FetchNginx, FollowsRedirectsButNeverToAFile) {
  server_->start(
      "location /moved { return 302 /file.bin; } location /local { return 302 file:///etc/hosts; "
      "}");
  file_.urls = {server_->url("local"), server_->url("moved")};
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(3), ElementsAre(StartsWith("302 /local"), StartsWith("302 /moved"),
                                                StartsWith("200 /file.bin")));
}

TEST_F(FetchNginx, AStalledMirrorIsLeftForTheNext) {
  server_->start("location /stalled { alias " + server_->root().string() + "/; limit_rate 100; }");
  file_.urls.insert(file_.urls.begin(), server_->url("stalled/file.bin"));
  FetchOptions options;
  options.stall_timeout_s = 1;
  fetch_file(file_, target_, options);
  expect_whole_file();
}

TEST_F(FetchNginx, AnExceptionOfTheProgressCallbackComesThroughAndKeepsThePart) {
  server_->start(kSlow);
  FetchOptions options;
  options.progress = [](const FetchProgress& progress) {
    if (progress.bytes_done > 0) throw std::runtime_error("mine");
  };
  EXPECT_THROW(fetch_file(file_, target_, options), std::runtime_error);
  EXPECT_FALSE(fs::exists(target_));
  ASSERT_GT(fs::file_size(part_), 0U);
  server_->kill();
  server_->start();
  fetch_file(file_, target_, {});
  expect_whole_file();
  EXPECT_THAT(server_->requests(1).back(), StartsWith("206 "));
}

TEST_F(FetchNginx, AFullDiskIsAnErrorOfTheDisk) {
  server_->start();
  fs::create_symlink("/dev/full", part_);
  const Error error = failure();
  EXPECT_EQ(error.kind(), ErrorKind::kDisk);
  EXPECT_THAT(error.what(), HasSubstr("No space left"));
}

TEST_F(FetchNginx, TwoAtOnceTakeTurns) {
  server_->start("limit_rate 590k;");
  std::thread other([&] { fetch_file(file_, target_, {}); });
  fetch_file(file_, target_, {});
  other.join();
  expect_whole_file();
  EXPECT_EQ(server_->requests(1).size(), 1U);
}

TEST_F(FetchNginx, AMirrorOfOnesOwnIsAskedFirst) {
  server_->start();
  file_.urls = {"http://127.0.0.1:1/file.bin"};
  setenv("SKIPWAY_MIRROR", server_->url("").c_str(), 1);
  fetch_file(file_, target_, {});
  unsetenv("SKIPWAY_MIRROR");
  expect_whole_file();
}

}  // namespace
}  // namespace skipway
