// Downloads with libcurl's easy interface: one transfer at a time, written straight to the part.
#include "data/fetch.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

namespace skipway {
namespace {

// A mirror that broke off after it had given something is asked this often in all.
constexpr int kAttemptsPerMirror = 3;
constexpr double kProgressInterval_s = 0.1;

[[noreturn]] void fail_disk(std::string_view what, const fs::path& path, int code) {
  fail(ErrorKind::kDisk, "fetch",
       "{} {}: {}; free some space or set SKIPWAY_DATA to another folder", what, path.string(),
       std::strerror(code));
}

// The unfinished file beside the target. What a mirror gave of it is gone on with at any other: the
// checksum tells whether that was of the same file.
class Part {
 public:
  explicit Part(const fs::path& target) : path_(target.string() + ".part") {}

  const fs::path& path() const { return path_; }

  int64_t bytes() const {
    std::error_code code;
    const auto size = fs::file_size(path_, code);
    return code ? 0 : static_cast<int64_t>(size);
  }

  // `flag`: O_APPEND or O_TRUNC.
  Descriptor open_to_write(int flag) const {
    const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flag, 0666);
    if (file < 0) fail_disk("could not write", path_, errno);
    return Descriptor(file);
  }

  void remove() const {
    std::error_code code;
    fs::remove(path_, code);
  }

  // Reaches the disk before the final name does.
  void publish(const fs::path& target) const {
    const Descriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0 || fsync(file.get()) != 0) fail_disk("could not flush", path_, errno);
    if (rename(path_.c_str(), target.c_str()) != 0) fail_disk("could not write", target, errno);
  }

 private:
  fs::path path_;
};

