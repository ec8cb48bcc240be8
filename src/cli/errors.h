// What an exception of any kind says to a person: one of Skipway's own errors, with its exit code.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"

namespace skipway {

/// The exception that is being handled, in Skipway's terms: kDisk for the file system's, kMemory
/// where memory ran out, kInternal (a bug) for what nobody expected. To be called in a catch block.
Error current_error();

/// What stands at "error" of an object whose "ok" is false: kind, exit_code and message.
nlohmann::ordered_json error_json(const Error& error);

/// Prints the object that a command prints when all goes well; with a failure its "ok" is false,
/// and the failure stands at "error".
void print_json(nlohmann::ordered_json object, const std::optional<Error>& failure);

/// 0 without a failure.
int exit_code_of(const std::optional<Error>& failure);

}  // namespace skipway
