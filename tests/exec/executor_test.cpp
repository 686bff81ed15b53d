#include "support/catch.hpp"

#include <fovea/exec/executor.hpp>
#include <thread>

using fovea::Index;

namespace {

struct Silent {
  template <class F>
  void parallel_for(Index count, double, F&& f) const {
    f(Index{0}, count);
  }
};

struct Five : Silent {
  int concurrency() const { return 5; }
};

struct NoExecutor {
  void run() const {}
};

}  // namespace

TEST_CASE("anything with parallel_for is an executor", "[exec][executor]") {
  CHECK(fovea::exec::Executor<Silent>);
  CHECK(fovea::exec::Executor<Five>);
  CHECK_FALSE(fovea::exec::Executor<NoExecutor>);
  CHECK_FALSE(fovea::exec::Executor<int>);
}

TEST_CASE("concurrency is what the executor says", "[exec][executor]") { CHECK(fovea::exec::concurrency(Five{}) == 5); }

TEST_CASE("concurrency of an executor that does not say is that of the machine", "[exec][executor]") {
  const Index machine = Index(std::thread::hardware_concurrency());
  CHECK(fovea::exec::concurrency(Silent{}) == (machine > 0 ? machine : 1));
}
