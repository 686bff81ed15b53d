// What this machine can do at best, measured by plain loops of the same compiler, flags and threads as the kernels.
#pragma once

#include <cstddef>
#include <vector>

#include <fovea/exec/pool.hpp>

namespace bench {

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
