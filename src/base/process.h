// What this process may use and has used: cores and memory; and a second one of the same program.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skipway {

/// Cores that the cpu.max of a control group (version 2) is worth, rounded up; none: there is no
/// limit, or no such folder.
std::optional<int64_t> cores_granted_by(const std::filesystem::path& control_group);

/// Cores that this process may run on, or is granted the time of; at least 1.
int64_t usable_cores();

/// The value after `key` and a separator in the first line of a file of the system that has it,
/// without quotes and spaces around it; "" where there is none.
std::string value_in_file(const char* path, std::string_view key, char separator);

/// As the system names it; "" where it does not.
std::string processor_name();

/// Of the machine, whatever this process may take of it [bytes].
int64_t physical_memory_bytes();

/// The largest resident set of this process so far [bytes].
int64_t peak_rss_bytes();

/// What the memory.max of a control group (version 2) leaves to take [bytes], files that the system
/// keeps in memory counted as free; none: there is no limit, or no such folder.
std::optional<int64_t> memory_left_in(const std::filesystem::path& control_group);

/// Memory that a process started now could take: what the machine has to give, or the limit of the
/// container or the shell [bytes].
int64_t available_memory_bytes();

/// From now on allocations fail, in this process and in each that it starts, beyond so many bytes a
/// process; without it Linux promises more than there is and ends the process that takes it.
void limit_memory(int64_t bytes);

struct Output {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string text;    // what it printed on stdout
};

/// Runs this program with `arguments`. Its stderr is lost. Nothing when it cannot be started.
std::optional<Output> output_of_self(const std::vector<std::string>& arguments);

}  // namespace skipway
