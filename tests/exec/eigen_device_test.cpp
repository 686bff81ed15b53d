#ifndef EIGEN_USE_THREADS
#define EIGEN_USE_THREADS
#endif
#include "support/catch.hpp"

#include <atomic>
#include <fovea/exec/eigen_device.hpp>
#include <functional>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

using fovea::Index;

namespace {

// A user's own thread pool with the signature of Eigen's: it remembers what it was told.
struct WithCost {
  mutable double flops = -1;

  void parallelFor(Eigen::Index count, const Eigen::TensorOpCost& cost,
                   std::function<void(Eigen::Index, Eigen::Index)> f) const {
    flops = cost.compute_cycles();
    for (Eigen::Index i = 0; i < count; ++i) f(i, i + 1);
  }
  int numThreads() const { return 6; }
};

// One without the cost, and without the number of its threads.
struct WithoutCost {
  template <class F>
  void parallelFor(Eigen::Index count, const F& f) const {
    const Eigen::Index half = count / 2;
    if (half > 0) f(0, half);
    if (half < count) f(half, count);
  }
};

template <class Exec>
int not_hit_once(const Exec& executor, Index count) {
  std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
  executor.parallel_for(count, 1e6, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) ++hits[std::size_t(i)];
  });
  int wrong = 0;
  for (const auto& n : hits) wrong += n.load() != 1;
  return wrong;
}

}  // namespace

TEST_CASE("on a ThreadPoolDevice every item is run exactly once", "[exec][eigen_device]") {
  for (const int threads : {1, 2, 3, 8}) {
    Eigen::ThreadPool pool(threads);
    const Eigen::ThreadPoolDevice device(&pool, threads);
    for (const Index count : {0, 1, 2, 7, 1000}) {
      CAPTURE(threads, count);
      CHECK(not_hit_once(fovea::exec::on(device), count) == 0);
    }
  }
}

TEST_CASE("a ThreadPoolDevice says how many threads it has", "[exec][eigen_device]") {
  Eigen::ThreadPool pool(3);
  const Eigen::ThreadPoolDevice device(&pool, 3);
  CHECK(fovea::exec::Executor<decltype(fovea::exec::on(device))>);
  CHECK(fovea::exec::concurrency(fovea::exec::on(device)) == 3);
}

TEST_CASE("a user's device with a cost is told the flops of an item", "[exec][eigen_device]") {
  const WithCost device;
  const auto executor = fovea::exec::on(device);
  CHECK(not_hit_once(executor, 7) == 0);
  CHECK(device.flops == 1e6);
  CHECK(fovea::exec::concurrency(executor) == 6);
}

TEST_CASE("a user's device without a cost is an executor as well", "[exec][eigen_device]") {
  const WithoutCost device;
  const auto executor = fovea::exec::on(device);
  CHECK(fovea::exec::Executor<decltype(executor)>);
  for (const Index count : {0, 1, 2, 7, 1000}) {
    CAPTURE(count);
    CHECK(not_hit_once(executor, count) == 0);
  }
}

TEST_CASE("a device that does not say how many threads it has counts as the machine", "[exec][eigen_device]") {
  const WithoutCost device;
  const Index machine = Index(std::thread::hardware_concurrency());
  CHECK(fovea::exec::concurrency(fovea::exec::on(device)) == (machine > 0 ? machine : 1));
}
