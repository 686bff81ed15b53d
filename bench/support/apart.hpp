// Jobs in processes of their own, so that one that crashes takes nothing with it.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace bench {

// What a job left: the text that it returned, or why it did not return.
struct Left {
  std::string text, failure;
  bool crashed = false;
};

// A job and its name, which is printed when it crashes.
struct Job {
  std::string name;
  std::function<std::string()> run;
};

// Runs the jobs, as many at a time as asked for, in copies of this process; no thread may run in it.
std::vector<Left> run_apart(const std::vector<Job>& jobs, std::size_t at_once);

bool none_crashed(const std::vector<Left>& all);

// Text as a JSON string.
std::string quoted(const std::string& text);

}  // namespace bench