// Waits until no other program downloads into the folder. The folder itself is locked, so that no
// lock file stays behind; a file system without locks does without.
Descriptor lock_folder(const fs::path& folder) {
  Descriptor lock(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.get() < 0) fail_disk("could not open the folder", folder, errno);
  bool said = false;
  while (flock(lock.get(), LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
    if (!said) log_info("waiting for another program that downloads into {}", folder.string());
    said = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return lock;
}

// The value of "Name: value" when the header line has that name.
std::optional<std::string> header_value(std::string_view line, std::string_view name) {
  if (line.size() <= name.size() || line[name.size()] != ':') return std::nullopt;
  if (strncasecmp(line.data(), name.data(), name.size()) != 0) return std::nullopt;
  line.remove_prefix(name.size() + 1);
  const size_t first = line.find_first_not_of(" \t");
  if (first == std::string_view::npos) return std::string();
  return std::string(line.substr(first, line.find_last_not_of(" \t\r\n") - first + 1));
}

struct Outcome {
  std::string reason;      // why the file is not whole; empty: it is
  bool ask_again = false;  // the same mirror may still give it
  bool went_on_from_part = false;
};

// One request for one file: what libcurl's callbacks need to know.
class Transfer {
 public:
  Transfer(const KnownFile& file, const std::string& url, const Part& part,
           const FetchOptions& options)
      : file_(file), url_(url), part_(part), options_(options) {}

  Outcome run();

 private:
  static size_t on_header(char* bytes, size_t size, size_t count, void* self) {
    static_cast<Transfer*>(self)->read_header({bytes, size * count});
    return size * count;
  }
  // Exceptions must not pass through C: they wait in error_.
  static size_t on_body(char* bytes, size_t size, size_t count, void* self_pointer) {
    auto* self = static_cast<Transfer*>(self_pointer);
    try {
      return self->write({bytes, size * count}) ? size * count : CURL_WRITEFUNC_ERROR;
    } catch (...) {
      self->error_ = std::current_exception();
      return CURL_WRITEFUNC_ERROR;
    }
  }
  static int on_progress(void* self_pointer, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto* self = static_cast<Transfer*>(self_pointer);
    try {
      self->report_progress(false);
    } catch (...) {
      self->error_ = std::current_exception();
    }
    return self->error_ ? 1 : 0;
  }

  void read_header(std::string_view line);
  bool begin_body();
  bool write(std::string_view bytes);
  void report_progress(bool at_the_end);
  bool refuse(std::string reason) {
    refusal_ = std::move(reason);
    return false;
  }

  const KnownFile& file_;
  const std::string& url_;
  const Part& part_;
  const FetchOptions& options_;

  CURL* curl_ = nullptr;
  int64_t offset_ = 0;  // where the request begins
  // Of the last response (a redirect has its own before it).
  std::string content_type_, content_range_;
  int64_t content_length_ = -1;

  Descriptor output_;
  int64_t bytes_done_ = 0;   // in the part
  int64_t received_ = 0;     // in this request
  int64_t bytes_total_ = 0;  // 0: unknown
  Stopwatch since_start_, since_progress_;
  std::string refusal_;
  std::exception_ptr error_;
};

void Transfer::read_header(std::string_view line) {
  if (line.starts_with("HTTP/")) {
    content_type_.clear();
    content_range_.clear();
    content_length_ = -1;
  } else if (auto type = header_value(line, "Content-Type")) {
    content_type_ = *type;
  } else if (auto range = header_value(line, "Content-Range")) {
    content_range_ = *range;
  } else if (auto length = header_value(line, "Content-Length")) {
    std::from_chars(length->data(), length->data() + length->size(), content_length_);
  }
}

// Decides, before the first byte is written, whether this can be the file and where it goes: a part
// that is good is not given up for a page of a hotel's portal.
bool Transfer::begin_body() {
  long status = 0;
  curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
  if (strncasecmp(content_type_.c_str(), "text/html", 9) == 0) {
    return refuse("sent a web page, not the file");
  }
  const bool goes_on = status == 206;
  if (!goes_on && status != 200) return refuse(fmt::format("answered with HTTP {}", status));
  if (goes_on && !content_range_.starts_with(fmt::format("bytes {}-", offset_))) {
    return refuse(fmt::format("sent the range '{}', not from byte {}", content_range_, offset_));
  }
  if (!goes_on) offset_ = 0;
  bytes_total_ = content_length_ >= 0 ? offset_ + content_length_ : file_.bytes;
  if (file_.bytes > 0 && bytes_total_ != file_.bytes) {
    return refuse(fmt::format("has {} bytes under that name, not {}", bytes_total_, file_.bytes));
  }
  output_ = part_.open_to_write(goes_on ? O_APPEND : O_TRUNC);
  bytes_done_ = offset_;
  return true;
}

bool Transfer::write(std::string_view bytes) {
  if (output_.get() < 0 && !begin_body()) return false;
  if (file_.bytes > 0 && bytes_done_ + static_cast<int64_t>(bytes.size()) > file_.bytes) {
    return refuse(fmt::format("sent more than the {} bytes of the file", file_.bytes));
  }
  while (!bytes.empty()) {
    const ssize_t written = ::write(output_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_disk("could not write", part_.path(), errno);
    bytes.remove_prefix(static_cast<size_t>(written));
    bytes_done_ += written;
    received_ += written;
  }
  return true;
}

void Transfer::report_progress(bool at_the_end) {
  if (!options_.progress || output_.get() < 0) return;
  if (!at_the_end && since_progress_.seconds() < kProgressInterval_s) return;
  since_progress_.reset();
  const double seconds = since_start_.seconds();
  options_.progress({file_.name, bytes_done_, bytes_total_,
                     seconds > 0 ? static_cast<double>(received_) / seconds : 0});
}

Outcome Transfer::run() {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(),
                                                                 curl_easy_cleanup);
  if (!curl) fail(ErrorKind::kMemory, "fetch", "libcurl could not be started");
  curl_ = curl.get();
  char detail[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl_, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(curl_, CURLOPT_URL, url_.c_str());
  curl_easy_setopt(curl_, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl_, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl_, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl_, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(curl_, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl_, CURLOPT_USERAGENT, "skipway/" SKIPWAY_VERSION);
  curl_easy_setopt(curl_, CURLOPT_CONNECTTIMEOUT, 15L);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_LIMIT, 1000L);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_TIME,
                   std::max(1L, std::lround(options_.stall_timeout_s)));
  curl_easy_setopt(curl_, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl_, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl_, CURLOPT_WRITEDATA, this);
  curl_easy_setopt(curl_, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
  curl_easy_setopt(curl_, CURLOPT_XFERINFODATA, this);
  curl_easy_setopt(curl_, CURLOPT_NOPROGRESS, 0L);

  Outcome outcome;
  offset_ = part_.bytes();
  if (offset_ > 0) curl_easy_setopt(curl_, CURLOPT_RANGE, (std::to_string(offset_) + "-").c_str());

  CURLcode code = curl_easy_perform(curl_);
  long status = 0;
  curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
  // An empty file is whole without a call of on_body.
  if (code == CURLE_OK && output_.get() < 0 && !begin_body()) code = CURLE_WRITE_ERROR;
  if (error_) std::rethrow_exception(error_);

  outcome.went_on_from_part = offset_ > 0;
  // Of a body without a length the end of the connection is the end.
  const bool short_of_end = code == CURLE_OK && bytes_done_ < file_.bytes;
  if (short_of_end) {
    outcome.reason = fmt::format("broke off after {} of {} bytes", bytes_done_, file_.bytes);
    outcome.ask_again = received_ > 0;
  } else if (code == CURLE_OK) {
    report_progress(true);
  } else if (!refusal_.empty()) {
    outcome.reason = refusal_;
  } else if (status == 416) {
    outcome.reason = fmt::format("has nothing after the first {} bytes", offset_);
    // Where nobody knows better, the file is whole with that, and the part was seen to be wrong.
    outcome.ask_again = file_.bytes == 0;
    if (outcome.ask_again) part_.remove();
  } else if (code == CURLE_HTTP_RETURNED_ERROR) {
    outcome.reason = fmt::format("answered with HTTP {}", status);
  } else if (code == CURLE_OPERATION_TIMEDOUT && received_ > 0) {
    outcome.reason = fmt::format("below 1 kB/s for {:g} s", options_.stall_timeout_s);
  } else {
    outcome.reason = *detail ? detail : curl_easy_strerror(code);
    outcome.ask_again = received_ > 0;
  }
  return outcome;
}

std::vector<std::string> mirrors_of(const KnownFile& file) {
  std::vector<std::string> urls;
  const char* mirror = std::getenv("SKIPWAY_MIRROR");
  if (mirror && *mirror) {
    std::string url = mirror;
    if (!is_address(url)) {
      fail(ErrorKind::kUsage, "fetch",
           "expected an http:// or https:// address, got SKIPWAY_MIRROR={}; to use files of this "
           "machine, copy them into {}",
           url, data_directory().string());
    }
    if (!url.ends_with('/')) url += '/';
    urls.push_back(url + file.name);
  }
  urls.insert(urls.end(), file.urls.begin(), file.urls.end());
  return urls;
}

std::string_view name_of(HashKind kind) { return kind == HashKind::kMd5 ? "MD5" : "SHA-256"; }

// True when the file came and is right; else the reason is in `reason`.
bool fetch_from(const std::string& url, const KnownFile& file, const Part& part,
                const FetchOptions& options, std::string& reason) {
  bool is_anew = false;
  for (int attempts = kAttemptsPerMirror; attempts > 0;) {
    --attempts;
    const Outcome outcome = Transfer(file, url, part, options).run();
    // A connection may also break after the last byte.
    if (outcome.reason.empty() || (file.bytes > 0 && part.bytes() >= file.bytes)) {
      const std::string hash = hash_of_file(file.hash_kind, part.path());
      if (hash.starts_with(file.hash)) return true;
      part.remove();
      reason = fmt::format("{} is {}, which is another file", name_of(file.hash_kind), hash);
      // What was gone on with may have been another's.
      const bool is_mixed = outcome.went_on_from_part && !std::exchange(is_anew, true);
      attempts = is_mixed ? kAttemptsPerMirror : 0;
    } else {
      reason = outcome.reason;
      if (!outcome.ask_again) attempts = 0;
    }
    if (attempts > 0) log_info("{}: {}; asking again", url, reason);
  }
  return false;
}

}  // namespace

bool has_right_checksum(const fs::path& path, const KnownFile& file) {
  std::error_code code;
  return fs::is_regular_file(path, code) &&
         hash_of_file(file.hash_kind, path).starts_with(file.hash);
}

bool is_address(std::string_view text) {
  return text.starts_with("http://") || text.starts_with("https://");
}

void fetch_file(const KnownFile& file, const fs::path& target, const FetchOptions& options) {
  const std::vector<std::string> urls = mirrors_of(file);
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  make_directories(folder);
  const Part part(target);
  const Descriptor lock = lock_folder(folder);
  if (has_right_checksum(target, file)) return;
  // Everything had come when an earlier program was stopped.
  if (has_right_checksum(part.path(), file)) return part.publish(target);
  if (file.bytes > 0 && part.bytes() >= file.bytes) part.remove();  // nothing can follow

  // Libcurl wants one call before the first transfer of a process; a static makes it just one.
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (started != CURLE_OK) {
    fail(ErrorKind::kDevice, "fetch", "libcurl could not be started: {}",
         curl_easy_strerror(started));
  }
  std::string tried;
  for (const std::string& url : urls) {
    std::string reason;
    if (fetch_from(url, file, part, options, reason)) return part.publish(target);
    log_warning("{}: {}", url, reason);
    tried += fmt::format("\n  {}: {}", url, reason);
  }
  fail(ErrorKind::kData, "fetch",
       "could not download {} from any of {} addresses:{}\nTo put it there by hand: get {} ({} {}) "
       "elsewhere and save it as {}. SKIPWAY_MIRROR=URL names a mirror of your own.",
       file.name, urls.size(), tried, file.name, name_of(file.hash_kind), file.hash,
       target.string());
}

fs::path fetch_dataset(const KnownDataset& dataset, const FetchOptions& options) {
  const fs::path folder = data_directory() / dataset.folder;
  for (const KnownFile& file : dataset.files) fetch_file(file, folder / file.name, options);
  return folder;
}

}  // namespace skipway
