// Packed sequences of different lengths: one call with a document mask equals a loop over the sequences.
#include <fovea/engine/attend.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
namespace mask = fovea::mask;

namespace {

using Boundaries = std::vector<Index>;

template <class T>
Tensor4<T> tokens(const Tensor4<T>& x, Index first, Index last) {
  Tensor4<T> part(x.dimension(0), x.dimension(1), last - first, x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h)
      std::copy_n(row(x, b, h, first), part.dimension(2) * part.dimension(3), row(part, b, h, 0));
  }
  return part;
}

// The loop: every sequence alone, its result written where the packed call puts it.
template <class T, class Recipe>
Result<T> one_by_one(const Inputs<T>& x, const Boundaries& queries, const Boundaries& keys, const Recipe& recipe) {
  auto all = blank<T>(x.sizes());
  for (std::size_t d = 0; d + 1 < queries.size(); ++d) {
    const auto got = attention(Inputs<T>{tokens(x.q, queries[d], queries[d + 1]), tokens(x.k, keys[d], keys[d + 1]),
                                         tokens(x.v, keys[d], keys[d + 1])},
                               recipe);
    for (Index b = 0; b < x.q.dimension(0); ++b) {
      for (Index h = 0; h < x.q.dimension(1); ++h) {
        for (Index i = queries[d]; i < queries[d + 1]; ++i) {
          std::copy_n(row(got.out, b, h, i - queries[d]), x.v.dimension(3), row(all.out, b, h, i));
          all.log_sum(b, h, i) = got.log_sum(b, h, i - queries[d]);
        }
      }
    }
  }
  return all;
}

template <class T>
void check_equal(const Result<T>& got, const Result<T>& wanted) {
  CHECK(relative_rms(got.out, wanted.out) < 8 * epsilon<T>);
  CHECK(log_sum_distance(got.log_sum, wanted.log_sum) < 8 * epsilon<T>);
}

struct Packing {
  const char* name;
  Boundaries queries, keys;
};

const std::vector<Packing> packings = {
    {"self", {0, 1, 18, 82, 146, 200}, {0, 1, 18, 82, 146, 200}},
    {"more keys than queries", {0, 3, 4, 60, 64}, {0, 30, 41, 130, 300}},
    {"fewer keys than queries", {0, 30, 41, 130}, {0, 3, 4, 60}},
    {"a decode step of five sequences", {0, 1, 2, 3, 4, 5}, {0, 100, 101, 700, 900, 1000}},
    {"sequences without queries or keys", {0, 0, 9, 20, 20, 50, 50}, {0, 12, 12, 40, 90, 100, 100}},
};

}  // namespace

TEMPLATE_TEST_CASE("packed sequences equal a loop over them", "", float, double) {
  for (const Packing& p : packings) {
    INFO(p.name);
    const auto x = gaussian<TestType>({1, 4, 2, p.queries.back(), p.keys.back(), 33, 15});
    check_equal(attention(x, fovea::softmax().mask(mask::document(p.queries, p.keys))),
                one_by_one(x, p.queries, p.keys, fovea::softmax()));
  }
}

TEMPLATE_TEST_CASE("packed causal sequences line up one by one", "", float, double) {
  for (const Packing& p : packings) {
    INFO(p.name);
    const auto x = gaussian<TestType>({1, 4, 2, p.queries.back(), p.keys.back(), 33, 15});
    check_equal(attention(x, fovea::softmax().mask(mask::document(p.queries, p.keys, mask::causal()))),
                one_by_one(x, p.queries, p.keys, fovea::softmax().mask(mask::causal())));
  }
}

TEMPLATE_TEST_CASE("packed windows count inside their sequence", "", float, double) {
  for (const Packing& p : packings) {
    INFO(p.name);
    const auto x = gaussian<TestType>({1, 4, 2, p.queries.back(), p.keys.back(), 33, 15});
    const auto inner = mask::causal() & mask::window(10);
    check_equal(attention(x, fovea::softmax().mask(mask::document(p.queries, p.keys, inner))),
                one_by_one(x, p.queries, p.keys, fovea::softmax().mask(inner)));
  }
}

TEMPLATE_TEST_CASE("one sequence is the plain call, bit for bit", "", float, double) {
  for (const Sizes& s : {Sizes{1, 4, 2, 90, 130, 33, 15}, Sizes{1, 4, 2, 1, 900, 33, 15}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(attention(x, fovea::softmax().mask(mask::document({0, s.queries}, {0, s.keys}, mask::causal()))),
                    attention(x, fovea::softmax().mask(mask::causal()))));
  }
}

TEMPLATE_TEST_CASE("sequences in another order come out in that order", "", float, double) {
  const Boundaries forth = {0, 20, 90, 100}, back = {0, 10, 80, 100};
  const auto x = gaussian<TestType>({1, 2, 2, 100, 100, 33, 15});
  const auto reorder = [&](const Tensor4<TestType>& t) {
    Tensor4<TestType> r(t.dimensions());
    for (Index h = 0; h < t.dimension(1); ++h) {
      Index to = 0;
      for (std::size_t d = 3; d-- > 0;) {
        for (Index i = forth[d]; i < forth[d + 1]; ++i)
          std::copy_n(row(t, 0, h, i), t.dimension(3), row(r, 0, h, to++));
      }
    }
    return r;
  };
  const auto got = attention(x, fovea::softmax().mask(mask::document(forth, mask::causal())));
  const auto turned = attention(Inputs<TestType>{reorder(x.q), reorder(x.k), reorder(x.v)},
                                fovea::softmax().mask(mask::document(back, mask::causal())));
  CHECK(relative_rms(turned.out, reorder(got.out)) < 8 * epsilon<TestType>);
}

TEMPLATE_TEST_CASE("what one sequence holds does not reach another", "", float, double) {
  const Boundaries cu = {0, 20, 90, 100};
  auto x = gaussian<TestType>({1, 2, 2, 100, 100, 33, 15});
  const auto recipe = fovea::softmax().mask(mask::document(cu, mask::causal()));
  const auto clean = attention(x, recipe);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 20; i < 90; ++i) {
      std::fill_n(row(x.q, 0, h, i), 33, not_a_number<TestType>);
      std::fill_n(row(x.k, 0, h, i), 33, not_a_number<TestType>);
      std::fill_n(row(x.v, 0, h, i), 15, not_a_number<TestType>);
    }
  }
  const auto got = attention(x, recipe);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 100; ++i) {
      INFO("head " << h << ", query " << i);
      if (i < 20 || i >= 90) {
        CHECK(same_row(got, clean, 0, h, i));
      } else {
        CHECK(all_nan(row(got.out, 0, h, i), 15));
      }
    }
  }
}
