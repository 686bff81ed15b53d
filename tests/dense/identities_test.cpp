// What dense attention must do whatever the numbers are: no oracle needed.
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <numeric>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

// Prefill, chunked prefill and decode.
const std::vector<Sizes> shapes = {{1, 2, 2, 70, 70, 33, 33}, {2, 4, 2, 40, 130, 64, 32}, {1, 4, 2, 1, 1500, 64, 64}};

template <class T>
Result<T> attention(const Inputs<T>& x, const fovea::ScaledDotProductOptions& options = {}) {
  auto got = blank<T>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), options);
  return got;
}

// Rows [first, last) of the tokens of a tensor [B,H,T,D].
template <class T>
Tensor4<T> tokens(const Tensor4<T>& x, Index first, Index last) {
  const Eigen::array<Index, 4> begin{0, 0, first, 0};
  const Eigen::array<Index, 4> extent{x.dimension(0), x.dimension(1), last - first, x.dimension(3)};
  return x.slice(begin, extent);
}

}  // namespace

TEMPLATE_TEST_CASE("queries of zero give the mean of the visible values", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const bool causal : {false, true}) {
      INFO(s << (causal ? " causal" : ""));
      auto x = gaussian<TestType>(s);
      x.q.setZero();
      const auto got = attention(x, {.causal = causal});
      auto wanted = blank<Exact<TestType>>(s);
      for (Index b = 0; b < s.batch; ++b) {
        for (Index h = 0; h < s.heads; ++h) {
          for (Index i = 0; i < s.queries; ++i) {
            const Index seen = causal ? i + s.keys - s.queries + 1 : s.keys;
            const auto mean = head(x.v, b, h * s.kv_heads / s.heads).topRows(seen).template cast<Exact<TestType>>();
            for (Index e = 0; e < s.value_dim; ++e) {
              Exact<TestType> sum = 0;
              for (Index j = 0; j < seen; ++j) sum += mean(j, e);
              row(wanted.out, b, h, i)[e] = sum / Exact<TestType>(seen);
            }
            wanted.log_sum(b, h, i) = std::log(Exact<TestType>(seen));
          }
        }
      }
      CHECK(distance_in_epsilons(got, wanted) < 8);
    }
  }
}

TEMPLATE_TEST_CASE("a row that sees one key gets its value exactly", "", float, double) {
  const Sizes one_key{2, 4, 2, 9, 1, 33, 15};
  auto x = gaussian<TestType>(one_key);
  auto got = attention(x);
  for (Index i = 0; i < 9; ++i) CHECK(std::equal(row(got.out, 1, 3, i), row(got.out, 1, 3, i) + 15, row(x.v, 1, 1, 0)));

  x = gaussian<TestType>({1, 1, 1, 70, 70, 33, 15});
  got = attention(x, {.causal = true});
  CHECK(std::equal(row(got.out, 0, 0, 0), row(got.out, 0, 0, 0) + 15, row(x.v, 0, 0, 0)));
}

