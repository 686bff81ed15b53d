// Top-k attention: the attention against the reference on its own selection, the selection against a full sort on
// inputs whose scores are exact, limits, and refusals.
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/top_k/top_k.hpp>
#include <numeric>

#include "support/attention.hpp"
#include "support/parts.hpp"
#include "top_k/top_k.hpp"

using namespace fovea::test;
using fovea::Alignment;
using fovea::Index;
using fovea::Site;
using fovea::TopKOptions;
using fovea::select::Heads;
using fovea::select::KeyLists;
using Lists = std::vector<std::vector<Index>>;

namespace {

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 1, 1},      {2, 2, 2, 70, 70, 33, 15}, {1, 4, 2, 20, 150, 16, 33},
                                   {1, 4, 1, 1, 600, 64, 64},  {1, 2, 1, 3, 4500, 8, 4},  {1, 2, 2, 90, 40, 16, 16},
                                   {1, 2, 1, 20, 130, 72, 130}};

// Multiples of 1/8, small enough for all products to be exact in float, so that scores are equal or clearly apart.
template <class T>
Inputs<T> on_grid(const Sizes& s, unsigned seed = 1) {
  auto x = gaussian<T>(s, seed);
  for (auto* array : {&x.q, &x.k})
    std::transform(array->data(), array->data() + array->size(), array->data(),
                   [](T value) { return std::clamp(std::round(value * 8) / 8, T(-4), T(4)); });
  return x;
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const TopKOptions& options, KeyLists& chosen, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::top_k(x.q, x.k, x.v, got.both(), chosen, options, executor);
  return got;
}

template <class T>
Result<T> attention(const Inputs<T>& x, const TopKOptions& options) {
  auto got = blank<T>(x.sizes());
  fovea::top_k(x.q, x.k, x.v, got.both(), options);
  return got;
}

bool sees(const Sizes& s, const TopKOptions& options, Site at) {
  const Index offset = options.alignment == Alignment::bottom_right ? s.keys - s.queries : 0;
  return !options.causal || at.key <= at.query + offset;
}

bool is_chosen(const Sizes& s, const KeyLists& chosen, Site at) {
  const auto list = chosen.list(at.batch, at.head * chosen.heads / s.heads, at.query);
  return std::binary_search(chosen.keys.begin() + list.first, chosen.keys.begin() + list.last, at.key);
}

// The lists by a full sort of scores that are put together as the options say.
template <class T>
Lists wanted_lists(const Inputs<T>& x, const TopKOptions& options) {
  const Sizes s = x.sizes();
  const Index offset = options.alignment == Alignment::bottom_right ? s.keys - s.queries : 0,
              group = s.heads / s.kv_heads;
  Lists all;
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const auto scores = [&](Index at) {
        return fovea::reference::scores_of<double>(head(x.q, b, at).template cast<double>(),
                                                   head(x.k, b, at / group).template cast<double>(), 1, options.causal,
                                                   offset);
      };
      auto together = scores(h);
      if (options.heads != Heads::each) {
        if (h % group != 0) continue;
        for (Index r = 1; r < group; ++r) {
          const auto other = scores(h + r);
          for (Index n = 0; n < together.size(); ++n) {
            double& sum = together.data()[n];
            sum = options.heads == Heads::kv_sum ? sum + other.data()[n] : std::max(sum, other.data()[n]);
          }
        }
      }
      for (auto& list : fovea::reference::top_k_lists<double>(together, options.top_k)) all.push_back(std::move(list));
    }
  }
  return all;
}

