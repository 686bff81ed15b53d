#include "support/catch.hpp"

#include <fovea/simd/transpose.hpp>
#include <string>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;

namespace {

// The first wrong element of the transpose of rows [count x width] with these gaps, or "". Rows end right before a page
// that may not be touched; gaps in the source are NaN; gaps in the result must stay as they are.
template <class T>
std::string difference(Index count, Index width, Index row_gap, Index column_gap) {
  const Index padded = fovea::simd::whole<T>(count), row_stride = width + row_gap, column_stride = padded + column_gap;
  const Index size = count == 0 ? 0 : (count - 1) * row_stride + width;
  const support::Guarded<T> memory(size + 1);
  T* const rows = memory.at_end(size);
  std::fill(rows, rows + size, support::nan<T>);
  for (Index i = 0; i < count; ++i)
    for (Index c = 0; c < width; ++c) rows[i * row_stride + c] = T(i * width + c + 1);
  std::vector<T> columns(std::size_t(width * column_stride + lanes<T>), T(-1));
  fovea::simd::transpose(count, width, static_cast<const T*>(rows), row_stride, columns.data(), column_stride);
  for (Index at = 0; at < Index(columns.size()); ++at) {
    const Index c = column_stride == 0 ? width : at / column_stride, j = at - c * column_stride;
    const T wanted = c >= width || j >= padded ? T(-1) : j < count ? T(j * width + c + 1) : T(0);
    if (!(columns[std::size_t(at)] == wanted))
      return "count " + std::to_string(count) + " width " + std::to_string(width) + " column " + std::to_string(c) +
             " row " + std::to_string(j) + " got " + std::to_string(columns[std::size_t(at)]);
  }
  return "";
}

}  // namespace

TEMPLATE_TEST_CASE("transpose of contiguous rows", "[simd][transpose]", float, double) {
  for (Index count = 0; count <= 2 * lanes<TestType> + 3; ++count)
    for (const Index width : {1, 2, 3, 4, 5, 6, 7, 8, 9, 64}) CHECK(difference<TestType>(count, width, 0, 0) == "");
}

TEMPLATE_TEST_CASE("transpose of strided rows to strided columns", "[simd][transpose]", float, double) {
  for (Index count = 0; count <= 2 * lanes<TestType> + 3; ++count) {
    for (const Index width : {1, 2, 3, 4, 5, 6, 7, 8, 9, 64}) {
      CHECK(difference<TestType>(count, width, 1, 3) == "");
      CHECK(difference<TestType>(count, width, 61, 16) == "");
    }
  }
}

TEMPLATE_TEST_CASE("transpose of a row that repeats", "[simd][transpose]", float, double) {
  using T = TestType;
  const std::vector<T> row{1, 2, 3, 4, 5};
  const Index count = lanes<T> + 1, padded = fovea::simd::whole<T>(count);
  std::vector<T> columns(std::size_t(5 * padded), T(-1));
  fovea::simd::transpose(count, Index{5}, row.data(), Index{0}, columns.data(), padded);
  int wrong = 0;
  for (Index c = 0; c < 5; ++c)
    for (Index j = 0; j < padded; ++j) wrong += columns[std::size_t(c * padded + j)] != (j < count ? T(c + 1) : T(0));
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("transpose keeps every bit, NaN payloads included", "[simd][transpose]", float, double) {
  using T = TestType;
  const Index count = lanes<T> + 1, width = 5, padded = fovea::simd::whole<T>(count);
  std::vector<T> rows(std::size_t(count * width)), columns(std::size_t(width * padded));
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] = support::from_bits<T>(~support::Word<T>(0) - support::Word<T>(i));
  fovea::simd::transpose(count, width, static_cast<const T*>(rows.data()), width, columns.data(), padded);
  int wrong = 0;
  for (Index j = 0; j < count; ++j)
    for (Index c = 0; c < width; ++c)
      wrong += support::bits(columns[std::size_t(c * padded + j)]) != support::bits(rows[std::size_t(j * width + c)]);
  CHECK(wrong == 0);
}
