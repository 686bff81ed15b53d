// What this machine can do at best, measured by plain loops of the same compiler, flags and threads as the kernels.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include <fovea/exec/pool.hpp>

namespace bench {

// Seconds of single calls, sorted. One during which other programs took the core more than ten times a second is set
// aside, and counts only where there is no other.
struct Times {
  std::vector<double> calls;
  double undisturbed = 0;  // share of the calls

  double median() const { return 0.5 * (calls[(calls.size() - 1) / 2] + calls[calls.size() / 2]); }
};

// Calls until the time is spent, `least` times at least.
Times time_calls(const std::function<void()>& call, double seconds, std::size_t least = 1);

// Memory that a bandwidth is measured over.
struct Bytes {
  const void* data = nullptr;
  std::size_t size = 0;
};

// Independent fused multiply-adds in registers (two operations each; multiply and add where the instruction set has no
// fused form), summed over the threads: operations per second.
template <class T>
double arithmetic_rate(const fovea::exec::Pool& pool, double seconds);

// Vector loads over the areas, each cut into one part a thread: bytes per second.
double read_rate(const fovea::exec::Pool& pool, const std::vector<Bytes>& areas, double seconds);

}  // namespace bench
