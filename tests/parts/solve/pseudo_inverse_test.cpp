#include <fovea/parts/solve/pseudo_inverse.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using Matrix = fovea::solve::SmallMatrix<double>;

namespace {

// A small matrix and its memory.
struct Owned {
  std::vector<double> memory;
  Matrix matrix;

  Owned(Index rows, Index columns)
      : memory(std::size_t(Matrix::size(rows, columns))), matrix(Matrix::zero(memory.data(), rows, columns)) {}
};

Owned random(unsigned seed, Index rows, Index columns) {
  Owned x(rows, columns);
  const auto numbers = support::uniform<double>(seed, rows * columns);
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) x.matrix.row(i)[j] = numbers[std::size_t(i * columns + j)];
  }
  return x;
}

double difference(Matrix a, Matrix b) {
  double most = 0;
  for (Index i = 0; i < a.rows; ++i) {
    for (Index j = 0; j < a.columns; ++j) most = std::max(most, std::abs(a.row(i)[j] - b.row(i)[j]));
  }
  return most;
}

Owned inverse(Matrix a, double start, Index iterations) {
  const Index n = a.rows;
  Owned z(n, n), p(n, n), s(n, n), next(n, n);
  fovea::solve::pseudo_inverse(a, start, iterations, z.matrix, p.matrix, s.matrix, next.matrix);
  return z;
}

}  // namespace

TEST_CASE("products of small matrices", "[parts][solve]") {
  for (const auto& [rows, depth, columns] :
       {std::array<Index, 3>{1, 1, 1}, {7, 3, 5}, {64, 64, 64}, {13, 150, 17}, {6, 65, 130}}) {
    auto a = random(1, rows, depth), b = random(2, depth, columns);
    Owned c(rows, columns), wanted(rows, columns);
    std::fill(c.memory.begin(), c.memory.end(), support::nan<double>);
    fovea::solve::multiply(a.matrix, b.matrix, c.matrix);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < columns; ++j) {
        for (Index k = 0; k < depth; ++k) wanted.matrix.row(i)[j] += a.matrix.row(i)[k] * b.matrix.row(k)[j];
      }
    }
    CHECK(difference(c.matrix, wanted.matrix) < 1e-13);
    if (Index(c.memory.size()) > rows * columns) CHECK(support::bits(c.memory.back()) == 0);  // padding is zero
  }
}

TEST_CASE("one iteration is its formula", "[parts][solve]") {
  auto a = random(3, 1, 1);
  const double x = a.matrix.row(0)[0], z = 0.5 * x, p = x * z;
  auto got = inverse(a.matrix, 0.5, 1);
  CHECK(std::abs(got.matrix.row(0)[0] - 0.25 * z * (13 - p * (15 - p * (7 - p)))) < 1e-15);
  CHECK(inverse(a.matrix, 0.5, 0).matrix.row(0)[0] == z);
}

TEST_CASE("many iterations give the inverse", "[parts][solve]") {
  for (const Index n : {1, 2, 5, 16, 33}) {
    auto a = random(unsigned(n), n, n);
    for (Index i = 0; i < n; ++i) a.matrix.row(i)[i] += 4;
    double rows = 0;
    for (Index i = 0; i < n; ++i) {
      double sum = 0;
      for (Index j = 0; j < n; ++j) sum += std::abs(a.matrix.row(i)[j]);
      rows = std::max(rows, sum);
    }
    for (const Index iterations : {29, 30}) {
      auto z = inverse(a.matrix, 1 / (rows * fovea::solve::largest_column_sum(a.matrix)), iterations);
      Owned product(n, n), unit(n, n);
      for (Index i = 0; i < n; ++i) unit.matrix.row(i)[i] = 1;
      fovea::solve::multiply(a.matrix, z.matrix, product.matrix);
      CHECK(difference(product.matrix, unit.matrix) < 1e-12);
    }
  }
}

TEST_CASE("the largest column sum counts sizes", "[parts][solve]") {
  Owned a(2, 3);
  const double numbers[2][3] = {{1, -2, 0}, {-4, 2.5, 0}};
  for (Index i = 0; i < 2; ++i) std::copy_n(numbers[i], 3, a.matrix.row(i));
  CHECK(fovea::solve::largest_column_sum(a.matrix) == 5);
}
