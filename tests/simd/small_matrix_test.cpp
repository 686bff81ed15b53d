#include <fovea/simd/small_matrix.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using support::uniform;
namespace simd = fovea::simd;
using simd::Onto;

namespace {

template <class T>
struct Rows {
  std::vector<T> data;
  Index stride;

  Rows(unsigned seed, Index rows, Index columns) : data(uniform<T>(seed, rows * columns)), stride(columns) {}
  T& operator()(Index i, Index j) { return data[std::size_t(i * stride + j)]; }
  T* get() { return data.data(); }
};

template <class T>
bool near(T got, long double wanted, double allowed) {
  return std::fabs(double((long double)(got)-wanted)) <= allowed * support::epsilon<T>;
}

}  // namespace

TEMPLATE_TEST_CASE("products of any number of rows", "[simd]", float, double) {
  using T = TestType;
  const Index columns = 3 * simd::lanes<T>;
  for (Index rows = 0; rows <= 15; ++rows) {
    Rows<T> a(1, rows + 1, 9), b(2, 9, columns + 1), c(3, rows + 1, columns + 2), shrink(4, 1, rows + 1);
    auto d = c;
    simd::multiply<Onto::nothing>(rows, columns, 9, a.get(), 9, b.get(), columns + 1, d.get(), columns + 2);
    auto e = c;
    simd::multiply<Onto::shrunk_sum>(rows, columns, 9, a.get(), 9, b.get(), columns + 1, e.get(), columns + 2,
                                     shrink.get());
    bool right = true;
    for (Index i = 0; i <= rows; ++i) {
      for (Index j = 0; j < columns + 2; ++j) {
        const bool inside = i < rows && j < columns;
        long double sum = 0;
        for (Index k = 0; inside && k < 9; ++k) sum += (long double)(a(i, k)) * (long double)(b(k, j));
        right = right && (inside ? near(d(i, j), sum, 9) : d(i, j) == c(i, j));
        right = right && (inside ? near(e(i, j), sum + (long double)(shrink(0, i)) * (long double)(c(i, j)), 10)
                                 : e(i, j) == c(i, j));
      }
    }
    INFO(rows << " rows");
    CHECK(right);
  }
}

TEMPLATE_TEST_CASE("products with a lower triangle", "[simd]", float, double) {
  using T = TestType;
  const Index columns = 2 * simd::lanes<T>;
  for (Index n = 1; n <= 40; n += 3) {
    const Index stride = simd::whole<T>(n);
    Rows<T> a(1, n, 5), b(2, 5, stride), s(3, n, stride), v(4, n, columns), shrink(5, 1, n);
    simd::multiply_to_lower(n, 5, a.get(), 5, b.get(), stride, s.get(), stride);
    bool right = true;
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j <= i; ++j) {
        long double sum = 0;
        for (Index k = 0; k < 5; ++k) sum += (long double)(a(i, k)) * (long double)(b(k, j));
        right = right && near(s(i, j), sum, 5);
      }
      simd::weigh_row<T>(s.get() + i * stride, i + 1, std::min(simd::whole<T>(i + simd::tile_rows), stride), T(1),
                         nullptr);
    }
    for (const bool strict : {false, true}) {
      Rows<T> c(6, n, columns);
      const auto before = c;
      auto w = v;
      if (strict) w(n - 1, 3) = support::nan<T>;
      simd::multiply_lower(n, columns, s.get(), stride, w.get(), columns, c.get(), columns, shrink.get(), strict);
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < columns; ++j) {
          long double sum = (long double)(shrink(0, i)) * (long double)(Rows<T>(before)(i, j));
          for (Index k = 0; k <= i; ++k) sum += (long double)(s(i, k)) * (long double)(w(k, j));
          right = right && (strict && i == n - 1 && j == 3 ? std::isnan(c(i, j)) : near(c(i, j), sum, double(n) + 8));
        }
      }
    }
    INFO(n << " rows");
    CHECK(right);
  }
}

