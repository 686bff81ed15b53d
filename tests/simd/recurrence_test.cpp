#include <fovea/simd/recurrence.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using support::uniform;
namespace simd = fovea::simd;
using simd::Fade;

namespace {

// The largest error of a token against long double, states and outputs alike.
template <Fade fade, bool corrects, class T>
double error(Index depth, Index columns, Index queries) {
  const Index stride = columns + simd::lanes<T>;
  auto s = uniform<T>(1, depth * stride);
  const auto before = s;
  const auto factors = uniform<T>(2, depth, 0, 1), k = uniform<T>(3, depth), v = uniform<T>(4, columns);
  const auto q = uniform<T>(5, queries * (depth + 1));
  std::vector<T> out(std::size_t(queries * (columns + 2)), support::nan<T>);
  const T beta = T(0.7);
  simd::recur<fade, corrects>(
      depth, columns, s.data(), stride,
      simd::Token<T>{factors.data(), k.data(), v.data(), beta, q.data(), depth + 1, queries, out.data(), columns + 2});
  double worst = 0;
  const auto compare = [&](T got, long double wanted) {
    worst = std::max(worst, double(std::fabs((long double)(got)-wanted)));
  };
  for (Index c = 0; c < columns; ++c) {
    std::vector<long double> column;
    long double u = v[std::size_t(c)], predicted = 0;
    for (Index d = 0; d < depth; ++d) {
      const long double factor =
          fade == Fade::none ? 1 : (long double)(factors[fade == Fade::rows ? std::size_t(d) : 0]);
      column.push_back(factor * (long double)(before[std::size_t(d * stride + c)]));
      predicted += column.back() * (long double)(k[std::size_t(d)]);
    }
    if (corrects) u = (long double)(beta) * (u - predicted);
    for (Index d = 0; d < depth; ++d) {
      column[std::size_t(d)] += (long double)(k[std::size_t(d)]) * u;
      compare(s[std::size_t(d * stride + c)], column[std::size_t(d)]);
    }
    for (Index i = 0; i < queries; ++i) {
      long double sum = 0;
      for (Index d = 0; d < depth; ++d)
        sum += (long double)(q[std::size_t(i * (depth + 1) + d)]) * column[std::size_t(d)];
      compare(out[std::size_t(i * (columns + 2) + c)], sum);
    }
  }
  for (Index d = 0; d < depth; ++d) {
    for (Index c = columns; c < stride; ++c)
      compare(s[std::size_t(d * stride + c)], (long double)(before[std::size_t(d * stride + c)]));
  }
  return worst / support::epsilon<T>;
}

}  // namespace

TEMPLATE_TEST_CASE("a token fades, writes and reads", "[simd]", float, double) {
  using T = TestType;
  for (const Index depth : {1, 2, 7, 33}) {
    for (const Index vectors : {1, 3, 4, 9}) {
      for (const Index queries : {1, 3}) {
        const Index columns = vectors * simd::lanes<T>;
        CHECK(error<Fade::none, false, T>(depth, columns, queries) < 2 * double(depth));
        CHECK(error<Fade::one, false, T>(depth, columns, queries) < 2 * double(depth));
        CHECK(error<Fade::rows, true, T>(depth, columns, queries) < 2 * double(depth) + 2);
      }
    }
  }
}