Lists lists_of(const KeyLists& chosen) {
  Lists all;
  for (std::size_t i = 0; i + 1 < chosen.begin.size(); ++i)
    all.emplace_back(chosen.keys.begin() + chosen.begin[i], chosen.keys.begin() + chosen.begin[i + 1]);
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("the selection is that of a full sort, ties to the lower key", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = on_grid<TestType>(s);
    for (const Index k : {1, 5, 64, 400}) {
      for (const Heads heads : {Heads::each, Heads::kv_max, Heads::kv_sum}) {
        if (heads != Heads::each && (s.heads == s.kv_heads || k == 400)) continue;
        for (const bool causal : {false, true}) {
          INFO(s << " k " << k << " heads " << int(heads) << " causal " << causal);
          const TopKOptions options{.top_k = k, .causal = causal, .heads = heads};
          const auto chosen = fovea::top_k_selection(x.q, x.k, options);
          CHECK(chosen.heads == (heads == Heads::each ? s.heads : s.kv_heads));
          CHECK(lists_of(chosen) == wanted_lists(x, options));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("the attention is exact on its selection", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s, 2, 2);
    for (const Index k : {1, 6, 100}) {
      for (const Heads heads : {Heads::each, Heads::kv_max, Heads::kv_sum}) {
        if (heads != Heads::each && k != 6) continue;
        for (const bool causal : {false, true}) {
          INFO(s << " k " << k << " heads " << int(heads) << " causal " << causal);
          const TopKOptions options{.top_k = k, .causal = causal, .heads = heads};
          KeyLists chosen;
          const auto got = attention(x, options, chosen);
          CHECK(is_exact(got, x, {.visible = [&](Site at) { return is_chosen(s, chosen, at); }}));
        }
      }
    }
  }
}

TEST_CASE("in double the reference chooses and attends alike, with all mass or that of the choice") {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<double>(s);
    for (const bool causal : {false, true}) {
      for (const bool keep_mass : {false, true}) {
        INFO(s << " causal " << causal << " keep_mass " << keep_mass);
        const auto got = attention(x, {.top_k = 20, .causal = causal, .keep_mass = keep_mass});
        auto wanted = blank<long double>(s);
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h) {
            const Index g = h * s.kv_heads / s.heads;
            const auto one = fovea::reference::top_k<long double>(
                head(x.q, b, h).cast<long double>(), head(x.k, b, g).cast<long double>(),
                head(x.v, b, g).cast<long double>(), 1 / std::sqrt(static_cast<long double>(s.dim)), 20, causal,
                keep_mass);
            std::copy_n(one.out.data(), one.out.size(), row(wanted.out, b, h, 0));
            std::copy_n(one.log_sum.data(), one.log_sum.size(), wanted.log_sum.data() + (b * s.heads + h) * s.queries);
          }
        }
        CHECK(distance_in_epsilons(got, wanted) < budget(x, {}, expected(x)));
      }
    }
  }
}

TEST_CASE("queries on the top left see the keys up to their own number") {
  const Sizes s{1, 2, 1, 20, 90, 16, 8};
  const auto x = on_grid<float>(s);
  const TopKOptions options{.top_k = 4, .causal = true, .alignment = Alignment::top_left};
  KeyLists chosen;
  const auto got = attention(x, options, chosen);
  CHECK(lists_of(chosen) == wanted_lists(x, options));
  CHECK(is_exact(got, x, {.visible = [&](Site at) { return is_chosen(s, chosen, at) && sees(s, options, at); }}));
}

TEMPLATE_TEST_CASE("with k at the number of visible keys it is dense attention", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const bool causal : {false, true}) {
      for (const bool keep_mass : {false, true}) {
        INFO(s << " causal " << causal << " keep_mass " << keep_mass);
        const TopKOptions options{.top_k = s.keys, .causal = causal, .keep_mass = keep_mass};
        CHECK(is_exact(attention(x, options), x, {.visible = [&](Site at) { return sees(s, options, at); }}));
      }
    }
  }
}

TEMPLATE_TEST_CASE("with k of one the output is the value of the largest score", "", float, double) {
  const Sizes s{1, 2, 1, 60, 700, 16, 24};
  const auto x = on_grid<TestType>(s);
  KeyLists chosen;
  const auto got = attention(x, {.top_k = 1}, chosen);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < s.queries; ++i) {
      const Index key = chosen.keys[std::size_t(chosen.list(0, h, i).first)];
      CHECK(std::equal(row(got.out, 0, h, i), row(got.out, 0, h, i) + s.value_dim, row(x.v, 0, 0, key)));
    }
  }
}

