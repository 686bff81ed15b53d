#include "apart.hpp"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <system_error>

namespace bench {
namespace {

struct Child {
  std::size_t job;
  pid_t process;
  int from;          // what it writes
  std::string text;  // of it so far; the first letter says whether it is a failure
};

[[noreturn]] void be_child(const std::function<std::string()>& job, int to) {
  std::string text;
  try {
    text = "+" + job();
  } catch (const std::exception& error) {
    text = std::string("-") + error.what();
  }
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = write(to, text.data() + at, text.size() - at);
    if (written < 0 && errno != EINTR) _exit(1);
    at += std::size_t(std::max<ssize_t>(written, 0));
  }
  _exit(0);
}

Child start(std::size_t number, const std::function<std::string()>& job) {
  std::array<int, 2> ends;
  if (pipe(ends.data()) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  std::fflush(nullptr);
  const pid_t process = fork();
  if (process < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (process == 0) {
    close(ends[0]);
    be_child(job, ends[1]);
  }
  close(ends[1]);
  return {number, process, ends[0], {}};
}

// Reads what is there; false when there will be no more.
bool read_some(Child& child) {
  std::array<char, 1 << 12> buffer;
  const ssize_t got = read(child.from, buffer.data(), buffer.size());
  if (got < 0 && errno == EINTR) return true;
  if (got > 0) child.text.append(buffer.data(), std::size_t(got));
  return got > 0;
}

Left finish(const Child& child) {
  close(child.from);
  int status = 0;
  while (waitpid(child.process, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) return {{}, std::string("crashed: ") + strsignal(WTERMSIG(status)), true};
  if (status != 0 || child.text.empty()) return {{}, "ended with status " + std::to_string(WEXITSTATUS(status)), true};
  const bool failed = child.text.front() == '-';
  return {failed ? "" : child.text.substr(1), failed ? child.text.substr(1) : "", false};
}

}  // namespace

std::vector<Left> run_apart(const std::vector<Job>& jobs, std::size_t at_once) {
  std::vector<Left> left(jobs.size());
  std::vector<Child> running;
  for (std::size_t next = 0; next < jobs.size() || !running.empty();) {
    while (next < jobs.size() && running.size() < std::max<std::size_t>(1, at_once)) {
      running.push_back(start(next, jobs[next].run));
      ++next;
    }
    std::vector<pollfd> ends;
    for (const Child& child : running) ends.push_back({child.from, POLLIN, 0});
    poll(ends.data(), nfds_t(ends.size()), -1);
    for (std::size_t i = ends.size(); i-- > 0;) {
      if (ends[i].revents == 0 || read_some(running[i])) continue;
      Left& of_job = left[running[i].job] = finish(running[i]);
      if (of_job.crashed) {
        std::fprintf(stderr, "%s %s\n", jobs[running[i].job].name.c_str(), of_job.failure.c_str());
      }
      running.erase(running.begin() + std::ptrdiff_t(i));
    }
  }
  return left;
}

bool none_crashed(const std::vector<Left>& all) {
  return std::none_of(all.begin(), all.end(), [](const Left& left) { return left.crashed; });
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      result += ' ';
    } else {
      result += c;
    }
  }
  return result + "\"";
}

}  // namespace bench
