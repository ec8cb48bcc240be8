// A real nginx on a free loopback port, for tests of downloads. Not a general test server.
#pragma once
#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace skipway {

class Nginx {
 public:
  /// Empty when nginx can be started here, else why not.
  static std::string missing();

  /// Makes a folder of its own; serves root() once started.
  Nginx();
  ~Nginx();
  Nginx(const Nginx&) = delete;
  Nginx& operator=(const Nginx&) = delete;

  /// Starts with `server` (directives of the server block) and returns when it accepts connections;
  /// after kill() on the same port. Throws std::runtime_error with nginx's own error log.
  void start(const std::string& server = "");
  /// Ends it at once, in the middle of what it sends.
  void kill();

  std::filesystem::path root() const { return folder_ / "root"; }
  std::string url(const std::string& path) const;
  /// One line a finished request: "status uri range", "-" for a range not sent. Waits
  /// until there are `count`, at most two seconds.
  std::vector<std::string> requests(size_t count) const;

 private:
  std::filesystem::path folder_;
  int port_;
  pid_t process_ = -1;
};

}  // namespace skipway
