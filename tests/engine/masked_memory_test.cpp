// A key that a row does not see is as good as not there, whatever its memory holds; a NaN that a row sees spoils that
// row and no other.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/bias.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

enum class Where { keys, values, both };

template <class T>
Inputs<T> poisoned(Inputs<T> x, const std::vector<Index>& keys, T bad, Where where) {
  const Sizes s = x.sizes();
  for (Index b = 0; b < s.batch; ++b) {
    for (Index g = 0; g < s.kv_heads; ++g) {
      for (const Index j : keys) {
        if (where != Where::values) std::fill_n(row(x.k, b, g, j), s.dim, bad);
        if (where != Where::keys) std::fill_n(row(x.v, b, g, j), s.value_dim, bad);
      }
    }
  }
  return x;
}

// Poisons some keys and looks at every row: the bits of those that see none of them stay; those that see a NaN are NaN.
template <class T, class Recipe, class Visible>
void check_rows(const Sizes& s, const Recipe& recipe, Visible visible) {
  const auto x = gaussian<T>(s);
  const auto clean = attention(x, recipe);
  const std::vector<std::vector<Index>> sets = {
      {0}, {s.keys - 1}, {s.keys / 2}, {s.keys / 3, s.keys / 3 + 1, s.keys - 2}, {s.keys - 7, s.keys - 1}};
  for (const T bad : {not_a_number<T>, infinity<T>, -infinity<T>, std::numeric_limits<T>::max()}) {
    for (const Where where : {Where::keys, Where::values, Where::both}) {
      for (const auto& keys : sets) {
        INFO(s << ", key " << keys[0] << " of " << keys.size() << ", " << bad << " in "
               << (where == Where::keys     ? "k"
                   : where == Where::values ? "v"
                                            : "k and v"));
        const auto got = attention(poisoned(x, keys, bad, where), recipe);
        Index wrong_hidden = 0, wrong_seen = 0;
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h) {
            for (Index i = 0; i < s.queries; ++i) {
              const bool sees = std::any_of(keys.begin(), keys.end(), [&](Index j) {
                return visible(Site{b, h, i, j});
              });
              if (!sees) {
                wrong_hidden += same_row(got, clean, b, h, i) ? 0 : 1;
              } else if (std::isnan(bad)) {
                const bool values = all_nan(row(got.out, b, h, i), s.value_dim);
                const bool log_sum = where == Where::values ? got.log_sum(b, h, i) == clean.log_sum(b, h, i)
                                                            : std::isnan(got.log_sum(b, h, i));
                wrong_seen += values && log_sum ? 0 : 1;
              }
            }
          }
        }
        CHECK(wrong_hidden == 0);
        CHECK(wrong_seen == 0);
      }
    }
  }
}

// Prefill over several tiles, groups, decode.
const std::vector<Sizes> shapes = {
    {1, 2, 2, 75, 75, 17, 15}, {1, 6, 2, 40, 150, 16, 33}, {2, 4, 2, 1, 700, 16, 16}, {1, 4, 1, 3, 90, 33, 15}};

bool hashed(Site at) { return ((at.query * 7 + at.key * 13 + at.head * 5 + at.batch * 3) % 11) % 3 != 0; }

}  // namespace

TEMPLATE_TEST_CASE("keys hidden by causality", "", float, double) {
  for (const Sizes& s : shapes) {
    check_rows<TestType>(s, fovea::softmax().mask(mask::causal()),
                         [&](Site at) { return at.key <= at.query + s.keys - s.queries; });
  }
}

TEMPLATE_TEST_CASE("keys that top-left causality hides from every row", "", float, double) {
  for (const Sizes& s : {Sizes{1, 2, 2, 20, 150, 17, 15}, Sizes{1, 2, 2, 1, 700, 16, 16}}) {
    check_rows<TestType>(s, fovea::softmax().mask(mask::causal(fovea::Alignment::top_left)),
                         [](Site at) { return at.key <= at.query; });
  }
}

TEMPLATE_TEST_CASE("keys outside a window", "", float, double) {
  for (const Sizes& s : shapes) {
    check_rows<TestType>(s, fovea::softmax().mask(mask::causal() & mask::window(20)), [&](Site at) {
      const Index p = at.query + s.keys - s.queries;
      return at.key <= p && p - at.key < 20;
    });
  }
}

