// A pool of threads for programs that have none: Eigen's own non-blocking thread pool behind the Executor concept.
//
//   const fovea::exec::Pool pool(4);
//   fovea::scaled_dot_product(q, k, v, out, {}, pool);
//
// Make it once and keep it. One call at a time uses it; a call from inside one of its own threads is not allowed.
#pragma once

#if __has_include(<Eigen/ThreadPool>)
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>
#endif
#include <algorithm>
#include <memory>

#include <fovea/core/check.hpp>
#include <fovea/exec/executor.hpp>

namespace fovea::inline FOVEA_ISA::exec {

class Pool {
 public:
  // `threads` workers in all, the calling thread included.
  explicit Pool(Index threads) : threads_(threads) {
    check(threads > 0 && threads <= 4096, "fovea::exec::Pool", "threads must be between 1 and 4096, got ", threads);
    if (threads > 1) helpers_ = std::make_unique<Eigen::ThreadPool>(int(threads - 1));
  }

  Index concurrency() const { return threads_; }

  template <class F>
  void parallel_for(Index count, double /*flops*/, F&& f) const {
    const Index ranges = std::min(count, threads_);
    if (ranges <= 1) {
      if (count > 0) f(Index{0}, count);
      return;
    }
    Eigen::Barrier done(static_cast<unsigned>(ranges - 1));
    const auto edge = [&](Index r) { return count / ranges * r + std::min(r, count % ranges); };
    for (Index r = 1; r < ranges; ++r) {
      helpers_->Schedule([&f, &done, begin = edge(r), end = edge(r + 1)] {
        f(begin, end);
        done.Notify();
      });
    }
    f(Index{0}, edge(1));
    done.Wait();
  }

 private:
  Index threads_;
  std::unique_ptr<Eigen::ThreadPool> helpers_;
};

}  // namespace fovea::inline FOVEA_ISA::exec
