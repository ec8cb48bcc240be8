// Making, finding and writing a run's folder, and describing the machine. Not the contents of its
// model files; see checkpoint.h and safetensors.h.
#include "record/run_folder.h"

#include <ATen/Version.h>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;

#ifdef __clang__
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

// True when this call made the folder, false when something of that name was there.
bool make_folder(const fs::path& path, std::string_view flag) {
  if (mkdir(path.c_str(), 0777) == 0) return true;
  if (errno == EEXIST) return false;
  fail(ErrorKind::kDisk, "run", "could not create the folder {}: {}; choose another with {}",
       path.string(), std::strerror(errno), flag);
}

// log.txt made by O_EXCL marks a folder as taken, so that of two runs that are given the same empty
// folder at the same moment one is refused.
bool claim(const fs::path& log_txt, std::string_view flag) {
  const Descriptor file(::open(log_txt.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() >= 0) return true;
  if (errno == EEXIST) return false;
  fail(ErrorKind::kDisk, "run", "could not write {}: {}; choose another folder with {}",
       log_txt.string(), std::strerror(errno), flag);
}

// "runs/001" for "runs/001/", as the completion of a shell writes it.
fs::path without_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

bool is_run(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / "model.safetensors", ignored) ||
         fs::exists(path / "last.safetensors", ignored) ||
         fs::exists(path / "config.toml", ignored);
}

void require_empty(const fs::path& path, std::string_view flag) {
  std::error_code code;
  if (fs::is_directory(path, code) && fs::is_empty(path, code)) return;
  fail(ErrorKind::kUsage, "run",
       "expected a new or an empty folder, got {}; choose another with {}{}", path.string(), flag,
       is_run(path)
           ? fmt::format(", or go on with `skipway resume {}`", shell_quoted(path.string()))
           : "");
}

// The number of a folder named by digits alone, else 0.
int64_t run_number(const fs::path& path) {
  const std::string name = path.filename().string();
  const bool digits =
      std::all_of(name.begin(), name.end(), [](char c) { return '0' <= c && c <= '9'; });
  return digits && !name.empty() && name.size() < 10 ? std::stoll(name) : 0;
}

// At most five run folders beside `path` and in runs/, the last by name.
std::vector<std::string> nearby_runs(const fs::path& path) {
  std::set<std::string> found;
  for (const fs::path& place : {path, path.parent_path(), fs::path("runs")}) {
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(place.empty() ? fs::path(".") : place, code))
      if (is_run(entry.path())) found.insert(entry.path().lexically_normal().string());
  }
  while (found.size() > 5) found.erase(found.begin());
  return {found.begin(), found.end()};
}

// Where the last whole line of a file ends [bytes]; what follows was cut off by a crash.
off_t end_of_whole_lines(int descriptor) {
  off_t end = lseek(descriptor, 0, SEEK_END);
  char byte = 0;
  while (end > 0 && pread(descriptor, &byte, 1, end - 1) == 1 && byte != '\n') --end;
  return end;
}

// Whether what every reader looks at is of the type that a run writes.
bool is_of_a_run(const Json& line) {
  const auto event = line.find("event"), step = line.find("step");
  return (event == line.end() || event->is_string()) && (step == line.end() || step->is_number());
}

}  // namespace

void RunFolder::require_free(const fs::path& requested, std::string_view flag) {
  const fs::path path =
      requested.empty() ? fs::path("runs") : without_slash(expand_user(requested.string()));
  std::error_code code;
  if (!requested.empty() && fs::exists(path, code)) require_empty(path, flag);
  fs::path place = path;
  while (!place.empty() && !fs::exists(place, code)) place = place.parent_path();
  if (access(place.empty() ? "." : place.c_str(), W_OK | X_OK) != 0)
    fail(ErrorKind::kDisk, "run", "could not write in {}: {}; choose another folder with {}",
         place.empty() ? "." : place.string(), std::strerror(errno), flag);
}

RunFolder RunFolder::create(const fs::path& requested, std::string_view flag) {
  if (!requested.empty()) {
    const fs::path path = without_slash(expand_user(requested.string()));
    if (path.has_parent_path()) make_directories(path.parent_path());
    const bool is_new = make_folder(path, flag);
    if (!is_new) require_empty(path, flag);
    RunFolder run(path, is_new);
    if (!claim(run.log_txt(), flag))
      fail(ErrorKind::kUsage, "run",
           "expected an empty folder, got {}, which another run just took", path.string());
    return run;
  }

  const fs::path runs("runs");
  make_directories(runs);
  int64_t number = 1;
  for (const auto& entry : fs::directory_iterator(runs))
    number = std::max(number, run_number(entry.path()) + 1);
  fs::path path = runs / fmt::format("{:03}", number);
  while (!make_folder(path, flag)) path = runs / fmt::format("{:03}", ++number);
  return RunFolder(path, /*is_new=*/true);
}

