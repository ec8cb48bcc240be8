// Tests of what a download does before and without a server; tests/fetch_nginx_test.cc has the
// rest.
#include "data/fetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "base/for_test.h"

namespace skipway {
namespace {

using testing::HasSubstr;

// Nothing listens on port 1 of the loopback: a request there fails at once.
constexpr const char* kNobody = "http://127.0.0.1:1/file.bin";

class Fetch : public testing::Test {
 protected:
  void SetUp() override {
    unsetenv("SKIPWAY_MIRROR");
    setenv("no_proxy", "127.0.0.1", 1);
    file_ = {"file.bin", {kNobody}, HashKind::kSha256, hash_of(HashKind::kSha256, "right"), 5};
  }
  void TearDown() override { unsetenv("SKIPWAY_MIRROR"); }

  Error failure() {
    return error_of([&] { fetch_file(file_, target_, {}); });
  }

  TemporaryFolder folder_;
  const fs::path target_ = folder_ / "sub/file.bin";
  KnownFile file_;
};

TEST_F(Fetch, AFileThatIsThereIsNotAskedFor) {
  make_directories(folder_ / "sub");
  write_file_atomic(target_, "right");
  EXPECT_NO_THROW(fetch_file(file_, target_, {}));
}

TEST_F(Fetch, AWholePartNeedsNoServer) {
  make_directories(folder_ / "sub");
  write_file_atomic(target_.string() + ".part", "right");
  fetch_file(file_, target_, {});
  EXPECT_EQ(read_file(target_), "right");
  EXPECT_FALSE(fs::exists(target_.string() + ".part"));
}

TEST_F(Fetch, TheErrorTellsHowToPutTheFileThereByHand) {
  const Error error = failure();
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr(kNobody));
  EXPECT_THAT(error.what(), HasSubstr("SHA-256 " + file_.hash));
  EXPECT_THAT(error.what(), HasSubstr(target_.string()));
  EXPECT_FALSE(fs::exists(target_));
}

TEST_F(Fetch, AFolderThatCannotBeMadeIsAnErrorOfTheDisk) {
  write_file_atomic(folder_ / "sub", "a file, not a folder");
  EXPECT_EQ(failure().kind(), ErrorKind::kDisk);
}

TEST_F(Fetch, AMirrorOfOnesOwnComesFirst) {
  setenv("SKIPWAY_MIRROR", "http://127.0.0.1:2/mine", 1);
  const std::string message = failure().what();
  const size_t own = message.find("http://127.0.0.1:2/mine/file.bin");
  ASSERT_NE(own, std::string::npos);
  EXPECT_LT(own, message.find(kNobody));
}

// Sends the answer and hangs up, to each who asks.
class HangsUp {
 public:
  explicit HangsUp(std::string answer) : answer_(std::move(answer)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(socket_, 8), 0);
    url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/file.bin";
    thread_ = std::thread([this] {
      for (int client; (client = accept(socket_, nullptr, nullptr)) >= 0; close(client)) {
        char request[4096];
        EXPECT_GT(read(client, request, sizeof(request)), 0);
        EXPECT_EQ(write(client, answer_.data(), answer_.size()), std::ssize(answer_));
      }
    });
  }
  ~HangsUp() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  HangsUp(const HangsUp&) = delete;
  HangsUp& operator=(const HangsUp&) = delete;

  std::string url;

 private:
  const std::string answer_;
  const int socket_ = socket(AF_INET, SOCK_STREAM, 0);
  std::thread thread_;
};

TEST_F(Fetch, ABodyThatBreaksOffIsNotTakenForAnotherFile) {
  const HangsUp server("HTTP/1.0 200 OK\r\n\r\nrig");  // without a length
  file_.urls = {server.url};
  const Error error = failure();
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr("broke off after 3 of 5 bytes"));
}

TEST_F(Fetch, ABodyThatCameWholeIsTakenWhateverFollows) {
  const HangsUp server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n");
  file_.urls = {server.url};
  fetch_file(file_, target_, {});
  EXPECT_EQ(read_file(target_), "right");
}

TEST_F(Fetch, AMirrorThatIsNoWebAddressIsRefused) {
  setenv("SKIPWAY_MIRROR", "file:///etc", 1);
  EXPECT_EQ(failure().kind(), ErrorKind::kUsage);
}

TEST_F(Fetch, AnAddressOfALocalFileIsRefused) {
  write_file_atomic(folder_ / "file.bin", "right");
  file_.urls = {"file://" + (folder_ / "file.bin").string()};
  EXPECT_EQ(failure().kind(), ErrorKind::kData);
}

TEST_F(Fetch, ADataSetThatIsThereNeedsNoServer) {
  setenv("SKIPWAY_DATA", folder_.path().c_str(), 1);
  make_directories(folder_ / "sub");
  write_file_atomic(target_, "right");
  const KnownDataset dataset{"known", "a data set of one file", {file_}, "sub", "", {}};
  EXPECT_EQ(fetch_dataset(dataset, {}), folder_ / "sub");
  unsetenv("SKIPWAY_DATA");
}

}  // namespace
}  // namespace skipway
