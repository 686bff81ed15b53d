// Ranking against a full sort, on inputs that are hard for one algorithm or another.
#include <cmath>
#include <fovea/parts/select/ranking.hpp>
#include <numeric>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::select::Ranking;
using fovea::select::TopP;
using List = std::vector<Index>;

namespace {

constexpr double infinity = HUGE_VAL;

List listed(std::span<const Index> indices) { return {indices.begin(), indices.end()}; }

// Indices of what may be chosen, best first.
template <class T>
List sorted(const std::vector<T>& x) {
  List order(x.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::erase_if(order, [&](Index i) { return !(double(x[std::size_t(i)]) > -infinity); });
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return x[std::size_t(a)] > x[std::size_t(b)]; });
  return order;
}

List first(List order, Index n) {
  order.resize(std::min(order.size(), std::size_t(std::max<Index>(n, 0))));
  std::sort(order.begin(), order.end());
  return order;
}

enum Kind { uniform, equal, rising, falling, few_values, zeros, tail, holes, wide, tiny, kinds };

template <class T>
std::vector<T> scores(int kind, Index n) {
  auto x = support::uniform<T>(unsigned(kind + 10 * n), n, -3, 3);
  for (Index i = 0; i < n; ++i) {
    T& s = x[std::size_t(i)];
    switch (kind) {
      case equal:
        s = T(1);
        break;
      case rising:
        s = T(i);
        break;
      case falling:
        s = T(-i);
        break;
      case few_values:
        s = std::round(s);
        break;
      case zeros:
        s = i % 3 == 0 ? T(0) : i % 3 == 1 ? -T(0) : std::round(s);
        break;
      case tail:
        s = i > n / 2 ? T(-infinity) : s;
        break;
      case holes:
        s = i % 7 == 0 ? support::nan<T> : i % 5 == 0 ? T(infinity) : s;
        break;
      case wide:
        s = std::exp(15 * s);
        break;
      case tiny:
        s = (i % 2 == 0 ? 1 : -1) * std::exp(3 * s - 90);
        break;
      default:
        break;
    }
  }
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("top_k is the first k of a full sort", "", float, double) {
  Ranking<TestType> ranking;
  for (const Index n : {0, 1, 2, 15, 16, 17, 63, 64, 65, 300, 4096, 4097, 6000}) {
    for (int kind = 0; kind < kinds; ++kind) {
      const auto x = scores<TestType>(kind, n);
      const auto order = sorted(x);
      for (const Index k : {Index{-1}, Index{0}, Index{1}, Index{2}, Index{16}, n / 8, n / 2, n - 1, n, n + 5}) {
        INFO("n " << n << " kind " << kind << " k " << k);
        CHECK(listed(ranking.top_k(x.data(), n, k)) == first(order, k));
      }
    }
  }
}

TEST_CASE("of equal scores the lower indices are chosen") {
  Ranking<float> ranking;
  const std::vector<float> same(5, 1.f), some{2, 1, 3, 1, 1, 0};
  CHECK(listed(ranking.top_k(same.data(), 5, 3)) == List{0, 1, 2});
  CHECK(listed(ranking.top_k(some.data(), 6, 4)) == List{0, 1, 2, 3});
}

TEST_CASE("the three rules of top_p differ by the weight that crosses") {
  Ranking<double> ranking;
  const std::vector<double> w{0.125, 0.5, 0.125, 0.25};
  const auto sizes = [&](double p) {
    List result;
    for (const auto rule : {TopP::inclusive, TopP::one_more, TopP::fitting})
      result.push_back(Index(ranking.top_p(w.data(), 4, p, rule).size()));
    return result;
  };
  CHECK(sizes(0.5) == List{1, 2, 1});
  CHECK(sizes(0.6) == List{2, 2, 1});
  CHECK(sizes(0.75) == List{2, 3, 2});
  CHECK(sizes(0) == List{0, 1, 1});
  CHECK(sizes(1) == List{4, 4, 4});
  CHECK(listed(ranking.top_p(w.data(), 4, 0.8)) == List{0, 1, 3});
}

TEMPLATE_TEST_CASE("top_p takes weights that do not sum up to one, and all that there are for p of one", "", float,
                   double) {
  Ranking<TestType> ranking;
  auto w = support::uniform<TestType>(3, 1000, 0, 1);
  w[17] = support::nan<TestType>;
  const auto order = sorted(w);
  double mass = 0;
  for (const Index i : order) mass += double(w[std::size_t(i)]);
  for (const double p : {0.01, 0.3, 0.9, 0.999}) {
    Index n = 0;
    for (double sum = 0; sum < p * mass; ++n) sum += double(w[std::size_t(order[std::size_t(n)])]);
    CHECK(listed(ranking.top_p(w.data(), 1000, p)) == first(order, n));
  }
  for (const auto rule : {TopP::inclusive, TopP::one_more, TopP::fitting})
    CHECK(ranking.top_p(w.data(), 1000, 1, rule).size() == 999);
}

TEMPLATE_TEST_CASE("at_least takes what reaches the threshold, neither NaN nor -infinity", "", float, double) {
  Ranking<TestType> ranking;
  for (int kind = 0; kind < kinds; ++kind) {
    const auto x = scores<TestType>(kind, 133);
    for (const double threshold : {-infinity, -1.0, 0.0, 1.0, 1e30}) {
      List wanted;
      for (Index i = 0; i < 133; ++i) {
        const double s = double(x[std::size_t(i)]);
        if (s >= double(TestType(threshold)) && s > -infinity) wanted.push_back(i);
      }
      CHECK(listed(ranking.at_least(x.data(), 133, TestType(threshold))) == wanted);
    }
  }
}