TEMPLATE_TEST_CASE("keys hidden by a predicate", "", float, double) {
  for (const Sizes& s : shapes) check_rows<TestType>(s, fovea::softmax().mask(mask::where(hashed)), hashed);
}

TEMPLATE_TEST_CASE("keys of other documents", "", float, double) {
  for (const Sizes& s : shapes) {
    const std::vector<Index> queries = {0, s.queries / 3, s.queries}, keys = {0, s.keys / 3, s.keys};
    check_rows<TestType>(s, fovea::softmax().mask(mask::document(queries, keys)),
                         [&](Site at) { return (at.query < s.queries / 3) == (at.key < s.keys / 3); });
  }
}

TEMPLATE_TEST_CASE("keys hidden behind score modifiers", "", float, double) {
  const Sizes s{1, 2, 1, 75, 75, 17, 15};
  const auto recipe = fovea::softmax()
                          .score(score::soft_cap(5))
                          .score(score::alibi({0.5, 0.25}))
                          .mask(mask::causal())
                          .sink_logits({0, 1});
  check_rows<TestType>(s, recipe, [](Site at) { return at.key <= at.query; });
}

TEMPLATE_TEST_CASE("a NaN of every value of one channel spoils that channel alone", "", float, double) {
  auto x = gaussian<TestType>({1, 1, 1, 40, 40, 16, 15});
  const auto clean = attention(x, fovea::softmax().mask(mask::causal()));
  row(x.v, 0, 0, 20)[3] = not_a_number<TestType>;
  const auto got = attention(x, fovea::softmax().mask(mask::causal()));
  for (Index i = 0; i < 40; ++i) {
    INFO("query " << i);
    for (Index e = 0; e < 15; ++e) {
      const TestType value = row(got.out, 0, 0, i)[e];
      if (i >= 20 && e == 3) {
        CHECK(std::isnan(value));
      } else if (i < 20) {
        CHECK(value == row(clean.out, 0, 0, i)[e]);
      } else {
        CHECK(std::isfinite(value));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a NaN query spoils its own row alone", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<TestType>(s);
    const auto clean = attention(x, fovea::softmax());
    const Index bad = s.queries / 2;
    row(x.q, 0, 1, bad)[0] = not_a_number<TestType>;
    const auto got = attention(x, fovea::softmax());
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          if (b == 0 && h == 1 && i == bad) {
            CHECK(all_nan(row(got.out, b, h, i), s.value_dim));
            CHECK(std::isnan(got.log_sum(b, h, i)));
          } else {
            REQUIRE(same_row(got, clean, b, h, i));
          }
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("a query that is NaN and sees nothing gives zero", "", float, double) {
  auto x = gaussian<TestType>({1, 1, 1, 30, 10, 16, 15});
  std::fill_n(row(x.q, 0, 0, 5), 16, not_a_number<TestType>);
  const auto got = attention(x, fovea::softmax().mask(mask::causal()));
  CHECK(all_zero(row(got.out, 0, 0, 5), 15));
  CHECK(got.log_sum(0, 0, 5) == -infinity<TestType>);
}

TEMPLATE_TEST_CASE("padding hidden by a key bias of -infinity is not seen", "", float, double) {
  for (const Sizes& s : shapes) {
    const Index padding = s.keys - 9;
    auto x = gaussian<TestType>(s);
    Eigen::Matrix<TestType, Eigen::Dynamic, 1> hide = Eigen::Matrix<TestType, Eigen::Dynamic, 1>::Zero(s.keys);
    hide.tail(9).setConstant(-infinity<TestType>);
    INFO(s);
    const auto got = attention(x, fovea::softmax().score(score::key_bias(hide)));
    CHECK(is_exact(got, x, {.visible = [&](Site at) { return at.key < padding; }}));
    // Huge values keep a weight of zero.
    std::vector<Index> hidden;
    for (Index j = padding; j < s.keys; ++j) hidden.push_back(j);
    const auto huge = poisoned(x, hidden, std::numeric_limits<TestType>::max(), Where::values);
    CHECK(same_bits(attention(huge, fovea::softmax().score(score::key_bias(hide))), got));
    // So do values that are not numbers.
    const auto garbage = poisoned(x, hidden, not_a_number<TestType>, Where::values);
    CHECK(same_bits(attention(garbage, fovea::softmax().score(score::key_bias(hide))), got));
  }
}
