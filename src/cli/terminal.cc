// What a person sees: writes to the two standard streams. Not a log; see base/log.h.
#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace skipway {
namespace {

// Carriage return, then erase to the end of the line (ECMA-48 EL).
constexpr std::string_view kEraseLine = "\r\x1b[K";

struct Status {
  std::mutex mutex;
  std::string line;  // what stands at the foot of the terminal, cut to its width; empty: nothing
  std::atomic<bool> is_quiet = false;
};

// The terminal is one, so is its last line.
Status& status() {
  static Status instance;
  return instance;
}

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

bool equals(const char* variable, std::string_view value) {
  return is_set(variable) && std::getenv(variable) == value;
}

// A reader that went away must not stop a training run, so errors on stderr are left alone.
void write_stderr(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

void write_stdout(std::string_view line) {
  std::lock_guard lock(status().mutex);
  const bool is_terminal = isatty(STDOUT_FILENO) == 1;
  const bool shares_terminal = is_terminal && !status().line.empty();
  if (shares_terminal) write_stderr(kEraseLine);
  // styled() looks at stderr alone.
  const std::string text = (is_terminal ? printable(line) : without_style(line)) + '\n';
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail(ErrorKind::kDisk, "terminal", "expected to write to standard output, got '{}'",
         std::strerror(errno));
  if (shares_terminal) write_stderr(status().line);
}

// The longest start of `line` that takes `columns` columns, one for each UTF-8 character. Colour
// sequences take none.
std::string cut(std::string_view line, int columns) {
  int used = 0;
  bool in_escape = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const auto byte = static_cast<unsigned char>(line[i]);
    if (in_escape) {
      in_escape = byte != 'm';
    } else if (byte == 0x1b) {
      in_escape = true;
    } else if ((byte & 0xc0) != 0x80 && ++used > columns) {
      // Ends a colour that the cut would leave open.
      const std::string_view reset = line.find('\x1b') < i ? "\x1b[0m" : "";
      return fmt::format("{}{}", line.substr(0, i), reset);
    }
  }
  return std::string(line);
}

// Of UTF-8, one for each character.
int columns_of(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

bool is_interactive() {
  const bool in_ci = is_set("CI") && !equals("CI", "false") && !equals("CI", "0");
  return isatty(STDERR_FILENO) == 1 && !equals("TERM", "dumb") && !in_ci;
}

bool has_colour() { return is_interactive() && !is_set("NO_COLOR"); }

int terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

void print_line(std::string_view line) {
  std::lock_guard lock(status().mutex);
  const std::string_view erase = status().line.empty() ? std::string_view() : kEraseLine;
  write_stderr(fmt::format("{}{}\n{}", erase, printable(line), status().line));
}

void print_result(std::string_view line) { write_stdout(line); }

void print_json(const nlohmann::ordered_json& object) {
  // Names of files need not be UTF-8; JSON must be.
  write_stdout(object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

void set_quiet(bool quiet) { status().is_quiet = quiet; }

bool is_quiet() { return status().is_quiet; }

void show_status(std::string_view line) {
  if (is_quiet() || !is_interactive()) return;
  std::lock_guard lock(status().mutex);
  // The last column stays free: a character there makes some terminals begin a new line.
  status().line = cut(printable(line), terminal_columns() - 1);
  write_stderr(fmt::format("{}{}", kEraseLine, status().line));
}

void clear_status() {
  std::lock_guard lock(status().mutex);
  if (!status().line.empty()) write_stderr(kEraseLine);
  status().line.clear();
}

std::string with_bar(std::string_view before, double share, std::string_view after, int columns) {
  // Of the rest one column is for the space behind the bar, and the last stays free.
  const std::string text = fmt::format("{} {}", before, after);
  const int width = std::clamp(columns - 2 - columns_of(text), 0, 24);
  if (width == 0) return text;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * width);
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "━" : "┄";
  return fmt::format("{} {} {}", before, bar, after);
}

std::string styled(std::string_view text, std::string_view style) {
  static constexpr std::array<std::pair<std::string_view, int>, 5> kCodes = {
      {{"bold", 1}, {"dim", 2}, {"green", 32}, {"yellow", 33}, {"red", 31}}};
  if (has_colour())
    for (const auto& [name, code] : kCodes)
      if (name == style) return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
  return std::string(text);
}

// Of the colour sequence that begins `text`; 0 where none does.
size_t style_length(std::string_view text) {
  if (!text.starts_with("\x1b[")) return 0;
  const size_t end = text.find_first_not_of("0123456789;", 2);
  return end == std::string_view::npos || text[end] != 'm' ? 0 : end + 1;
}

std::string printable(std::string_view text) {
  std::string kept;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (const size_t length = style_length(text.substr(i))) {
      kept += text.substr(i, length);
      i += length - 1;
    } else if ((byte >= 0x20 && byte != 0x7f) || byte == '\n' || byte == '\t') {
      kept += text[i];
    }
  }
  return kept;
}

std::string without_style(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (const size_t length = style_length(text.substr(i)))
      i += length - 1;
    else
      plain += text[i];
  }
  return plain;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-:--";
  const auto total = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = total / 3600, minutes = total / 60 % 60, rest = total % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest)
                   : fmt::format("{}:{:02}", minutes, rest);
}

std::string format_bytes(double bytes) {
  static constexpr std::array<std::string_view, 6> kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  // 999.5 and not 1000, so that nothing is rounded to "1000 kB".
  for (; std::abs(bytes) >= 999.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1000;
  const int decimals = unit > 0 && std::abs(bytes) < 9.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", bytes, decimals, kUnits[unit]);
}

}  // namespace skipway
