// The bits of a row depend on its query, its keys and its values, and on nothing that stands beside them.
#include <fovea/engine/attend.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const auto streaming = fovea::softmax().mask(mask::causal() & (mask::window(30) | mask::prefix(3)));

// Batches [first, last), kv heads [from, to) with their query heads, and queries [begin, end).
template <class T>
Inputs<T> part(const Inputs<T>& x, fovea::Span batches, fovea::Span kv_heads, fovea::Span queries) {
  const Sizes s = x.sizes();
  const Index group = s.heads / s.kv_heads, b = batches.size(), g = kv_heads.size();
  Inputs<T> some{Tensor4<T>(b, g * group, queries.size(), s.dim), Tensor4<T>(b, g, s.keys, s.dim),
                 Tensor4<T>(b, g, s.keys, s.value_dim)};
  for (Index i = 0; i < b; ++i) {
    for (Index h = 0; h < g * group; ++h)
      std::copy_n(row(x.q, batches.first + i, kv_heads.first * group + h, queries.first), queries.size() * s.dim,
                  row(some.q, i, h, 0));
    for (Index h = 0; h < g; ++h) {
      std::copy_n(row(x.k, batches.first + i, kv_heads.first + h, 0), s.keys * s.dim, row(some.k, i, h, 0));
      std::copy_n(row(x.v, batches.first + i, kv_heads.first + h, 0), s.keys * s.value_dim, row(some.v, i, h, 0));
    }
  }
  return some;
}

template <class T>
void check_part(const Result<T>& some, const Result<T>& all, Index batch, Index first_head, Index first_query) {
  Index wrong = 0;
  const Index width = some.out.dimension(3);
  for (Index h = 0; h < some.out.dimension(1); ++h) {
    for (Index i = 0; i < some.out.dimension(2); ++i) {
      const bool same = std::equal(row(some.out, 0, h, i), row(some.out, 0, h, i) + width,
                                   row(all.out, batch, first_head + h, first_query + i)) &&
                        some.log_sum(0, h, i) == all.log_sum(batch, first_head + h, first_query + i);
      wrong += same ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

const std::vector<Sizes> shapes = {
    {3, 4, 2, 75, 90, 33, 15}, {3, 6, 2, 200, 200, 16, 33}, {5, 8, 2, 1, 1500, 64, 64}, {3, 4, 1, 3, 700, 33, 16}};

}  // namespace

TEMPLATE_TEST_CASE("a batch alone gives the bits it has among others", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto plain = attention(x, fovea::softmax()), masked = attention(x, streaming);
    for (Index b = 0; b < s.batch; ++b) {
      const auto alone = part(x, {b, b + 1}, {0, s.kv_heads}, {0, s.queries});
      check_part(attention(alone, fovea::softmax()), plain, b, 0, 0);
      check_part(attention(alone, streaming), masked, b, 0, 0);
    }
  }
}

TEMPLATE_TEST_CASE("a key head alone gives the bits it has among others", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto plain = attention(x, fovea::softmax()), masked = attention(x, streaming);
    for (Index g = 0; g < s.kv_heads; ++g) {
      const auto alone = part(x, {1, 2}, {g, g + 1}, {0, s.queries});
      check_part(attention(alone, fovea::softmax()), plain, 1, g * s.heads / s.kv_heads, 0);
      check_part(attention(alone, streaming), masked, 1, g * s.heads / s.kv_heads, 0);
    }
  }
}

TEMPLATE_TEST_CASE("some queries of many give the bits they have among all", "", float, double) {
  for (const Sizes& s : {Sizes{1, 2, 2, 500, 300, 33, 15}, Sizes{1, 4, 1, 300, 300, 64, 64}}) {
    const auto x = gaussian<TestType>(s);
    const auto all = attention(x, fovea::softmax()), capped = attention(x, fovea::softmax().score(score::soft_cap(3)));
    for (const fovea::Span queries : {fovea::Span{0, 100}, {1, 101}, {37, 237}, {200, 300}, {235, 299}}) {
      INFO(s << ", queries " << queries.first << " to " << queries.last);
      const auto some = part(x, {0, 1}, {0, s.kv_heads}, queries);
      check_part(attention(some, fovea::softmax()), all, 0, 0, queries.first);
      check_part(attention(some, fovea::softmax().score(score::soft_cap(3))), capped, 0, 0, queries.first);
    }
  }
}

TEMPLATE_TEST_CASE("the last queries of a causal call give the bits they have among all", "", float, double) {
  const Sizes s{1, 2, 1, 400, 400, 33, 15};
  const auto x = gaussian<TestType>(s);
  const auto recipe = fovea::softmax().mask(mask::causal()).score(score::alibi({0.125, 0.5}));
  const auto all = attention(x, recipe);
  for (const Index first : {1, 100, 250, 300}) {
    INFO("from query " << first);
    check_part(attention(part(x, {0, 1}, {0, 1}, {first, 400}), recipe), all, 0, 0, first);
  }
}

TEMPLATE_TEST_CASE("keys that no row sees, behind the last that one does, change no bit", "", float, double) {
  // A cache with room for more: the first keys of a longer array.
  for (const Sizes& s : {Sizes{1, 2, 1, 75, 200, 33, 15}, Sizes{1, 4, 2, 1, 1500, 33, 15}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto by_mask = attention(x, fovea::softmax().mask(mask::prefix(130)));
    auto k = fovea::view(x.k), v = fovea::view(x.v);
    k.length = v.length = 130;
    auto by_length = blank<TestType>(s);
    fovea::attend(x.q, k, v, by_length.both(), fovea::softmax());
    CHECK(same_bits(by_mask, by_length));
  }
}

TEMPLATE_TEST_CASE("a masked recipe gives the same bits on 1, 2, 3 and 8 threads", "", float, double) {
  const auto odd = [](Site at) { return (at.query + at.key) % 2 == 1; };
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    const std::vector<double> slopes(std::size_t(s.heads), 0.01), sinks(std::size_t(s.heads), 1.0);
    const auto recipe = fovea::softmax()
                            .mask(mask::causal() & mask::where(odd))
                            .score(score::alibi(slopes))
                            .score(score::soft_cap(4))
                            .sink_logits(sinks);
    const auto serial = attention(x, recipe);
    for (const Index threads : {1, 2, 3, 8}) {
      INFO(s << ", " << threads << " threads");
      CHECK(same_bits(attention(x, recipe, fovea::exec::Pool(threads)), serial));
    }
  }
}

TEMPLATE_TEST_CASE("a call repeated gives the same bits", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(attention(x, streaming), attention(x, streaming)));
  }
}
