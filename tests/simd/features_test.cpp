#include "support/catch.hpp"

#include <cmath>
#include <fovea/simd/features.hpp>
#include <numeric>

#include "support/parts.hpp"

using fovea::Index;
namespace simd = fovea::simd;

namespace {

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;

template <class T>
T exp_of(T x) {
  T to[std::size_t(simd::lanes<T>)];
  simd::store(to, simd::exp<T>(simd::Pack<T>(x)));
  return to[0];
}

template <class T>
T exp_in_range_of(T x) {
  T to[std::size_t(simd::lanes<T>)];
  simd::store(to, simd::exp_in_range<T>(simd::Pack<T>(x)));
  return to[0];
}

}  // namespace

TEMPLATE_TEST_CASE("exp is right to two places of the last over its whole range", "[simd][features]", float, double) {
  using T = TestType;
  const double low = std::is_same_v<T, float> ? -87 : -708, high = std::is_same_v<T, float> ? 88 : 709;
  double worst = 0;
  for (const T x : support::uniform<T>(1, 20000, low, high)) {
    worst = std::max(worst, support::ulps(exp_of(x), std::exp(Wide<T>(x))));
    CHECK(exp_in_range_of(x) == exp_of(x));
  }
  for (const T x : support::uniform<T>(2, 20000, -1, 1))
    worst = std::max(worst, support::ulps(exp_of(x), std::exp(Wide<T>(x))));
  CHECK(worst < 2);
}

TEMPLATE_TEST_CASE("exp at its ends", "[simd][features]", float, double) {
  using T = TestType;
  const T inf = simd::infinity<T>;
  CHECK(exp_of(T(0)) == 1);
  CHECK(exp_of(-inf) == 0);
  CHECK(exp_of(T(-1e5)) == 0);
  CHECK(exp_of(inf) == inf);
  CHECK(exp_of(T(1e5)) == inf);
  CHECK(std::isnan(exp_of(support::nan<T>)));
  CHECK(std::isnan(exp_in_range_of(support::nan<T>)));
}

TEMPLATE_TEST_CASE("rows of every length, up to memory that may not be touched", "[simd][features]", float, double) {
  using T = TestType;
  const Index lanes = simd::lanes<T>;
  support::Guarded<T> memory(3 * (5 * lanes + 3));
  for (Index n = 1; n <= 5 * lanes + 3; ++n) {
    INFO(n);
    const auto numbers = support::uniform<T>(unsigned(n), 3 * n, -4, -1);
    T* const x = memory.at_end(3 * n);
    std::copy(numbers.begin(), numbers.end(), x);
    const T* const last = x + 2 * n;
    CHECK(simd::largest(last, n) == *std::max_element(last, last + n));
    const double sum = std::accumulate(last, last + n, 0.0);
    CHECK(std::abs(simd::total(last, n) - sum) <= double(n) * support::epsilon<T> * std::abs(sum));
    double squares = 0;
    for (Index j = 0; j < n; ++j) squares += double(last[j]) * double(last[j]);
    CHECK(std::abs(simd::square_norm(last, n) - squares) <= double(n) * support::epsilon<T> * squares);

    std::vector<T> to(std::size_t(simd::whole<T>(n)));
    simd::map_row(last, n, to.data(), [](simd::Pack<T> v) { return v + v; });
    for (Index j = 0; j < n; ++j) CHECK(to[std::size_t(j)] == 2 * last[j]);

    std::vector<T> sums(std::size_t(n), T(1));
    simd::add_rows(3, n, x, n, sums.data());
    for (Index j = 0; j < n; ++j)
      CHECK(std::abs(sums[std::size_t(j)] - (1 + double(x[j]) + double(x[n + j]) + double(x[2 * n + j]))) <
            16 * support::epsilon<T>);

    simd::mirror(x, x + 2 * n, n, T(2), T(3));  // from the first row into the first and the last
    for (Index j = 0; j < n; ++j) {
      CHECK(x[j] == 3 + 2 * numbers[std::size_t(j)]);
      CHECK(x[2 * n + j] == 3 - 2 * numbers[std::size_t(j)]);
    }
  }
}
