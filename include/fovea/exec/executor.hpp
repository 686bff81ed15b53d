// The Executor concept: who runs the work items of a call.
//
//   executor.parallel_for(count, flops, f)
//
// calls f(begin, end) for ranges that together cover [0, count) exactly once and returns when all are done. `flops` is
// the rough cost of one item, a hint. f is never nested and never throws. Results never depend on how the ranges are
// cut.
#pragma once

#include <concepts>
#include <thread>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::exec {

namespace detail {
struct AnyRange {
  void operator()(Index, Index) const {}
};
}  // namespace detail

template <class E>
concept Executor = requires(const E& executor) {
  executor.parallel_for(Index{}, double{}, detail::AnyRange{});
};

// How many ranges may run at the same time: what the executor says, else what the machine has.
template <Executor E>
Index concurrency(const E& executor) {
  if constexpr (requires {
                  { executor.concurrency() } -> std::convertible_to<Index>;
                }) {
    return executor.concurrency();
  } else {
    return std::thread::hardware_concurrency() > 0 ? Index(std::thread::hardware_concurrency()) : Index{1};
  }
}

}  // namespace fovea::inline FOVEA_ISA::exec
