#include "support/catch.hpp"

#include <fovea/exec/pool.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/combine/extra_key.hpp>

#include "support/attention.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::View;
using fovea::view;
using fovea::combine::ExtraKey;
using namespace fovea::test;

namespace {

template <class T>
struct Case {
  Tensor4<T> q;
  Result<T> result;
  Matrix<T> key, value;
};

template <class T>
Case<T> some(const Sizes& s, Index rows) {
  Case<T> x{Tensor4<T>(s.batch, s.heads, s.queries, s.dim), blank<T>(s), Matrix<T>(rows, s.dim),
            Matrix<T>(rows, s.value_dim)};
  fill_gaussian(x.q, 1), fill_gaussian(x.result.out, 2), fill_gaussian(x.result.log_sum, 3);
  fill_gaussian(x.key, 4), fill_gaussian(x.value, 5);
  return x;
}

template <class T, class Exec = fovea::exec::Serial>
void merge(Case<T>& x, double scale, const Exec& executor = {}) {
  const ExtraKey<T> extra("test", view(x.key), view(x.value), view(x.q).extents(), x.result.out.dimension(3), scale);
  extra.merge_into(view(x.q), view(x.result.out), fovea::row_values(x.result.log_sum), executor);
}

// By the definition.
template <class T>
Result<Exact<T>> by_definition(const Case<T>& x, double scale) {
  using Real = Exact<T>;
  const Index batch = x.q.dimension(0), heads = x.q.dimension(1), length = x.q.dimension(2);
  auto r = blank<Real>({batch, heads, heads, length, 1, 1, x.result.out.dimension(3)});
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      const Index of = x.key.rows() == 1 ? 0 : h;
      for (Index i = 0; i < length; ++i) {
        Real s = 0;
        for (Index d = 0; d < x.key.cols(); ++d) s += Real(row(x.q, b, h, i)[d]) * Real(x.key(of, d));
        s *= Real(scale);
        const Real sum = x.result.log_sum(b, h, i), share = 1 / (1 + std::exp(s - sum));
        for (Index e = 0; e < x.value.cols(); ++e)
          row(r.out, b, h, i)[e] = share * row(x.result.out, b, h, i)[e] + (1 - share) * Real(x.value(of, e));
        r.log_sum(b, h, i) = std::log(std::exp(sum) + std::exp(s));
      }
    }
  }
  return r;
}

}  // namespace

TEMPLATE_TEST_CASE("an extra key is merged by the definition", "[parts][combine]", float, double) {
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 1, 1}, Sizes{2, 3, 3, 7, 1, 17, 15}, Sizes{1, 2, 2, 150, 1, 64, 33}}) {
    for (const Index rows : {Index{1}, s.heads}) {
      INFO(s << " rows " << rows);
      auto x = some<TestType>(s, rows);
      const auto wanted = by_definition(x, 0.25);
      merge(x, 0.25);
      CHECK(distance_in_epsilons(x.result, wanted) < 8);
    }
  }
}

TEMPLATE_TEST_CASE("a row that saw no key becomes the extra value", "[parts][combine]", float, double) {
  auto x = some<TestType>({1, 2, 2, 5, 1, 8, 6}, 2);
  x.result.log_sum.setConstant(-infinity<TestType>);
  x.result.out.setZero();
  merge(x, 1);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 5; ++i)
      CHECK(std::equal(row(x.result.out, 0, h, i), row(x.result.out, 0, h, i) + 6, x.value.row(h).data()));
  }
}

TEST_CASE("an extra key on a pool is the same, bit for bit", "[parts][combine]") {
  auto a = some<float>({2, 3, 3, 70, 1, 17, 15}, 3), b = a;
  merge(a, 0.5);
  merge(b, 0.5, fovea::exec::Pool(3));
  CHECK(same_bits(a.result, b.result));
}

TEST_CASE("NaN in the extra value of a head stays in that head", "[parts][combine]") {
  auto x = some<float>({2, 3, 3, 5, 1, 8, 6}, 3);
  x.value(1, 2) = not_a_number<float>;
  merge(x, 1);
  for (Index n = 0; n < x.result.out.size(); ++n)
    REQUIRE(std::isnan(x.result.out.data()[n]) == (n % 6 == 2 && n / 30 % 3 == 1));
}

TEST_CASE("extra keys and values of the wrong shape and a scale that is not finite are refused", "[parts][combine]") {
  const fovea::Extents q{2, 3, 5, 8};
  const auto said = [&](const Matrix<float>& key, const Matrix<float>& value, double scale = 1) {
    return support::refusal([&] { ExtraKey<float>("fovea::f", view(key), view(value), q, 6, scale); });
  };
  const Matrix<float> key(3, 8), value(3, 6);
  CHECK(said(key, value) == "accepted");
  CHECK(said(Matrix<float>(2, 8), value) ==
        "fovea::f: the extra key must have a row for each query head or one for all, wanted [3, 8], got [2, 8]");
  CHECK(said(Matrix<float>(3, 7), value) != "accepted");
  CHECK(said(key, Matrix<float>(3, 5)) ==
        "fovea::f: the extra value must have a row for each query head or one for all, wanted [3, 6], got [3, 5]");
  CHECK(said(key, Matrix<float>(0, 6)) != "accepted");
  CHECK(said(key, value, not_a_number<double>) == "fovea::f: the scale must be finite, got nan");
}
