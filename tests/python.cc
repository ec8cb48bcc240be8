#include "python.h"

#include <sys/wait.h>

#include <cstdio>
#include <stdexcept>

#include "base/files.h"

namespace skipway {

PythonResult run_python(const std::vector<std::string>& arguments, const std::string& python) {
  // -I: not the modules of the user or of the folder that the test runs in.
  std::string command = shell_quoted(python) + " -I";
  for (const std::string& argument : arguments) command += " " + shell_quoted(argument);
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("could not start " + command);
  PythonResult result;
  char buffer[4096];
  for (size_t count; (count = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    result.output.append(buffer, count);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

bool python_has_module(const std::string& module, const std::string& python) {
  const std::string script =
      "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)";
  return run_python({"-c", script, module}, python).exit_code == 0;
}

}  // namespace skipway
