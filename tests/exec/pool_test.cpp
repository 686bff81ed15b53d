#include "support/catch.hpp"

#include <atomic>
#include <fovea/exec/pool.hpp>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::exec::Pool;

TEST_CASE("a Pool is an executor with the threads it was asked for", "[exec][pool]") {
  CHECK(fovea::exec::Executor<Pool>);
  for (const Index threads : {1, 2, 3, 8}) CHECK(fovea::exec::concurrency(Pool(threads)) == threads);
}

TEST_CASE("a Pool covers [0, count) exactly once", "[exec][pool]") {
  for (const Index threads : {1, 2, 3, 8}) {
    const Pool pool(threads);
    for (const Index count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
      std::atomic<int> empty{0}, ranges{0};
      pool.parallel_for(count, 1e6, [&](Index begin, Index end) {
        ++ranges;
        empty += begin >= end;
        for (Index i = begin; i < end; ++i) ++hits[std::size_t(i)];
      });
      int wrong = 0;
      for (const auto& n : hits) wrong += n.load() != 1;
      CAPTURE(threads, count);
      CHECK(wrong == 0);
      CHECK(empty.load() == 0);
      CHECK(ranges.load() <= threads);
    }
  }
}

TEST_CASE("what a Pool wrote is seen by the caller, call after call", "[exec][pool]") {
  const Pool pool(3);
  std::vector<Index> numbers(50);  // not atomic: parallel_for must order the writes before its return
  int wrong = 0;
  for (Index round = 1; round <= 2000; ++round) {
    pool.parallel_for(50, 1e3, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) numbers[std::size_t(i)] += i;
    });
    for (Index i = 0; i < 50; ++i) wrong += numbers[std::size_t(i)] != round * i;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a Pool gives every worker a share", "[exec][pool]") {
  // Each range waits until all have begun, which ends only when they run at the same time.
  const Pool pool(3);
  std::atomic<int> begun{0};
  std::mutex lock;
  std::set<std::thread::id> threads;
  pool.parallel_for(3, 1e6, [&](Index, Index) {
    ++begun;
    while (begun.load() < 3) std::this_thread::yield();
    const std::lock_guard guard(lock);
    threads.insert(std::this_thread::get_id());
  });
  CHECK(threads.size() == 3);
  CHECK(threads.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("shares of a Pool differ by one item at most", "[exec][pool]") {
  const Pool pool(8);
  std::mutex lock;
  std::vector<Index> sizes;
  pool.parallel_for(1001, 1e6, [&](Index begin, Index end) {
    const std::lock_guard guard(lock);
    sizes.push_back(end - begin);
  });
  CHECK(sizes.size() == 8);
  for (const Index size : sizes) CHECK((size == 125 || size == 126));
}

TEST_CASE("a Pool of no or of negative threads is refused", "[exec][pool]") {
  CHECK(support::refusal([] { Pool pool(0); }) == "fovea::exec::Pool: threads must be between 1 and 4096, got 0");
  CHECK(support::refusal([] { Pool pool(-2); }) == "fovea::exec::Pool: threads must be between 1 and 4096, got -2");
}

TEST_CASE("a Pool of absurdly many threads is refused", "[exec][pool]") {
  CHECK(support::refusal([] { Pool pool(Index{1} << 32); }) ==
        "fovea::exec::Pool: threads must be between 1 and 4096, got 4294967296");
}
