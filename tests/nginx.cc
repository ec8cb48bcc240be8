// Starts and stops nginx as one process with everything it writes in a temporary folder.
#include "nginx.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "base/files.h"

namespace skipway {
namespace {

constexpr const char* kProgram = "/usr/sbin/nginx";

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int free_port() {
  const int socket_descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof(address);
  if (bind(socket_descriptor, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      getsockname(socket_descriptor, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw std::runtime_error("no free loopback port");
  }
  close(socket_descriptor);
  return ntohs(address.sin_port);
}

bool accepts_connections(int port) {
  const int socket_descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(port);
  const bool connected =
      connect(socket_descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(socket_descriptor);
  return connected;
}

fs::path make_folder() {
  std::string name = testing::TempDir() + "/skipway_nginx_XXXXXX";
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  fs::create_directory(fs::path(name) / "root");
  return name;
}

void nap() { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }

}  // namespace

std::string Nginx::missing() {
  if (access(kProgram, X_OK) == 0) return {};
  return fmt::format("{} is not installed (apt-get install nginx-light)", kProgram);
}

Nginx::Nginx() : folder_(make_folder()), port_(free_port()) {}

Nginx::~Nginx() {
  kill();
  std::error_code code;
  fs::remove_all(folder_, code);
}

void Nginx::start(const std::string& server) {
  const std::string configuration = fmt::format(
      R"(daemon off;
master_process off;
pid {0}/nginx.pid;
error_log {0}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format short '$status $uri $http_range';
  access_log {0}/access.log short;
  client_body_temp_path {0}/body;
  proxy_temp_path {0}/proxy;
  fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi;
  scgi_temp_path {0}/scgi;
  types {{ text/html html; }}
  default_type application/octet-stream;
  server {{ listen 127.0.0.1:{1}; root {0}/root; {2} }}
}}
)",
      folder_.string(), port_, server);
  write_file_atomic(folder_ / "nginx.conf", configuration);
  const std::string prefix = folder_.string();
  process_ = fork();
  if (process_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that crashes leaves no server behind
    execl(kProgram, kProgram, "-p", prefix.c_str(), "-c", "nginx.conf", "-e", "error.log",
          static_cast<char*>(nullptr));
    _exit(127);
  }
  for (int i = 0; i < 300; ++i, nap()) {
    if (accepts_connections(port_)) return;
    if (waitpid(process_, nullptr, WNOHANG) == process_) {
      process_ = -1;
      break;
    }
  }
  throw std::runtime_error("nginx did not start: " + read_file(folder_ / "error.log"));
}

void Nginx::kill() {
  if (process_ < 0) return;
  ::kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = -1;
}

std::string Nginx::url(const std::string& path) const {
  return fmt::format("http://127.0.0.1:{}/{}", port_, path);
}

std::vector<std::string> Nginx::requests(size_t count) const {
  std::vector<std::string> lines;
  for (int i = 0; i < 200; ++i, nap()) {
    lines.clear();
    std::ifstream log(folder_ / "access.log");
    for (std::string line; std::getline(log, line);) lines.push_back(line);
    if (lines.size() >= count) break;
  }
  return lines;
}

}  // namespace skipway