TEMPLATE_TEST_CASE("forward substitution reads nothing on or above the diagonal", "[simd]", float, double) {
  using T = TestType;
  const Index columns = 2 * simd::lanes<T>;
  for (Index n = 1; n <= 40; n += 3) {
    const Index stride = simd::whole<T>(n);
    Rows<T> a(1, n, stride), x(2, n, columns), ones(3, 1, n);
    for (T& value : a.data) value *= T(0.3);
    std::fill_n(ones.get(), n, T(1));
    for (Index i = 0; i < n; ++i) std::fill(a.get() + i * stride + i, a.get() + (i + 1) * stride, support::nan<T>);
    const auto right_side = x;
    simd::solve_unit_lower(n, columns, a.get(), stride, x.get(), columns, ones.get());
    bool right = true;
    for (Index j = 0; j < columns; ++j) {
      for (Index i = 0; i < n; ++i) {
        long double sum = x(i, j);  // (I - A) x
        for (Index k = 0; k < i; ++k) sum -= (long double)(a(i, k)) * (long double)(x(k, j));
        right = right && near(T(sum), Rows<T>(right_side)(i, j), double(n) + 8);
      }
    }
    INFO(n << " rows");
    CHECK(right);
  }
}

TEMPLATE_TEST_CASE("a row is weighed up to what is seen, whatever lies behind", "[simd]", float, double) {
  using T = TestType;
  const Index end = 3 * simd::lanes<T>;
  Index wrong = 0;
  for (Index seen = 0; seen <= end; ++seen) {
    auto x = uniform<T>(1, end);
    const auto weight = uniform<T>(2, end), before = x;
    std::fill(x.begin() + seen, x.end(), support::nan<T>);
    auto y = x;
    simd::weigh_row<T>(x.data(), seen, end, T(-2), weight.data());
    simd::weigh_row<T>(y.data(), seen, end, T(-2), nullptr);
    for (Index j = 0; j < end; ++j) {
      const auto n = std::size_t(j);
      wrong += x[n] != (j < seen ? -2 * before[n] * weight[n] : 0);
      wrong += y[n] != (j < seen ? -2 * before[n] : 0);
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("scores with rows that decay from token to token", "[simd]", float, double) {
  using T = TestType;
  for (const Index vectors : {1, 3, 4, 6}) {
    const Index width = vectors * simd::lanes<T>;
    for (Index rows = 1; rows <= 19; ++rows) {
      Rows<T> w(1, rows, width + 1), fade(2, 1, width), a(3, 1, width), b(4, 1, width);
      const auto before = w;
      const T* const x[2] = {a.get(), b.get()};
      std::vector<T> first(std::size_t(simd::whole<T>(rows)), support::nan<T>), second = first, again = first;
      std::vector<T> sums;
      sums.resize(std::size_t(2 * simd::whole<T>(rows) * simd::lanes<T>));
      T* const scores[2] = {first.data(), second.data()};
      T* const one_score[1] = {again.data()};
      simd::moved_scores<2, true>(rows, width, w.get(), width + 1, fade.get(), x, scores, sums.data());
      simd::moved_scores<1, false>(rows, width, w.get(), width + 1, fade.get(), x, one_score, sums.data());
      bool right = true;
      for (Index j = 0; j < simd::whole<T>(rows); ++j) {
        long double dots[2] = {0, 0};
        for (Index d = 0; j < rows && d < width; ++d) {
          const T old = Rows<T>(before)(j, d), moved = j + 1 < rows ? old * fade(0, d) : old;
          right = right && w(j, d) == moved;
          dots[0] += (long double)(a(0, d)) * (long double)(moved);
          dots[1] += (long double)(b(0, d)) * (long double)(moved);
        }
        const auto n = std::size_t(j);
        right = right && near(first[n], dots[0], double(width) / 2) && near(second[n], dots[1], double(width) / 2);
        right = right && first[n] == again[n] && (j < rows || first[n] == 0);
      }
      INFO(rows << " rows of " << width);
      CHECK(right);
    }
  }
}
