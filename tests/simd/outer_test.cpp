#include "support/catch.hpp"

#include <cmath>
#include <fovea/simd/outer.hpp>

#include "support/parts.hpp"

using fovea::Index;
namespace simd = fovea::simd;

TEMPLATE_TEST_CASE("outer products are added and products replace, for all sizes of register tiles", "[simd][outer]",
                   float, double) {
  using T = TestType;
  for (const Index rows : {1, 2, 3, 4, 5, 6, 7, 13, 23}) {
    for (const Index vectors : {1, 2, 3, 5, 7}) {
      for (const Index depth : {0, 1, 9}) {
        const Index columns = vectors * simd::lanes<T>, ldc = columns + 3;
        INFO(rows << " x " << columns << ", depth " << depth);
        const Index steps = std::max<Index>(depth, 1);  // operands are somewhere, even without elements
        const auto a = support::uniform<T>(1, rows * steps), b = support::uniform<T>(2, steps * columns);
        std::vector<T> sum(std::size_t(rows * ldc), T(1)), product(sum);
        simd::add_outer(rows, columns, depth, a.data(), rows, b.data(), columns, sum.data(), ldc);
        Index done = 0;
        simd::multiply_by(rows, columns, depth, a.data(), depth, b.data(), columns, product.data(), ldc, simd::Ahead(),
                          [&](Index first, Index count) {
                            CHECK(first == done);
                            done += count;
                          });
        CHECK(done == rows);
        double worst = 0;
        for (Index i = 0; i < rows; ++i) {
          for (Index j = 0; j < columns; ++j) {
            double turned = 1, plain = 0;
            for (Index k = 0; k < depth; ++k) {
              turned += double(a[std::size_t(k * rows + i)]) * double(b[std::size_t(k * columns + j)]);
              plain += double(a[std::size_t(i * depth + k)]) * double(b[std::size_t(k * columns + j)]);
            }
            worst = std::max({worst, std::abs(double(sum[std::size_t(i * ldc + j)]) - turned),
                              std::abs(double(product[std::size_t(i * ldc + j)]) - plain)});
          }
          for (Index j = columns; j < ldc; ++j) {
            CHECK(sum[std::size_t(i * ldc + j)] == 1);
            CHECK(product[std::size_t(i * ldc + j)] == 1);
          }
        }
        CHECK(worst < 16 * support::epsilon<T>);
      }
    }
  }
}

TEST_CASE("what is needed soon is asked for line by line, then rows by the same line, then nothing", "[simd][outer]") {
  alignas(64) static const float x[64 * 16] = {};
  const char* const at = reinterpret_cast<const char*>(x);
  // Two rows of two lines behind each other: four lines in a row. Then two rows of one line with a gap.
  simd::Ahead ahead(2, x, 32, 32, x + 256, 48, 16);
  const auto is = [](simd::Ahead::Trail trail, const char* place, Index step) {
    return trail.at == place && trail.step == step;
  };
  CHECK(is(ahead.trail(3, at), at, 64));
  CHECK(is(ahead.trail(3, at), at + 3 * 64, 64));
  CHECK(is(ahead.trail(3, at), at + 1024, 192));
  CHECK(is(ahead.trail(3, at + 5), at + 5, 0));
  CHECK(is(simd::Ahead().trail(3, at), at, 0));
}