RunFolder RunFolder::open(const fs::path& path) {
  const fs::path folder = without_slash(expand_user(path.string()));
  if (is_run(folder)) return RunFolder(folder, /*is_new=*/false);
  const std::vector<std::string> nearby = nearby_runs(folder);
  fail(ErrorKind::kUsage, "run",
       "expected a run's folder (with model.safetensors, last.safetensors or config.toml), got "
       "{}{}; "
       "{}",
       folder.string(), fs::exists(folder) ? "" : ", which does not exist",
       nearby.empty() ? "make one with `skipway train`"
                      : fmt::format("near it: {}", fmt::join(nearby, ", ")));
}

bool RunFolder::has_checkpoint() const {
  const auto may_exist = [](const fs::path& path) {
    std::error_code code;
    return fs::exists(path, code) || code;
  };
  return may_exist(last()) || may_exist(previous()) || may_exist(next());
}

bool RunFolder::is_imported() const { return !fs::exists(config_toml()) && !has_checkpoint(); }

Descriptor RunFolder::open_log() const {
  Descriptor file(::open(log_txt().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (file.get() < 0) {
    const int reason = errno;
    std::error_code ignored;
    if (is_new_) fs::remove(path_, ignored);  // which takes no folder that holds anything
    fail(ErrorKind::kDisk, "run", "could not open {} to append to it: {}; mend its permissions",
         log_txt().string(), std::strerror(reason));
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno == EWOULDBLOCK)
    fail(ErrorKind::kDisk, "run",
         "expected a run that nobody goes on with, but another process trains in this folder: {}; "
         "wait for its end, or stop it with Ctrl-C or SIGTERM",
         path_.string());
  log_warning("no lock on {} ({}): see to it that no other process trains in this folder",
              log_txt().string(), std::strerror(errno));
  return file;
}

void RunFolder::discard() const {
  if (has_checkpoint()) return;
  std::error_code ignored;
  for (const fs::path& path : {config_toml(), env_json(), metrics_jsonl(), tensorboard(),
                               log_txt()})  // the last to go: it marks the folder as taken
    fs::remove_all(path, ignored);
  if (is_new_) fs::remove(path_, ignored);
}

void RunFolder::append_metrics(const Json& line) const {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const Descriptor file(
      ::open(metrics_jsonl().c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (file.get() >= 0) {
    const off_t end = end_of_whole_lines(file.get());
    if (ftruncate(file.get(), end) == 0) {
      const ssize_t written = write(file.get(), text.data(), text.size());
      const bool is_whole = written == static_cast<ssize_t>(text.size());
      // As the checkpoint is that counts on it; EINVAL: a file system that cannot.
      if (is_whole && (fdatasync(file.get()) == 0 || errno == EINVAL)) return;
      const int reason = written < 0 || is_whole ? errno : ENOSPC;
      // Takes the part of a line away; where even that fails, the next append does it.
      [[maybe_unused]] const int undone = ftruncate(file.get(), end);
      errno = reason;
    }
  }
  fail(ErrorKind::kDisk, "run", "could not append to {}: {}; free some space",
       metrics_jsonl().string(), std::strerror(errno));
}

std::vector<Json> RunFolder::read_metrics(bool is_to_be_mended) const {
  std::vector<Json> lines;
  if (!fs::exists(metrics_jsonl())) return lines;
  const std::string text = read_file(metrics_jsonl());
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    Json line = parse_json(std::string_view(text).substr(begin, end - begin));
    if (line.is_object()) {
      if (is_of_a_run(line)) lines.push_back(std::move(line));
    } else if (is_to_be_mended) {
      log_warning("line {} of {} is damaged and left out",
                  std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(end), '\n') + 1,
                  metrics_jsonl().string());
    } else if (text.find('\n', end + 1) != std::string::npos) {
      fail(ErrorKind::kCheckpoint, "run",
           "expected a JSON object in line {} of {}, got {}; take that line out",
           std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(end), '\n') + 1,
           metrics_jsonl().string(), text.substr(begin, std::min<size_t>(end - begin, 40)));
    }
  }
  return lines;
}

Json environment() {
  utsname system{};
  uname(&system);
  std::istringstream flags(value_in_file("/proc/cpuinfo", "flags", ':'));
  std::vector<std::string> sets;
  for (std::string flag; flags >> flag;)
    for (const char* known : {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16"})
      if (flag == known) sets.push_back(flag);
  return {{"schema", "skipway.env/1"},
          {"skipway", SKIPWAY_VERSION},
          {"libtorch", TORCH_VERSION},
          {"compiler", kCompiler},
          {"processor", processor_name()},
          {"instruction_sets", sets},
          {"libtorch_kernels", at::get_cpu_capability()},
          {"cores", usable_cores()},
          {"nvidia_driver", fs::exists("/proc/driver/nvidia")},
          {"memory_bytes", physical_memory_bytes()},
          {"operating_system", value_in_file("/etc/os-release", "PRETTY_NAME", '=')},
          {"linux", system.release},
          {"architecture", system.machine}};
}

}  // namespace skipway
