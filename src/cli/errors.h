// What an exception of any kind says to a person: one of Skipway's own errors, with its exit code.
#pragma once
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace skipway {

/// The exception that is being handled, in Skipway's terms: kDisk for the file system's, kMemory
/// where memory ran out, kInternal (a bug) for what nobody expected. To be called in a catch block.
Error current_error();

/// What stands at "error" of an object whose "ok" is false: kind, exit_code and message.
nlohmann::ordered_json error_json(const Error& error);

}  // namespace skipway
