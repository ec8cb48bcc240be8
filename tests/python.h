// Runs Python, Debian's or another, for tests that compare with PyTorch. Not used by the program.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace skipway {

struct PythonResult {
  int exit_code = 0;
  std::string output;  // stdout and stderr, as they came
};

constexpr const char* kDebianPython = "/usr/bin/python3";

/// Runs `python arguments…` to its end.
PythonResult run_python(const std::vector<std::string>& arguments,
                        const std::string& python = kDebianPython);

/// `module` ("torch") is installed for `python`; for the default as Debian's package.
bool python_has_module(const std::string& module, const std::string& python = kDebianPython);

}  // namespace skipway
