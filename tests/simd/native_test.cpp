#include "support/catch.hpp"

#include <fovea/simd/native.hpp>

#include "support/parts.hpp"

using fovea::simd::Native;
namespace simd = fovea::simd;

namespace {

// 1, 2, 3, ... from the given start.
template <class T, int count>
Native<T, count> counting(int start) {
  T lane[count];
  for (int i = 0; i < count; ++i) lane[i] = T(start + i);
  return simd::native_load<T, count>(lane);
}

template <class T, int count>
int wrong_joins() {
  const auto both = simd::join<T, count>(counting<T, count>(1), counting<T, count>(1 + count));
  int wrong = 0;
  for (int i = 0; i < 2 * count; ++i) wrong += both[i] != T(1 + i);
  return wrong;
}

// Subtraction shows the order: halves from halves, until one lane is left.
template <class T, int count>
bool folds_in_halves() {
  const auto given = counting<T, count>(3);
  T lane[count];
  for (int i = 0; i < count; ++i) lane[i] = given[i];
  for (int half = count / 2; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i] - 2 * lane[i + half];
  return simd::fold<T, count>(given, [](auto a, auto b) { return a - T(2) * b; }) == lane[0];
}

template <class T, int count>
int wrong_sums() {
  Native<T, count> x[count];
  T wanted[count];
  for (int i = 0; i < count; ++i) {
    wanted[i] = 0;
    for (int j = 0; j < count; ++j) {
      x[i][j] = T(i * i + 3 * j + (i ^ j));  // small integers: every order of summing is exact
      wanted[i] += x[i][j];
    }
  }
  const auto sums = simd::sum_each<T, count>(x);
  int wrong = 0;
  for (int i = 0; i < count; ++i) wrong += sums[i] != wanted[i];
  return wrong;
}

}  // namespace

TEMPLATE_TEST_CASE("join puts two vectors side by side", "[simd][native]", float, double) {
  CHECK(wrong_joins<TestType, 2>() == 0);
  CHECK(wrong_joins<TestType, 4>() == 0);
  CHECK(wrong_joins<TestType, 8>() == 0);
}

TEMPLATE_TEST_CASE("fold folds halves onto each other", "[simd][native]", float, double) {
  CHECK(folds_in_halves<TestType, 2>());
  CHECK(folds_in_halves<TestType, 4>());
  CHECK(folds_in_halves<TestType, 8>());
}

TEMPLATE_TEST_CASE("sum_each sums each vector into its lane", "[simd][native]", float, double) {
  CHECK(wrong_sums<TestType, 2>() == 0);
  CHECK(wrong_sums<TestType, 4>() == 0);
  CHECK(wrong_sums<TestType, 8>() == 0);
}

TEST_CASE("fold and sum_each of vectors of 64 bytes", "[simd][native]") {
  CHECK(folds_in_halves<float, 16>());
  CHECK(wrong_sums<float, 16>() == 0);
}
