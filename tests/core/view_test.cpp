#include "support/catch.hpp"

#include <cstdint>
#include <fovea/core/view.hpp>
#include <type_traits>
#include <vector>

using fovea::Index;
using fovea::View;

namespace {

// Distance of two pointers that point into no array, in elements.
template <class T>
Index distance(const T* from, const T* to) {
  return Index(reinterpret_cast<std::intptr_t>(to) - reinterpret_cast<std::intptr_t>(from)) / Index(sizeof(T));
}

}  // namespace

TEST_CASE("a raw pointer with extents is a contiguous row-major array", "[core][view]") {
  std::vector<float> memory(2 * 3 * 5 * 7);
  const auto x = fovea::view(memory.data(), {2, 3, 5, 7});
  CHECK(x.extents() == fovea::Extents{2, 3, 5, 7});
  int wrong = 0;
  for (Index b = 0; b < 2; ++b)
    for (Index h = 0; h < 3; ++h)
      for (Index i = 0; i < 5; ++i) wrong += x.row(b, h, i) != memory.data() + ((b * 3 + h) * 5 + i) * 7;
  CHECK(wrong == 0);
}

TEST_CASE("a view of const memory is a view of const", "[core][view]") {
  const double memory[6] = {};
  const auto x = fovea::view(memory, {1, 1, 2, 3});
  CHECK(std::is_same_v<decltype(x), const View<const double>>);
}

TEST_CASE("a view becomes a view of const with the same extents and strides", "[core][view]") {
  float memory[1] = {};
  const View<float> x{memory, 2, 3, 4, 5, 6, 7, 8};
  const View<const float> y = x;
  CHECK(y.data == memory);
  CHECK(y.extents() == x.extents());
  CHECK(y.batch_stride == 6);
  CHECK(y.head_stride == 7);
  CHECK(y.length_stride == 8);
  CHECK_FALSE(std::is_convertible_v<View<const float>, View<float>>);
}

TEST_CASE("a stride of zero repeats the same memory", "[core][view]") {
  float memory[4] = {1, 2, 3, 4};
  const Index many = Index{1} << 40;
  const View<float> x{memory, many, many, many, 4, 0, 0, 0};
  CHECK(x.row(many - 1, many - 1, many - 1) == memory);
}

TEST_CASE("rows of an array of more than 2^31 elements are found", "[core][view]") {
  // The addresses are computed, the memory is not touched.
  const auto base = reinterpret_cast<float*>(std::uintptr_t{1} << 20);
  const auto x = fovea::view(base, {3, 40000, 50000, 64});
  CHECK(distance(base, x.row(0, 0, 49999)) == Index{49999} * 64);
  CHECK(distance(base, x.row(0, 39999, 49999)) == (Index{39999} * 50000 + 49999) * 64);
  CHECK(distance(base, x.row(2, 39999, 49999)) == (Index{2} * 40000 * 50000 + Index{39999} * 50000 + 49999) * 64);
}

TEST_CASE("extents past 2^31 along one axis are kept", "[core][view]") {
  const auto base = reinterpret_cast<double*>(std::uintptr_t{1} << 20);
  const Index length = (Index{1} << 33) + 5;
  const auto x = fovea::view(base, {1, 1, length, 2});
  CHECK(x.length == length);
  CHECK(distance(base, x.row(0, 0, length - 1)) == 2 * (length - 1));
}
