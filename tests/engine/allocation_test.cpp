// Calls that come again and again allocate nothing once a workspace knows what they want.
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/allocations.hpp"
#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
namespace mask = fovea::mask;

TEST_CASE("decoding and prefill allocate nothing in the steady state") {
  const auto recipe = fovea::softmax().mask(mask::causal() & mask::window(900));
  for (const Index queries : {Index{1}, Index{4}, Index{40}}) {
    const Sizes s{3, 4, 2, queries, 1300, 24, 24};
    const auto x = gaussian<float>(s);
    auto got = blank<float>(s);
    std::vector<Index> lengths = {700, 900, 1100};
    fovea::Workspace workspace;
    const auto executor = fovea::exec::reuse(workspace);
    const auto step = [&] {
      for (Index& length : lengths) ++length;
      fovea::attend(x.q, fovea::kv::contiguous(x.k, x.v, lengths), got.both(), recipe, executor);
    };
    long before = allocations;
    step();
    const long first = allocations - before;
    CHECK(first > 0);  // the counter counts
    step();
    before = allocations;
    for (int i = 0; i < 8; ++i) step();
    const long more = allocations - before;
    INFO("queries " << queries);
    CHECK(more == 0);
  }
}

TEST_CASE("a workspace gives and takes back in any order and moves") {
  fovea::Workspace workspace;
  for (int round = 0; round < 3; ++round) {
    void* const a = workspace.take(100);
    void* const b = workspace.take(5000);
    void* const c = workspace.take(1);
    CHECK(reinterpret_cast<std::uintptr_t>(b) % fovea::scratch_alignment == 0);
    std::memset(a, 1, 100);
    std::memset(b, 2, 5000);
    std::memset(c, 3, 1);
    CHECK(static_cast<unsigned char*>(a)[99] == 1);
    CHECK(static_cast<unsigned char*>(b)[4999] == 2);
    workspace.give(a);
    workspace.give(c);
    void* const d = workspace.take(50);
    std::memset(d, 4, 50);
    CHECK(static_cast<unsigned char*>(b)[0] == 2);
    workspace.give(b);
    workspace.give(d);
  }
  const std::size_t size = workspace.size();
  CHECK(size >= 5000);
  fovea::Workspace other = std::move(workspace);
  CHECK(other.size() == size);
  CHECK(workspace.size() == 0);
}
