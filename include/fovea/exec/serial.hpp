// The default executor: the calling thread.
#pragma once

#include <fovea/exec/executor.hpp>

namespace fovea::inline FOVEA_ISA::exec {

struct Serial {
  static constexpr Index concurrency() { return 1; }

  template <class F>
  void parallel_for(Index count, double /*flops*/, F&& f) const {
    if (count > 0) f(Index{0}, count);
  }
};

}  // namespace fovea::inline FOVEA_ISA::exec
