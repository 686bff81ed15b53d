#include "support/catch.hpp"

#include <fovea/exec/serial.hpp>
#include <thread>
#include <vector>

using fovea::Index;

TEST_CASE("Serial is an executor with one worker", "[exec][serial]") {
  CHECK(fovea::exec::Executor<fovea::exec::Serial>);
  CHECK(fovea::exec::concurrency(fovea::exec::Serial{}) == 1);
}

TEST_CASE("Serial covers [0, count) exactly once on the calling thread", "[exec][serial]") {
  for (const Index count : {0, 1, 2, 7, 1000}) {
    std::vector<int> hits(std::size_t(count), 0);
    int elsewhere = 0, empty = 0, wrong = 0;
    fovea::exec::Serial{}.parallel_for(count, 1e6, [&, caller = std::this_thread::get_id()](Index begin, Index end) {
      elsewhere += std::this_thread::get_id() != caller;
      empty += begin >= end;
      for (Index i = begin; i < end; ++i) ++hits[std::size_t(i)];
    });
    for (const int n : hits) wrong += n != 1;
    CAPTURE(count);
    CHECK(elsewhere == 0);
    CHECK(empty == 0);
    CHECK(wrong == 0);
  }
}