TEST_CASE("the kept mass grows with k, is the largest of its size, and bounds the error") {
  const Sizes s{1, 1, 1, 40, 500, 32, 32};
  const auto x = gaussian<double>(s, 5, 2);
  auto full = expected(x);
  const auto dot = [](const double* a, const double* b) { return std::inner_product(a, a + 32, b, 0.0); };
  double longest = 0;
  for (Index j = 0; j < s.keys; ++j) longest = std::max(longest, std::sqrt(dot(row(x.v, 0, 0, j), row(x.v, 0, 0, j))));
  std::mt19937 random(1);
  std::vector<double> before(std::size_t(s.queries), 0);
  for (const Index k : {1, 2, 8, 30, 100, 400, 500}) {
    const auto got = attention(x, {.top_k = k});
    const auto kept = attention(x, {.top_k = k, .keep_mass = true});
    for (Index i = 0; i < s.queries; ++i) {
      const double mass = std::exp(got.log_sum(0, 0, i) - double(full.log_sum(0, 0, i)));
      CHECK(mass >= before[std::size_t(i)] - 1e-14);
      before[std::size_t(i)] = mass;
      double away = 0, difference = 0;
      for (Index e = 0; e < s.value_dim; ++e) {
        away += std::pow(row(got.out, 0, 0, i)[e] - double(row(full.out, 0, 0, i)[e]), 2);
        difference += std::pow(mass * row(got.out, 0, 0, i)[e] - row(kept.out, 0, 0, i)[e], 2);
      }
      CHECK(std::sqrt(away) <= 2 * (1 - mass) * longest + 1e-13);
      CHECK(std::sqrt(difference) < 1e-13);
      CHECK(std::abs(kept.log_sum(0, 0, i) - double(full.log_sum(0, 0, i))) < 1e-13);

      double other = 0;  // the mass of a random set of k keys
      std::vector<Index> keys(500);
      std::iota(keys.begin(), keys.end(), Index{0});
      std::shuffle(keys.begin(), keys.end(), random);
      for (Index n = 0; n < k; ++n) {
        const double product = dot(row(x.q, 0, 0, i), row(x.k, 0, 0, keys[std::size_t(n)]));
        other += std::exp(product / std::sqrt(32.0) - double(full.log_sum(0, 0, i)));
      }
      CHECK(other <= mass + 1e-13);
    }
  }
}

TEST_CASE("decoding a token chooses and attends as the last query of a prefill does") {
  const Sizes s{1, 4, 2, 200, 5000, 32, 32};
  const auto x = on_grid<float>(s);
  Inputs<float> last{Tensor4<float>(1, 4, 1, 32), x.k, x.v};
  for (Index h = 0; h < 4; ++h) std::copy_n(row(x.q, 0, h, s.queries - 1), 32, row(last.q, 0, h, 0));
  for (const Heads heads : {Heads::each, Heads::kv_max}) {
    const TopKOptions options{.top_k = 300, .causal = true, .heads = heads};
    KeyLists all, one;
    const auto got = attention(x, options, all), step = attention(last, options, one);
    for (Index h = 0; h < one.heads; ++h) {
      const auto a = all.list(0, h, s.queries - 1), b = one.list(0, h, 0);
      CHECK(std::equal(all.keys.begin() + a.first, all.keys.begin() + a.last, one.keys.begin() + b.first,
                       one.keys.begin() + b.last));
    }
    // Either is within 8 epsilons of the reference.
    Tensor4<float> end(1, 4, 1, 32);
    for (Index h = 0; h < 4; ++h) std::copy_n(row(got.out, 0, h, s.queries - 1), 32, row(end, 0, h, 0));
    CHECK(relative_rms(end, step.out) < 16 * double(epsilon<float>));
  }
}

TEST_CASE("score modifiers and masks of a recipe come before the choice") {
  namespace mask = fovea::mask;
  const Sizes s{1, 2, 1, 50, 200, 16, 16};
  const auto x = gaussian<float>(s);
  for (const auto& [queries, heads] :
       {std::pair{s.queries, Heads::each}, {Index{1}, Heads::each}, {s.queries, Heads::kv_sum}}) {
    Inputs<float> some{Tensor4<float>(1, 2, queries, 16), x.k, x.v};
    for (Index h = 0; h < 2; ++h) std::copy_n(row(x.q, 0, h, 0), queries * 16, row(some.q, 0, h, 0));
    auto got = blank<float>(some.sizes());
    KeyLists chosen;
    const auto odd = mask::where([](Site at) { return at.key % 2 == 1; });
    const auto away = fovea::score::each([](float score, Site at) { return at.key < 100 ? score - 50 : score; });
    fovea::engine::attend_rows(fovea::make_problem("test", some.q, some.k, some.v, got.both()),
                               fovea::softmax().score(away).mask(odd), {.k = 60, .heads = heads}, &chosen);
    CHECK(is_exact(got, some,
                   {.visible = [&](Site at) { return is_chosen(some.sizes(), chosen, at); },
                    .score = [](double score, Site at) { return at.key < 100 ? score - 50 : score; }}));
    for (Index h = 0; h < chosen.heads; ++h) {
      for (Index i = 0; i < queries; ++i) {
        const auto list = chosen.list(0, h, i);
        CHECK(list.size() == 60);
        for (Index n = list.first; n < list.last; ++n) CHECK(chosen.keys[std::size_t(n)] % 2 == 1);
        CHECK(chosen.keys[std::size_t(list.first + 9)] < 100);  // all 50 far keys of odd number, and ten near ones
        CHECK(chosen.keys[std::size_t(list.first + 10)] > 100);
      }
    }
  }
}

