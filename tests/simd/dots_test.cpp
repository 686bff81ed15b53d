#include "support/catch.hpp"

#include <cmath>
#include <fovea/simd/dots.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;

namespace {

// Queries in whole vectors, zero behind dim; keys `gap` apart, NaN in the gaps, ending right before a page that may not
// be touched; scores NaN before the call and between the rows.
template <class T>
struct Dots {
  Index queries, count, dim, q_stride, k_stride, scores_stride;
  std::vector<T> q, scores;
  support::Guarded<T> memory;
  T* k;

  Dots(Index n, Index m, Index d, Index gap)
      : queries(n),
        count(m),
        dim(d),
        q_stride(fovea::simd::whole<T>(d) + 2 * lanes<T>),
        k_stride(d + gap),
        scores_stride(m + 3),
        q(std::size_t(n * q_stride), support::nan<T>),
        scores(std::size_t(n * scores_stride), support::nan<T>),
        memory(m * k_stride + 1),
        k(memory.at_end(m == 0 ? 0 : (m - 1) * k_stride + d)) {
    const auto left = support::uniform<T>(1, n * d), right = support::uniform<T>(2, m * d);
    for (Index i = 0; i < n; ++i)
      for (Index e = 0; e < fovea::simd::whole<T>(d); ++e)
        q[std::size_t(i * q_stride + e)] = e < d ? left[std::size_t(i * d + e)] : T(0);
    for (Index j = 0; j < m; ++j)
      for (Index e = 0; e < (j + 1 < m ? k_stride : d); ++e)
        k[j * k_stride + e] = e < d ? right[std::size_t(j * d + e)] : support::nan<T>;
  }

  void run() {
    fovea::simd::dot_rows(queries, static_cast<const T*>(q.data()), q_stride, count, static_cast<const T*>(k), k_stride,
                          dim, scores.data(), scores_stride);
  }

  // The first difference from the products in long double, or "". A lane adds dim / lanes products (two roundings
  // each where they are not fused), the lanes are added in log2(lanes) steps: half an epsilon of the sum of sizes each.
  std::string difference() {
    run();
    for (Index i = 0; i < queries; ++i) {
      for (Index j = 0; j < scores_stride; ++j) {
        const T got = scores[std::size_t(i * scores_stride + j)];
        std::ostringstream text;
        text << queries << " queries " << count << " keys dim " << dim << ": " << i << ", " << j << " got " << got;
        if (j >= count) {
          if (support::bits(got) != support::bits(support::nan<T>)) return text.str() + " behind the row";
          continue;
        }
        long double sum = 0, size = 0;
        for (Index e = 0; e < dim; ++e) {
          const auto term = (long double)q[std::size_t(i * q_stride + e)] * (long double)k[j * k_stride + e];
          sum += term;
          size += std::fabs(term);
        }
        const double roundings = 2 * std::ceil(double(dim) / double(lanes<T>)) + std::log2(double(lanes<T>));
        if (!(std::fabs(double(got - sum)) <= roundings / 2 * support::epsilon<T> * double(size))) return text.str();
      }
    }
    return "";
  }
};

}  // namespace

TEMPLATE_TEST_CASE("dot_rows is the product of every query with every key", "[simd][dots]", float, double) {
  std::string first;
  for (Index queries = 0; queries <= 9; ++queries) {
    for (const Index count : {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}) {
      for (const Index dim : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 67}) {
        for (const Index gap : {0, 5}) {
          if (first.empty()) first = Dots<TestType>(queries, count, dim, gap).difference();
        }
      }
    }
  }
  CHECK(first == "");
}

TEMPLATE_TEST_CASE("a product does not depend on the queries and keys beside it", "[simd][dots]", float, double) {
  Dots<TestType> all(9, 17, 67, 0);
  all.run();
  int wrong = 0;
  for (Index i = 0; i < all.queries; ++i) {
    for (Index j = 0; j < all.count; ++j) {
      TestType one = 0;
      fovea::simd::dot_rows(Index{1}, static_cast<const TestType*>(all.q.data()) + i * all.q_stride, all.q_stride,
                            Index{1}, static_cast<const TestType*>(all.k) + j * all.k_stride, all.k_stride, all.dim,
                            &one, Index{1});
      wrong += support::bits(one) != support::bits(all.scores[std::size_t(i * all.scores_stride + j)]);
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("a NaN in a query or key spoils its products alone", "[simd][dots]", float, double) {
  Dots<TestType> all(5, 11, 17, 0);
  all.q[std::size_t(2 * all.q_stride + 16)] = support::nan<TestType>;
  all.k[7 * all.k_stride + 3] = support::nan<TestType>;
  all.run();
  int wrong = 0;
  for (Index i = 0; i < 5; ++i)
    for (Index j = 0; j < 11; ++j)
      wrong += std::isnan(all.scores[std::size_t(i * all.scores_stride + j)]) != (i == 2 || j == 7);
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("an infinite key meets no padding of a query", "[simd][dots]", float, double) {
  // 0 x infinity would be NaN: lanes behind dim must take nothing from the key.
  for (Index dim = 1; dim <= lanes<TestType> + 1; ++dim) {
    std::vector<TestType> q(std::size_t(2 * lanes<TestType>), TestType(0)), k(std::size_t(3 * lanes<TestType>));
    std::fill(q.begin(), q.begin() + dim, TestType(1));
    std::fill(k.begin(), k.end(), fovea::simd::infinity<TestType>);
    TestType score = 0;
    fovea::simd::dot_rows(Index{1}, static_cast<const TestType*>(q.data()), Index(q.size()), Index{1},
                          static_cast<const TestType*>(k.data()), dim, dim, &score, Index{1});
    CAPTURE(dim);
    CHECK(score == fovea::simd::infinity<TestType>);
  }
}
