// Rings behind pinned tokens: the bits of the tokens that are left, in the order in which they came.
#include <fovea/parts/kv/ring.hpp>

#include <deque>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::softmax;
using fovea::Span;
namespace kv = fovea::kv;
namespace mask = fovea::mask;

namespace {

// By the definition: tokens that came one by one, the oldest behind the pinned ones leaves.
std::deque<Index> kept(Index seen, Index pinned, Index window) {
  std::deque<Index> tokens;
  for (Index t = 0; t < seen; ++t) {
    tokens.push_back(t);
    if (Index(tokens.size()) > pinned + window) tokens.erase(tokens.begin() + pinned);
  }
  return tokens;
}

}  // namespace

TEST_CASE("a ring is read in the order in which tokens came, in three runs at most", "[parts][kv]") {
  for (const Index pinned : {0, 1, 4}) {
    for (const Index ring : {1, 3, 8}) {
      for (Index window = 1; window <= ring; ++window) {
        const kv::RingOrder order{pinned, ring, window};
        std::vector<Index> slots(std::size_t(pinned + ring), -1);  // the token of each
        for (Index seen = 0; seen < 30; ++seen) {
          const auto tokens = kept(seen, pinned, window);
          CAPTURE(pinned, ring, window, seen);
          REQUIRE(order.length(seen) == Index(tokens.size()));
          for (Index first = 0; first <= order.length(seen); ++first) {
            for (Index last = first; last <= order.length(seen); ++last) {
              Index next = first, runs = 0;
              order.each_run(seen, {first, last}, [&](Span part, Index slot) {
                ++runs;
                REQUIRE((part.first == next && !part.empty() && part.last <= last));
                next = part.last;
                for (Index j = part.first; j < part.last; ++j)
                  REQUIRE(slots[std::size_t(slot + j - part.first)] == tokens[std::size_t(j)]);
              });
              REQUIRE(next == last);
              REQUIRE(runs <= 3);
            }
          }
          const Index slot = seen < pinned ? seen : pinned + (seen - pinned) % ring;
          slots[std::size_t(slot)] = seen;
        }
      }
    }
  }
}

TEST_CASE("a ring gives the bits of its tokens in one array, under masks as well", "[parts][kv]") {
  const Index slots = 300, pinned = 5;
  const auto recipe = softmax().mask(mask::causal() & (mask::window(200) | mask::prefix(3)));
  for (const Index queries : {1, 20}) {
    const std::vector<Index> seen{1000, 4, 0, 301, 595};
    auto x = gaussian<float>({5, 4, 2, queries, slots, 16, 8});
    auto got = blank<float>(x.sizes());
    fovea::attend(x.q, kv::ring(x.k, x.v, pinned, seen), got.both(), recipe);
    for (Index b = 0; b < 5; ++b) {
      const auto tokens = kept(seen[std::size_t(b)], pinned, slots - pinned);
      const Index count = Index(tokens.size());
      Inputs<float> own{x.q, Tensor4<float>(5, 2, count, 16), Tensor4<float>(5, 2, count, 8)};
      own.k.setZero();
      own.v.setZero();
      for (Index h = 0; h < 2; ++h) {
        for (Index j = 0; j < count; ++j) {
          const Index t = tokens[std::size_t(j)], slot = t < pinned ? t : pinned + (t - pinned) % (slots - pinned);
          std::copy_n(row(x.k, b, h, slot), 16, row(own.k, b, h, j));
          std::copy_n(row(x.v, b, h, slot), 8, row(own.v, b, h, j));
        }
      }
      const auto wanted = attention(own, recipe);
      for (Index h = 0; h < 4; ++h) {
        for (Index i = 0; i < queries; ++i) CHECK(same_row(got, wanted, b, h, i));
      }
    }
  }
}

TEST_CASE("one number of tokens serves all sequences, and storage types may differ", "[parts][kv]") {
  const Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor> k(2, 1, 9, 3);
  const Eigen::Tensor<double, 4, Eigen::RowMajor> v(2, 1, 9, 5);
  const auto source = kv::ring(k, v, 2, 12);
  CHECK(source.length(0) == 9);
  CHECK(source.length(1) == 9);
  std::vector<const double*> at;
  source.each_values(1, 0, {0, 9}, [&](Span part, const kv::Rows<double>& run) {
    for (Index j = 0; j < part.size(); ++j) at.push_back(run[j]);
  });
  CHECK(at.size() == 9);
  CHECK(at[1] == &v(1, 0, 1, 0));
  CHECK(at[2] == &v(1, 0, 5, 0));  // token 5, the oldest of the last seven
  CHECK(at[8] == &v(1, 0, 4, 0));
}

TEST_CASE("rings refuse what does not fit", "[parts][kv]") {
  const Tensor4<float> k(2, 2, 4, 3), v(2, 2, 4, 5);
  const auto said = [&](const Tensor4<float>& values, Index pinned, const std::vector<Index>& seen) {
    return support::refusal([&] { kv::ring(k, values, pinned, seen); });
  };
  CHECK(said(v, 3, {0, 100}) == "accepted");
  CHECK(said(v, 4, {0, 1}) == "fovea::kv::ring: there must be slots behind the pinned tokens, pinned are 4 of 4");
  CHECK(said(v, -1, {0, 1}) == "fovea::kv::ring: there must be slots behind the pinned tokens, pinned are -1 of 4");
  CHECK(said(v, 1, {0, -1}) == "fovea::kv::ring: numbers of tokens must not be negative, got -1");
  CHECK(said(v, 1, {0}) == "fovea::kv::ring: there must be one number of tokens for each sequence, wanted 2, got 1");
  CHECK(said(v, 1, {}) == "fovea::kv::ring: there must be one number of tokens for each sequence, wanted 2, got 0");
  CHECK(said(Tensor4<float>(2, 2, 5, 5), 1, {0, 1}) == "fovea::kv::ring: v must have the length of k, wanted 4, got 5");
  CHECK(said(Tensor4<float>(2, 1, 4, 5), 1, {0, 1}) == "fovea::kv::ring: v must have the heads of k, wanted 2, got 1");
  CHECK(said(Tensor4<float>(1, 2, 4, 5), 1, {0, 1}) == "fovea::kv::ring: v must have the batch of k, wanted 2, got 1");
  CHECK(support::refusal([&] { kv::ring(k, v, 1, -1); }) ==
        "fovea::kv::ring: numbers of tokens must not be negative, got -1");
}