TEST_CASE("top_k is the same on any number of threads") {
  for (const Sizes& s : {Sizes{2, 4, 2, 300, 300, 32, 32}, Sizes{1, 2, 1, 1, 20000, 16, 16}}) {
    const auto x = gaussian<float>(s);
    const TopKOptions options{.top_k = 40, .causal = true, .keep_mass = true};
    KeyLists lists;
    const auto serial = attention(x, options, lists);
    for (const Index threads : {2, 3}) {
      KeyLists chosen;
      CHECK(same_bits(attention(x, options, chosen, fovea::exec::Pool(threads)), serial));
      CHECK(chosen.keys == lists.keys);
    }
  }
}

TEST_CASE("a NaN score loses, and a key that is not chosen is as good as not there") {
  const Sizes s{1, 1, 1, 30, 300, 16, 16};
  auto x = gaussian<float>(s);
  KeyLists chosen;
  auto got = attention(x, {.top_k = 10}, chosen);
  std::vector<bool> used(300, false);
  for (const Index key : chosen.keys) used[std::size_t(key)] = true;
  for (Index j = 0; j < 300; ++j) {
    if (used[std::size_t(j)]) continue;
    std::fill_n(row(x.v, 0, 0, j), 16, not_a_number<float>);
    row(x.k, 0, 0, j)[3] = not_a_number<float>;
  }
  CHECK(std::count(used.begin(), used.end(), false) > 10);
  CHECK(same_bits(attention(x, {.top_k = 10}), got));
}

TEST_CASE("a query that sees no key gets zeros, log-sum -infinity and an empty list") {
  const auto x = gaussian<float>({1, 1, 1, 20, 12, 8, 8});
  KeyLists chosen;
  const auto got = attention(x, {.top_k = 3, .causal = true}, chosen);
  for (Index i = 0; i < 8; ++i) {
    CHECK(all_zero(row(got.out, 0, 0, i), 8));
    CHECK(got.log_sum(0, 0, i) == -infinity<float>);
    CHECK(chosen.list(0, 0, i).empty());
  }
  CHECK(chosen.list(0, 0, 8).size() == 1);
  const auto none = gaussian<float>({1, 2, 1, 3, 0, 8, 8});
  const auto empty = attention(none, {.top_k = 3}, chosen);
  CHECK(all_zero(empty.out.data(), empty.out.size()));
  CHECK(chosen.begin == std::vector<Index>(7, 0));
}

TEST_CASE("strided heads equal copied ones, bit for bit") {
  const Sizes s{1, 4, 2, 100, 100, 32, 32};
  const auto x = gaussian<float>(s);
  const auto swap = [](const Tensor4<float>& a) {
    Tensor4<float> b(1, a.dimension(2), a.dimension(1), 32);
    for (Index h = 0; h < a.dimension(1); ++h) {
      for (Index i = 0; i < a.dimension(2); ++i) std::copy_n(row(a, 0, h, i), 32, row(b, 0, i, h));
    }
    return b;
  };
  const auto q = swap(x.q), k = swap(x.k), v = swap(x.v);
  Tensor4<float> out(1, 100, 4, 32);
  fovea::top_k(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), {.top_k = 9, .causal = true});
  CHECK(same_bits(swap(out), attention(x, {.top_k = 9, .causal = true}).out));
}

TEST_CASE("top_k refuses k of zero or less, the output untouched") {
  const auto x = gaussian<float>({1, 1, 1, 8, 8, 4, 4});
  for (const Index k : {0, -1}) {
    auto out = x.q;
    out.setConstant(7);
    KeyLists chosen = KeyLists::from_lists(1, 1, 1, {{3}});
    CHECK(support::refusal([&] { fovea::top_k(x.q, x.k, x.v, out, chosen, {.top_k = k}); }) ==
          "fovea::top_k: top_k must be positive, got " + std::to_string(k));
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; }));
    CHECK(chosen.keys == std::vector<Index>{3});
    CHECK(support::refusal([&] { fovea::top_k_selection(x.q, x.k, {.top_k = k}); }) ==
          "fovea::top_k_selection: top_k must be positive, got " + std::to_string(k));
  }
}
