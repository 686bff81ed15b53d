// Which pieces are visited, against a look at each of them, and how many questions that takes.
#include <fovea/engine/visit.hpp>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using fovea::Index;
using fovea::mask::Cover;

namespace {

using Visited = std::vector<std::pair<Index, bool>>;

// Pieces [first, first + covers.size()), the range of all asked about by its parts.
Visited visit(Index first, const std::vector<Cover>& covers, int* questions = nullptr) {
  const auto cover = [&](Index from, Index to) {
    REQUIRE(first <= from);
    REQUIRE(from < to);
    REQUIRE(to <= first + Index(covers.size()));
    if (questions != nullptr) ++*questions;
    const auto begin = covers.begin() + (from - first), end = covers.begin() + (to - first);
    if (std::all_of(begin, end, [&](Cover c) { return c == *begin; })) return *begin;
    return Cover::part;
  };
  Visited visited;
  fovea::engine::visit_pieces(first, first + Index(covers.size()), cover,
                              [&](Index i, bool full) { visited.emplace_back(i, full); });
  return visited;
}

Visited wanted(Index first, const std::vector<Cover>& covers) {
  Visited pieces;
  for (std::size_t i = 0; i < covers.size(); ++i) {
    if (covers[i] != Cover::none) pieces.emplace_back(first + Index(i), covers[i] == Cover::full);
  }
  return pieces;
}

}  // namespace

TEST_CASE("every piece that shows something is visited, in order, and full when it is") {
  std::mt19937 random(1);
  for (int run = 0; run < 500; ++run) {
    const Index first = Index(random() % 5), count = Index(random() % 70);
    const unsigned kinds = 1 + random() % 3, length = 1 + random() % 9;
    std::vector<Cover> covers;
    while (Index(covers.size()) < count) {
      const Cover next = std::vector{Cover::none, Cover::full, Cover::part}[(random() % 3) % kinds];
      for (unsigned n = 0; n < length && Index(covers.size()) < count; ++n) covers.push_back(next);
    }
    CAPTURE(run, first, count, kinds, length);
    CHECK(visit(first, covers) == wanted(first, covers));
  }
}

TEST_CASE("nothing is asked about no pieces, and once about pieces that are alike") {
  int questions = 0;
  CHECK(visit(3, {}, &questions).empty());
  CHECK(questions == 0);
  CHECK(visit(0, std::vector<Cover>(1000, Cover::none), &questions).empty());
  CHECK(questions == 1);
  CHECK(visit(0, std::vector<Cover>(1000, Cover::full), &questions).size() == 1000);
  CHECK(questions == 2);
}

TEST_CASE("one piece among many takes two questions a halving") {
  std::vector<Cover> covers(1 << 16, Cover::none);
  covers[12345] = Cover::part;
  int questions = 0;
  CHECK(visit(0, covers, &questions) == Visited{{12345, false}});
  CHECK(questions <= 2 * 16 + 1);
}
