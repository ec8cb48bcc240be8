#include "cli/errors.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <array>
#include <exception>
#include <filesystem>
#include <string_view>

#include "cli/terminal.h"
#include "train/memory.h"

namespace skipway {
namespace {

Error memory_error(std::string_view what) {
  return Error(
      ErrorKind::kMemory,
      fmt::format(
          "[memory] expected enough memory, got: {}; a smaller --batch or --image-size needs less",
          what));
}

Error bug(std::string_view what) {
  return Error(ErrorKind::kInternal,
               fmt::format("[internal] {}\nThis is a bug in Skipway. Please report it with the "
                           "command and the output of `skipway doctor --json`.",
                           what));
}

std::string_view opening_line(std::string_view text) { return text.substr(0, text.find('\n')); }

}  // namespace

nlohmann::ordered_json error_json(const Error& error) {
  static constexpr std::array<std::string_view, 9> kKinds = {
      // by exit code, from 1
      "internal", "usage", "data", "device", "memory", "diverged", "checkpoint", "check", "disk"};
  return {{"kind", kKinds.at(static_cast<size_t>(error.kind()) - 1)},
          {"exit_code", error.exit_code()},
          {"message", error.what()}};
}

void print_json(nlohmann::ordered_json object, const std::optional<Error>& failure) {
  object["ok"] = !failure;
  if (failure) object["error"] = error_json(*failure);
  print_json(object);
}

int exit_code_of(const std::optional<Error>& failure) { return failure ? failure->exit_code() : 0; }

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::filesystem::filesystem_error& error) {
    return Error(ErrorKind::kDisk, fmt::format("[files] {}", error.what()));
  } catch (const c10::Error& error) {
    const auto memory = out_of_memory();
    return memory ? memory_error(*memory) : bug(opening_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    const auto memory = out_of_memory();
    return memory ? memory_error(*memory) : bug(error.what());
  }
}

}  // namespace skipway
