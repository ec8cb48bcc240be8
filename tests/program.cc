// Starting the program in a child process, by pipes or in a pseudo-terminal. Not what is expected
// of it.
#include "program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace skipway {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail_to_start(const char* call) {
  throw std::runtime_error(fmt::format("{}: {}", call, std::strerror(errno)));
}

// In the child, after fork: only system calls.
[[noreturn]] void become_program(const std::vector<char*>& arguments,
                                 const std::vector<char*>& environment,
                                 const std::string& working_directory) {
  if (chdir(working_directory.c_str()) == 0)
    execve(SKIPWAY_PROGRAM, arguments.data(), environment.data());
  _exit(127);
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

struct Child {
  pid_t pid = -1;
  int out = -1, err = -1;  // err: -1 in a terminal
};

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) fail_to_start("pipe2");
    read_end = ends[0];
    write_end = ends[1];
  }
};

Child start(const std::vector<std::string>& args, const ProgramOptions& options) {
  std::vector<std::string> argument_texts = {SKIPWAY_PROGRAM};
  argument_texts.insert(argument_texts.end(), args.begin(), args.end());
  const std::string folder = std::filesystem::absolute(options.working_directory).string();
  std::map<std::string, std::string> variables = options.environment;  // insert keeps what is there
  variables.insert({{"HOME", folder},
                    {"PATH", "/usr/bin:/bin"},
                    {"TERM", "xterm"},
                    {"OMP_NUM_THREADS", "1"},
                    {"GOMP_SPINCOUNT", "10000"}});
  if (const char* of_asan = std::getenv("ASAN_OPTIONS")) variables["ASAN_OPTIONS"] = of_asan;
  std::vector<std::string> variable_texts;
  for (const auto& [name, value] : variables) variable_texts.push_back(name + "=" + value);
  const std::vector<char*> arguments = pointers(argument_texts);
  const std::vector<char*> environment = pointers(variable_texts);

  Child child;
  if (options.terminal_columns) {
    winsize size{};
    size.ws_row = 24;
    size.ws_col = static_cast<unsigned short>(*options.terminal_columns);
    child.pid = forkpty(&child.out, nullptr, nullptr, &size);
    if (child.pid < 0) fail_to_start("forkpty");
    if (child.pid == 0) become_program(arguments, environment, folder);
    return child;
  }
  const Pipe in, out, err;
  child.pid = fork();
  if (child.pid < 0) fail_to_start("fork");
  if (child.pid == 0) {
    dup2(in.read_end, STDIN_FILENO);
    dup2(options.stdout_file.value_or(out.write_end), STDOUT_FILENO);
    dup2(err.write_end, STDERR_FILENO);
    for (const int stream : options.closed_streams) close(stream);
    for (const int ignored : options.ignored_signals) signal(ignored, SIG_IGN);
    become_program(arguments, environment, folder);
  }
  if (!options.input.empty() && write(in.write_end, options.input.data(), options.input.size()) < 0)
    fail_to_start("write");
  for (const int end : {in.read_end, in.write_end, out.write_end, err.write_end}) close(end);
  child.out = out.read_end;
  child.err = err.read_end;
  return child;
}

// Appends what is there; false at the end of the stream (EIO is how a closed terminal says it).
bool read_some(int file, std::string& text) {
  std::array<char, 65536> buffer;
  const ssize_t count = read(file, buffer.data(), buffer.size());
  if (count > 0) text.append(buffer.data(), static_cast<size_t>(count));
  return count > 0 || (count < 0 && errno == EINTR);
}

void collect(const Child& child, const ProgramOptions& options, ProgramResult& result) {
  const auto end = Clock::now() + std::chrono::seconds(kSanitized ? 540 : 120);
  std::array<pollfd, 2> files = {{{child.out, POLLIN, 0}, {child.err, POLLIN, 0}}};
  bool signalled = options.signal == 0;
  while (files[0].fd >= 0 || files[1].fd >= 0) {
    if (Clock::now() > end) kill(child.pid, SIGKILL);
    if (poll(files.data(), files.size(), 100) <= 0) continue;
    for (size_t i = 0; i < files.size(); ++i)
      if (files[i].fd >= 0 && files[i].revents != 0 &&
          !read_some(files[i].fd, i == 0 ? result.out : result.err))
        files[i].fd = -1;  // poll leaves it alone from now on
    const std::string& shown = child.err >= 0 ? result.err : result.out;
    if (!signalled && shown.find(options.signal_at_text) != std::string::npos) {
      signalled = true;
      if (options.before_signal) options.before_signal();
      for (int i = 0; i < options.signal_times; ++i) {
        if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        kill(child.pid, options.signal);
      }
    }
  }
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& args, const ProgramOptions& options) {
  const Child child = start(args, options);
  ProgramResult result;
  collect(child, options, result);
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  close(child.out);
  if (child.err >= 0) close(child.err);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return result;
}

}  // namespace skipway
