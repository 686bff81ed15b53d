#include "support/catch.hpp"

#include <fovea/simd/native.hpp>
#include <fovea/simd/ops.hpp>
#include <type_traits>

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

// Runs f on every length of a vector that the instruction set has registers for.
template <class T, class F>
void for_each_length(F&& f) {
  const auto run = [&](auto count) {
    if constexpr (decltype(count)::value <= simd::lanes<T>) f(count);
  };
  run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 8>{});
  run(std::integral_constant<int, 16>{});
}

}  // namespace

TEMPLATE_TEST_CASE("join puts two vectors side by side", "[simd][native]", float, double) {
  for_each_length<TestType>([](auto count) {
    if constexpr (decltype(count)::value >= 4) CHECK(wrong_joins<TestType, decltype(count)::value / 2>() == 0);
  });
}

TEMPLATE_TEST_CASE("fold folds halves onto each other", "[simd][native]", float, double) {
  for_each_length<TestType>([](auto count) { CHECK(folds_in_halves<TestType, decltype(count)::value>()); });
}

TEMPLATE_TEST_CASE("sum_each sums each vector into its lane", "[simd][native]", float, double) {
  for_each_length<TestType>([](auto count) { CHECK(wrong_sums<TestType, decltype(count)::value>() == 0); });
}
