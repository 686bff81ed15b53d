// Random directions that are orthogonal in blocks of D, from a seed.
//
// Every block of D rows is an orthonormal basis of a uniformly random orientation: Gaussian rows made orthonormal one
// after the other. Each row is then given a length of its own. The numbers are the same on every platform up to
// rounding: 64 random bits of the Mersenne twister, turned into normal numbers here.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/view.hpp>

namespace fovea::inline FOVEA_ISA::feature {

// Lengths of the rows: those of fresh Gaussian rows, or sqrt(D) for all.
enum class RowLength { chi, sqrt_dim };

// A matrix [rows, dim] of its own.
struct Directions {
  Index rows = 0, dim = 0;
  std::vector<double> numbers = {};

  View<const double> view() const { return fovea::view(numbers.data(), {1, 1, rows, dim}); }
};

namespace detail {

// Normal numbers by the method of Box and Muller 1958.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : bits_(seed) {}

  double operator()() {
    if (kept_) {
      kept_ = false;
      return next_;
    }
    const double radius = std::sqrt(-2 * std::log(uniform())), angle = 2 * 3.14159265358979323846 * uniform();
    next_ = radius * std::sin(angle);
    kept_ = true;
    return radius * std::cos(angle);
  }

 private:
  double uniform() { return (double(bits_() >> 11) + 0.5) * 0x1p-53; }  // inside (0, 1)

  std::mt19937_64 bits_;
  double next_ = 0;
  bool kept_ = false;
};

}  // namespace detail

// ceil(rows / dim) blocks, the last one cut; O(rows dim^2).
inline Directions orthogonal_directions(Index rows, Index dim, std::uint64_t seed, RowLength length = RowLength::chi) {
  constexpr auto where = "fovea::feature::orthogonal_directions";
  check(rows > 0, where, "there must be at least one row, got ", rows);
  check(dim > 0, where, "the width must be positive, got ", dim);
  detail::Normal normal(seed);
  Directions result{rows, dim, std::vector<double>(std::size_t(rows * dim))};
  const auto row = [&](Index r) { return result.numbers.data() + r * dim; };
  const auto dot = [dim](const double* a, const double* b) {
    double sum = 0;
    for (Index d = 0; d < dim; ++d) sum += a[d] * b[d];
    return sum;
  };
  for (Index r = 0; r < rows; ++r) {
    double* const x = row(r);
    for (double size = 0; size < 1e-6;) {  // once, but for a row that lies among its predecessors by bad luck
      for (Index d = 0; d < dim; ++d) x[d] = normal();
      for (int pass = 0; pass < 2; ++pass) {  // the second pass takes away what rounding left in the first
        for (Index s = r / dim * dim; s < r; ++s) {
          const double share = dot(row(s), x);
          for (Index d = 0; d < dim; ++d) x[d] -= share * row(s)[d];
        }
        size = std::sqrt(dot(x, x));
        for (Index d = 0; d < dim; ++d) x[d] /= size;
      }
    }
  }
  for (Index r = 0; r < rows; ++r) {
    double square = double(dim);
    if (length == RowLength::chi) {
      square = 0;
      for (Index d = 0; d < dim; ++d) {
        const double x = normal();
        square += x * x;
      }
    }
    for (Index d = 0; d < dim; ++d) row(r)[d] *= std::sqrt(square);
  }
  return result;
}

}  // namespace fovea::inline FOVEA_ISA::feature
