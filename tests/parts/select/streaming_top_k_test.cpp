// The streaming selector against Ranking: pieces of any length, any k, hard inputs.
#include <cmath>
#include <fovea/parts/select/ranking.hpp>
#include <fovea/parts/select/streaming_top_k.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::select::Ranking;
using fovea::select::StreamingTopK;
using List = std::vector<Index>;

namespace {

// A selector with memory of its own.
template <class T>
struct Owned {
  using Selector = StreamingTopK<T>;
  std::vector<T> scores;
  std::vector<typename Selector::Key> keys;
  Selector selector;

  Owned(Index k, Index most)
      : scores(std::size_t(Selector::room(k, most))),
        keys(scores.size()),
        selector(k, most, scores.data(), keys.data()) {
    selector.begin();
  }
};

template <class T>
List chosen_of(StreamingTopK<T>& selector, const std::vector<T>& x) {
  const auto chosen = selector.finish();
  for (Index i = 0; i < chosen.count; ++i) CHECK(chosen.scores[i] == x[std::size_t(chosen.keys[i])]);
  return {chosen.keys, chosen.keys + chosen.count};
}

template <class T>
List wanted_of(const std::vector<T>& x, Index k) {
  Ranking<T> ranking;
  const auto chosen = ranking.top_k(x.data(), Index(x.size()), k);
  return {chosen.begin(), chosen.end()};
}

template <class T>
std::vector<T> scores(int kind, Index n) {
  auto x = support::uniform<T>(unsigned(kind), n, -3, 3);
  for (Index i = 0; i < n; ++i) {
    T& s = x[std::size_t(i)];
    if (kind == 1) s = T(i);
    if (kind == 2) s = T(-i);
    if (kind == 3) s = std::round(s);
    if (kind == 4) s = T(1);
    if (kind == 5) s = i % 3 == 0 ? -std::numeric_limits<T>::infinity() : i % 7 == 0 ? support::nan<T> : s;
  }
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("scores may come in pieces of any length", "", float, double) {
  for (int kind = 0; kind < 6; ++kind) {
    const auto x = scores<TestType>(kind, 3000);
    for (const Index k : {1, 7, 100, 500, 2999, 4000}) {
      const auto wanted = wanted_of(x, k);
      for (const Index piece : {1, 13, 64, 3000}) {
        INFO("kind " << kind << " k " << k << " piece " << piece);
        Owned<TestType> row(k, 3000);
        for (Index j = 0; j < 3000; j += piece) row.selector.take(x.data() + j, std::min(piece, 3000 - j), j);
        CHECK(chosen_of(row.selector, x) == wanted);
      }
    }
  }
}

TEST_CASE("what is chosen of parts, chosen from again, is what is chosen of all") {
  for (int kind = 0; kind < 6; ++kind) {
    const auto x = scores<float>(kind, 2500);
    for (const Index k : {3, 150, 700}) {
      Owned<float> all(k, 2500);
      for (Index j = 0; j < 2500; j += 600) {
        const Index count = std::min<Index>(600, 2500 - j);
        Owned<float> part(k, count);
        part.selector.take(x.data() + j, count, j);
        all.selector.take(part.selector.finish());
      }
      CHECK(chosen_of(all.selector, x) == wanted_of(x, k));
    }
  }
}

TEST_CASE("a selector begins anew") {
  const auto a = scores<float>(0, 1000), b = scores<float>(3, 1000);
  Owned<float> row(40, 1000);
  row.selector.take(a.data(), 1000, 0);
  row.selector.finish();
  row.selector.begin();
  row.selector.take(b.data(), 1000, 0);
  CHECK(chosen_of(row.selector, b) == wanted_of(b, 40));
}
