#include "support/catch.hpp"

#include <cmath>
#include <fovea/simd/tile.hpp>
#include <limits>
#include <string>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;
using fovea::simd::Onto;

namespace {

// Matrices with gaps between their rows; the gaps are NaN and must neither be read nor written.
template <class T>
struct Matrices {
  int rows;
  Index columns, depth, lda, ldb, ldc;
  std::vector<T> a, b, c, shrink;

  Matrices(int r, Index n, Index d)
      : rows(r), columns(n), depth(d), lda(d + 3), ldb(n + 5), ldc(n + 7), shrink(support::uniform<T>(4, r, 0, 1)) {
    a = gapped(1, rows, depth, lda);
    b = gapped(2, depth, columns, ldb);
    c = gapped(3, rows, columns, ldc);
  }

  static std::vector<T> gapped(unsigned seed, Index height, Index width, Index stride) {
    auto x = support::uniform<T>(seed, height * stride + 1);  // never null, whatever the depth
    for (Index i = 0; i < height; ++i)
      for (Index j = width; j < stride; ++j) x[std::size_t(i * stride + j)] = support::nan<T>;
    return x;
  }

  template <int count, Onto onto>
  std::vector<T> product() const {
    auto result = c;
    if constexpr (onto == Onto::nothing) {  // what C held does not matter
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < columns; ++j) result[std::size_t(i * ldc + j)] = support::nan<T>;
    }
    fovea::simd::multiply_rows<count, onto>(columns, depth, a.data(), lda, b.data(), ldb, result.data(), ldc,
                                            onto == Onto::shrunk_sum ? shrink.data() : nullptr);
    return result;
  }

  // The first difference from the triple loop in long double, or "".
  std::string difference(const std::vector<T>& got, Onto onto) const {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < ldc; ++j) {
        const T value = got[std::size_t(i * ldc + j)];
        const auto name = "element " + std::to_string(i) + ", " + std::to_string(j);
        if (j >= columns) {
          if (support::bits(value) != support::bits(support::nan<T>)) return name + " is behind the row and written";
          continue;
        }
        long double sum = onto == Onto::nothing ? 0.0L : (long double)c[std::size_t(i * ldc + j)];
        if (onto == Onto::shrunk_sum) sum *= (long double)shrink[std::size_t(i)];
        long double size = std::fabs(sum);
        for (Index k = 0; k < depth; ++k) {
          const auto term = (long double)a[std::size_t(i * lda + k)] * (long double)b[std::size_t(k * ldb + j)];
          sum += term;
          size += std::fabs(term);
        }
        // Two roundings a step, two where it is added onto what is shrunk: (2 depth + 2) half epsilons of the sum of
        // the sizes.
        if (!(std::fabs(double(value - sum)) <= (double(depth) + 1) * support::epsilon<T> * double(size)))
          return name + " got " + std::to_string(value) + " wanted " + std::to_string(double(sum));
      }
    }
    return "";
  }
};

template <class T, int rows>
void compare_with_triple_loop() {
  for (Index vectors = 1; vectors <= 9; ++vectors) {
    for (const Index depth : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 64}) {
      const Matrices<T> m(rows, vectors * lanes<T>, depth);
      CAPTURE(rows, vectors, depth);
      CHECK(m.difference(m.template product<rows, Onto::nothing>(), Onto::nothing) == "");
      CHECK(m.difference(m.template product<rows, Onto::sum>(), Onto::sum) == "");
      CHECK(m.difference(m.template product<rows, Onto::shrunk_sum>(), Onto::shrunk_sum) == "");
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("multiply_rows of 1 to 3 rows is the triple loop", "[simd][tile]", float, double) {
  compare_with_triple_loop<TestType, 1>();
  compare_with_triple_loop<TestType, 2>();
  compare_with_triple_loop<TestType, 3>();
}

TEMPLATE_TEST_CASE("multiply_rows of 4 to 6 rows is the triple loop", "[simd][tile]", float, double) {
  compare_with_triple_loop<TestType, 4>();
  compare_with_triple_loop<TestType, 5>();
  compare_with_triple_loop<TestType, 6>();
}

TEMPLATE_TEST_CASE("multiply_rows touches nothing behind its matrices", "[simd][tile]", float, double) {
  using T = TestType;
  constexpr int rows = fovea::simd::tile_rows;
  for (Index vectors = 1; vectors <= 9; ++vectors) {
    const Index columns = vectors * lanes<T>, depth = 7;
    const support::Guarded<T> pa(rows * depth), pb(depth * columns), pc(rows * columns);
    T* const a = pa.at_end(rows * depth);
    T* const b = pb.at_end(depth * columns);
    T* const c = pc.at_end(rows * columns);
    std::fill(a, a + rows * depth, T(1));
    std::fill(b, b + depth * columns, T(2));
    fovea::simd::multiply_rows<rows, Onto::nothing>(columns, depth, a, depth, b, columns, c, columns);
    CAPTURE(vectors);
    CHECK(c[0] == T(14));
    CHECK(c[rows * columns - 1] == T(14));
  }
}

TEMPLATE_TEST_CASE("an element of a product does not depend on how the tiles are cut", "[simd][tile]", float, double) {
  using T = TestType;
  const Index columns = 9 * lanes<T>;
  const Matrices<T> m(6, columns, 64);
  const auto all = m.template product<6, Onto::sum>();
  int wrong = 0;
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < columns; j += lanes<T>) {
      auto one = m.c;
      fovea::simd::multiply_rows<1, Onto::sum>(lanes<T>, m.depth, m.a.data() + i * m.lda, m.lda, m.b.data() + j, m.ldb,
                                               one.data() + i * m.ldc + j, m.ldc);
      wrong += !support::same_bits(one.data() + i * m.ldc + j, all.data() + i * m.ldc + j, lanes<T>);
    }
  }
  CHECK(wrong == 0);
}

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
TEMPLATE_TEST_CASE("an element of a product is one chain of fused multiply-adds, added at the end", "[simd][tile]",
                   float, double) {
  using T = TestType;
  const Matrices<T> m(6, 5 * lanes<T>, 64);
  const auto got = m.template product<6, Onto::sum>();
  int wrong = 0;
  for (Index i = 0; i < m.rows; ++i) {
    for (Index j = 0; j < m.columns; ++j) {
      T sum = 0;
      for (Index k = 0; k < m.depth; ++k)
        sum = std::fma(m.a[std::size_t(i * m.lda + k)], m.b[std::size_t(k * m.ldb + j)], sum);
      wrong += m.c[std::size_t(i * m.ldc + j)] + sum != got[std::size_t(i * m.ldc + j)];
    }
  }
  CHECK(wrong == 0);
}
#endif

TEMPLATE_TEST_CASE("a NaN in a row of A stays in its row of C", "[simd][tile]", float, double) {
  using T = TestType;
  Matrices<T> m(6, 5 * lanes<T>, 9);
  m.a[std::size_t(2 * m.lda + 4)] = support::nan<T>;
  const auto got = m.template product<6, Onto::nothing>();
  int wrong = 0;
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < m.columns; ++j) wrong += std::isnan(got[std::size_t(i * m.ldc + j)]) != (i == 2);
  CHECK(wrong == 0);
}

TEST_CASE("whole_rows rounds up to whole register tiles", "[simd][tile]") {
  constexpr Index rows = fovea::simd::tile_rows;
  CHECK(fovea::simd::whole_rows(0) == 0);
  CHECK(fovea::simd::whole_rows(1) == rows);
  CHECK(fovea::simd::whole_rows(rows) == rows);
  CHECK(fovea::simd::whole_rows(rows + 1) == 2 * rows);
}
