// Runs Debian's Python for tests that compare with PyTorch. Not used by the program.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace skipway {

struct PythonResult {
  int exit_code = 0;
  std::string output;  // stdout and stderr, as they came
};

/// Runs `/usr/bin/python3 arguments…` to its end.
PythonResult run_python(const std::vector<std::string>& arguments);

/// Debian's package for `module` ("torch") is installed for /usr/bin/python3.
bool python_has_module(const std::string& module);

}  // namespace skipway
