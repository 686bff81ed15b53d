// How much memory a call takes.
#pragma once

#include <functional>
#include <optional>

namespace bench {

// Runs the call; the most bytes that were in use at one time beyond those that were before, by all threads, whoever
// asked for them (operator new, malloc, Eigen). Of each allocation the bytes that can be used count, a few more than
// were asked for. The stack does not count. Nothing where it cannot be known: with another C library than glibc, and
// under the sanitizers.
std::optional<double> peak_memory(const std::function<void()>& call);

}  // namespace bench