TEMPLATE_TEST_CASE("a constant added to every score of a row joins the log-sum alone", "", float, double) {
  // The last channel of every key is one, so that of a query is a constant of its row.
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<TestType>(s), shifted = x;
    for (Index g = 0; g < s.batch * s.kv_heads * s.keys; ++g) {
      x.k.data()[g * s.dim + s.dim - 1] = TestType(1);
      shifted.k.data()[g * s.dim + s.dim - 1] = TestType(1);
    }
    for (Index r = 0; r < s.batch * s.heads * s.queries; ++r) {
      x.q.data()[r * s.dim + s.dim - 1] = TestType(0);
      shifted.q.data()[r * s.dim + s.dim - 1] = TestType(r % 5) - TestType(2);
    }
    const auto plain = attention(x, {.scale = 0.125}), moved = attention(shifted, {.scale = 0.125});
    CHECK(relative_rms(moved.out, plain.out) < 16 * epsilon<TestType>);
    auto wanted = plain.log_sum;
    for (Index r = 0; r < wanted.size(); ++r) wanted.data()[r] += (TestType(r % 5) - TestType(2)) / TestType(8);
    CHECK(log_sum_distance(moved.log_sum, wanted) < 16 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("the order of the keys does not matter", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto permuted = x;
    std::vector<Index> order(std::size_t(s.keys));
    std::iota(order.begin(), order.end(), Index{0});
    std::shuffle(order.begin(), order.end(), std::mt19937(4));
    for (Index b = 0; b < s.batch; ++b) {
      for (Index g = 0; g < s.kv_heads; ++g) {
        for (Index j = 0; j < s.keys; ++j) {
          std::copy_n(row(x.k, b, g, order[std::size_t(j)]), s.dim, row(permuted.k, b, g, j));
          std::copy_n(row(x.v, b, g, order[std::size_t(j)]), s.value_dim, row(permuted.v, b, g, j));
        }
      }
    }
    const auto wanted = expected(x);
    CHECK(distance_in_epsilons(attention(permuted), wanted) < budget<TestType>(permuted, {}, wanted));
  }
}

TEMPLATE_TEST_CASE("grouped heads equal heads with repeated keys and values", "", float, double) {
  for (const Sizes& s :
       {Sizes{2, 6, 2, 50, 90, 33, 33}, Sizes{1, 8, 1, 40, 40, 64, 64}, Sizes{1, 8, 2, 1, 1200, 64, 64}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    Inputs<TestType> repeated{x.q, Tensor4<TestType>(s.batch, s.heads, s.keys, s.dim),
                              Tensor4<TestType>(s.batch, s.heads, s.keys, s.value_dim)};
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        const Index g = h * s.kv_heads / s.heads;
        std::copy_n(row(x.k, b, g, 0), s.keys * s.dim, row(repeated.k, b, h, 0));
        std::copy_n(row(x.v, b, g, 0), s.keys * s.value_dim, row(repeated.v, b, h, 0));
      }
    }
    CHECK(relative_rms(attention(x).out, attention(repeated).out) < 8 * epsilon<TestType>);
    CHECK(relative_rms(attention(x, {.causal = true}).out, attention(repeated, {.causal = true}).out) <
          8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("heads and batches do not mix", "", float, double) {
  const Sizes s{2, 4, 4, 30, 70, 33, 33};
  const auto x = gaussian<TestType>(s);
  const auto swap = [](const Tensor4<TestType>& t) {
    Tensor4<TestType> swapped = t.reverse(Eigen::array<bool, 4>{true, true, false, false});
    return swapped;
  };
  const auto got = attention(x);
  const auto swapped = attention(Inputs<TestType>{swap(x.q), swap(x.k), swap(x.v)});
  CHECK(same_bits(swap(got.out), swapped.out));
}

TEMPLATE_TEST_CASE("constant values stay constant", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const bool causal : {false, true}) {
      INFO(s << (causal ? " causal" : ""));
      auto x = gaussian<TestType>(s);
      x.v.setConstant(TestType(1));
      const auto got = attention(x, {.causal = causal});
      const auto [least, most] = std::minmax_element(got.out.data(), got.out.data() + got.out.size());
      // Two sums of the same terms in different orders.
      CHECK(std::abs(*least - TestType(1)) < TestType(64) * epsilon<TestType>);
      CHECK(std::abs(*most - TestType(1)) < TestType(64) * epsilon<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("the result is linear in the values", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s, 1), y = gaussian<TestType>(s, 2);
    Inputs<TestType> mixed = x, other = x;
    other.v = y.v;
    mixed.v = x.v * TestType(2) - y.v * TestType(0.5);
    const Tensor4<TestType> wanted = attention(x).out * TestType(2) - attention(other).out * TestType(0.5);
    CHECK(relative_rms(attention(mixed).out, wanted) < 24 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("a power of two of the values comes out as it went in, bit for bit", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 2, 70, 70, 33, 33});
  auto doubled = x;
  doubled.v = x.v * TestType(4);
  const Tensor4<TestType> wanted = attention(x).out * TestType(4);
  CHECK(same_bits(attention(doubled).out, wanted));
}

// The four patterns of CAB: {noncausal, causal} x {self, cross}.

TEMPLATE_TEST_CASE("noncausal self: the order of the queries is the order of the outputs", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 2, 61, 61, 33, 33});
  auto reversed = x;
  const Eigen::array<bool, 4> over_tokens{false, false, true, false};
  reversed.q = Tensor4<TestType>(x.q.reverse(over_tokens));
  const Tensor4<TestType> wanted = attention(x).out.reverse(over_tokens);
  CHECK(same_bits(attention(reversed).out, wanted));
}

TEMPLATE_TEST_CASE("causal self: a prefix of the tokens gives the prefix of the result", "", float, double) {
  const Sizes s{1, 2, 1, 150, 150, 33, 33};
  const auto x = gaussian<TestType>(s);
  const auto all = attention(x, {.causal = true});
  for (const Index length : {1, 2, 15, 16, 17, 64, 65, 100, 149}) {
    INFO("prefix of " << length);
    const Inputs<TestType> prefix{tokens(x.q, 0, length), tokens(x.k, 0, length), tokens(x.v, 0, length)};
    CHECK(relative_rms(attention(prefix, {.causal = true}).out, tokens(all.out, 0, length)) < 8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("causal self: token by token with a cache equals all at once", "", float, double) {
  const Sizes s{1, 2, 1, 90, 90, 33, 33};
  const auto x = gaussian<TestType>(s);
  const auto all = attention(x, {.causal = true});
  for (const Index chunk : {1, 3, 32}) {
    INFO("chunks of " << chunk);
    Tensor4<TestType> out(s.batch, s.heads, s.queries, s.value_dim);
    for (Index first = 0; first < s.queries; first += chunk) {
      const Index last = std::min(first + chunk, s.queries);
      const Inputs<TestType> step{tokens(x.q, first, last), tokens(x.k, 0, last), tokens(x.v, 0, last)};
      const auto got = attention(step, {.causal = true});
      out.slice(Eigen::array<Index, 4>{0, 0, first, 0},
                Eigen::array<Index, 4>{s.batch, s.heads, last - first, s.value_dim}) = got.out;
    }
    CHECK(relative_rms(out, all.out) < 8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("causal cross: a prefix of the queries over all keys gives the prefix of the result", "", float,
                   double) {
  const Sizes s{1, 2, 1, 60, 200, 33, 33};
  const auto x = gaussian<TestType>(s);
  const auto all = attention(x);
  for (const Index length : {1, 2, 6, 7, 16, 59}) {
    INFO("prefix of " << length);
    const Inputs<TestType> prefix{tokens(x.q, 0, length), x.k, x.v};
    CHECK(relative_rms(attention(prefix).out, tokens(all.out, 0, length)) < 8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("both alignments are the same when there are as many queries as keys", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 2, 77, 77, 33, 33});
  const auto right = attention(x, {.alignment = fovea::Alignment::bottom_right, .causal = true});
  const auto left = attention(x, {.alignment = fovea::Alignment::top_left, .causal = true});
  CHECK(same_bits(right, left));
}

// Attention over a partition of the keys.

TEMPLATE_TEST_CASE("any partition of the keys merges to the whole, in any order", "", float, double) {
  for (const Sizes& s : {Sizes{2, 4, 2, 20, 300, 33, 15}, Sizes{1, 8, 2, 1, 3000, 64, 64}}) {
    const auto x = gaussian<TestType>(s);
    const auto wanted = expected(x);
    const Index n = s.keys;
    const std::vector<std::vector<Index>> partitions = {
        {0, n}, {0, n / 2, n}, {0, 1, n}, {0, n - 1, n}, {0, 0, n}, {0, 7, 7, 40, 41, 120, 128, n, n}};
    for (const auto& cuts : partitions) {
      for (const bool backwards : {false, true}) {
        INFO(s << " in " << cuts.size() - 1 << " parts" << (backwards ? ", last first" : ""));
        auto merged = blank<TestType>(s);
        merged.out.setZero();
        merged.log_sum.setConstant(-infinity<TestType>);
        for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
          const std::size_t p = backwards ? cuts.size() - 2 - c : c;
          const Inputs<TestType> part{x.q, tokens(x.k, cuts[p], cuts[p + 1]), tokens(x.v, cuts[p], cuts[p + 1])};
          auto got = attention(part);
          fovea::combine::merge(merged.both(), got.both(), merged.both());
        }
        CHECK(distance_in_epsilons(merged, wanted) < budget<TestType>(x, {}, wanted));
        if (cuts.size() == 2) CHECK(same_bits(merged, attention(x)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("merging is done pairwise in any grouping", "", float, double) {
  const Sizes s{1, 2, 2, 9, 400, 33, 33};
  const auto x = gaussian<TestType>(s);
  std::vector<Result<TestType>> part;
  for (Index p = 0; p < 4; ++p)
    part.push_back(
        attention(Inputs<TestType>{x.q, tokens(x.k, 100 * p, 100 * p + 100), tokens(x.v, 100 * p, 100 * p + 100)}));
  const auto merge = [&](Result<TestType> a, Result<TestType> b) {
    auto result = blank<TestType>(s);
    fovea::combine::merge(a.both(), b.both(), result.both());
    return result;
  };
  const auto tree = merge(merge(part[0], part[1]), merge(part[2], part[3]));
  const auto chain = merge(part[3], merge(part[1], merge(part[2], part[0])));
  CHECK(relative_rms(tree.out, chain.out) < 8 * epsilon<TestType>);
  CHECK(log_sum_distance(tree.log_sum, chain.log_sum) < 8 * epsilon<TestType>);
  const auto ab = merge(part[0], part[1]), ba = merge(part[1], part[0]);
  CHECK(relative_rms(ab.out, ba.out) < 2 * epsilon<TestType>);
}
