// Products with listed rows, of every width up to some vectors, against plain sums; rows that are not listed are NaN.
#include <fovea/simd/gathered.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

namespace simd = fovea::simd;
using fovea::Index;

namespace {

// Rows of `dim` elements, some apart; those not in the list are NaN.
template <class T>
std::vector<T> rows(const std::vector<Index>& list, Index count, Index dim, Index stride) {
  auto x = std::vector<T>(std::size_t(count * stride), support::nan<T>);
  const auto values = support::uniform<T>(unsigned(dim), Index(list.size()) * dim);
  for (std::size_t n = 0; n < list.size(); ++n)
    std::copy_n(values.data() + Index(n) * dim, dim, x.data() + list[n] * stride);
  return x;
}

const std::vector<Index> list{0, 1, 5, 6, 9, 20, 21, 22, 40, 57, 58, 59, 60, 63, 70, 71, 80, 90, 99};

}  // namespace

TEMPLATE_TEST_CASE("dot_listed is the product of queries and listed keys", "", float, double) {
  using T = TestType;
  for (Index dim = 1; dim <= 4 * simd::lanes<T> + 3; dim += dim < 2 * simd::lanes<T> ? 1 : 5) {
    const Index depth = simd::whole<T>(dim), stride = dim + 1;
    const auto k = rows<T>(list, 100, dim, stride);
    for (const Index queries : {1, 2, 5}) {
      std::vector<T> q(std::size_t(queries * depth));
      for (Index i = 0; i < queries; ++i) {
        const auto one = support::uniform<T>(unsigned(i), dim);
        std::copy(one.begin(), one.end(), q.begin() + i * depth);
      }
      for (const Index count : {Index{1}, Index{3}, Index(list.size())}) {
        std::vector<T> s(std::size_t(queries * count + 1), T(7));
        simd::dot_listed(queries, q.data(), depth, count, list.data(), k.data(), stride, dim, s.data(), count);
        CHECK(s.back() == T(7));
        for (Index i = 0; i < queries; ++i) {
          for (Index j = 0; j < count; ++j) {
            double wanted = 0;
            for (Index d = 0; d < dim; ++d)
              wanted +=
                  double(q[std::size_t(i * depth + d)]) * double(k[std::size_t(list[std::size_t(j)] * stride + d)]);
            if (!(std::abs(double(s[std::size_t(i * count + j)]) - wanted) < double(dim) * support::epsilon<T>))
              FAIL("dim " << dim << " query " << i << " key " << j);
          }
        }
      }
    }
  }
  SUCCEED();
}

TEMPLATE_TEST_CASE("add_listed adds weighted values to what is there", "", float, double) {
  using T = TestType;
  const Index count = Index(list.size());
  const auto weights = support::uniform<T>(1, count);
  std::vector<std::int32_t> short_list(list.begin(), list.end());
  for (Index dim = 1; dim <= 13 * simd::lanes<T> + 3; dim += dim < 2 * simd::lanes<T> ? 1 : 7) {
    const Index stride = dim + 1;
    const auto v = rows<T>(list, 100, dim, stride);
    std::vector<T> out(std::size_t(simd::whole<T>(dim)), T(1));
    simd::add_listed(count, weights.data(), short_list.data(), v.data(), stride, dim, out.data());
    for (Index e = 0; e < dim; ++e) {
      double wanted = 1;
      for (Index j = 0; j < count; ++j)
        wanted += double(weights[std::size_t(j)]) * double(v[std::size_t(list[std::size_t(j)] * stride + e)]);
      if (!(std::abs(double(out[std::size_t(e)]) - wanted) < double(count) * support::epsilon<T>))
        FAIL("dim " << dim << " element " << e);
    }
  }
  SUCCEED();
}
