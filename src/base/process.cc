#include "base/process.h"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "base/clock.h"

namespace skipway {

namespace {

// Of version 2: the one that this process is in, and those above it, whose limits hold as well.
std::vector<std::filesystem::path> control_groups() {
  std::vector<std::filesystem::path> groups = {"/sys/fs/cgroup"};
  std::ifstream file("/proc/self/cgroup");  // "0::/user.slice/job"
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;
    for (const std::filesystem::path& name : std::filesystem::path(line.substr(4)))
      groups.push_back(groups.back() / name);
  }
  return groups;
}

}  // namespace

std::optional<int64_t> cores_granted_by(const std::filesystem::path& control_group) {
  std::ifstream file(control_group / "cpu.max");  // "150000 100000" microseconds, or "max 100000"
  int64_t quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return (quota + period - 1) / period;
}

int64_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool known = sched_getaffinity(0, sizeof(set), &set) == 0;
  int64_t cores = known ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  for (const auto& group : control_groups())
    cores = std::min(cores, cores_granted_by(group).value_or(cores));
  return cores;
}

int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

std::optional<int64_t> memory_left_in(const std::filesystem::path& control_group) {
  int64_t most = 0, used = 0;
  if (!(std::ifstream(control_group / "memory.max") >> most)) return std::nullopt;  // or "max"
  std::ifstream(control_group / "memory.current") >> used;
  std::ifstream stat(control_group / "memory.stat");  // "inactive_file 4096"
  int64_t bytes = 0;
  for (std::string word; stat >> word >> bytes;)
    if (word == "active_file" || word == "inactive_file") used -= bytes;
  return std::max(int64_t{0}, most - used);
}

int64_t physical_memory_bytes() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
}

std::string value_in_file(const char* path, std::string_view key, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find(separator);
    if (!line.starts_with(key) || at == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t\"", at + 1);
    if (begin == std::string::npos) return "";
    return line.substr(begin, line.find_last_not_of(" \t\"") - begin + 1);
  }
  return "";
}

std::string processor_name() { return value_in_file("/proc/cpuinfo", "model name", ':'); }

int64_t available_memory_bytes() {
  int64_t bytes = physical_memory_bytes();
  std::ifstream machine("/proc/meminfo");  // "MemAvailable:   19000000 kB"
  int64_t kilobytes = 0;
  for (std::string word; machine >> word;)
    if (word == "MemAvailable:" && machine >> kilobytes) bytes = std::min(bytes, kilobytes * 1024);
  for (const auto& group : control_groups())
    bytes = std::min(bytes, memory_left_in(group).value_or(bytes));
  std::ifstream limit_of_version_1("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  if (int64_t most = 0; limit_of_version_1 >> most && most > 0) bytes = std::min(bytes, most);
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{};
    if (getrlimit(resource, &limit) == 0 && limit.rlim_cur < static_cast<rlim_t>(bytes))
      bytes = static_cast<int64_t>(limit.rlim_cur);
  }
  return bytes;
}

void limit_memory(int64_t bytes) {
  rlimit limit{};
  getrlimit(RLIMIT_DATA, &limit);
  limit.rlim_cur = std::min(static_cast<rlim_t>(bytes), limit.rlim_cur);
  setrlimit(RLIMIT_DATA, &limit);
}

std::optional<Output> output_of_self(const std::vector<std::string>& arguments) {
  process_wall_s();  // takes SKIPWAY_SETUP_S, which is no time of the child's
  std::vector<std::string> words = {"/proc/self/exe"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return std::nullopt;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int failed = posix_spawn(&child, argv.front(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Output output;
  std::array<char, 4096> some{};
  for (ssize_t n = 0; failed == 0 && (n = read(ends[0], some.data(), some.size())) > 0;)
    output.text.append(some.data(), static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  if (failed != 0 || waitpid(child, &status, 0) != child) return std::nullopt;
  output.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return output;
}

}  // namespace skipway
