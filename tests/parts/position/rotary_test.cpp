#include "support/catch.hpp"

#include <cmath>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/position/rotary.hpp>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/parts.hpp"

using fovea::Extents;
using fovea::Index;
namespace position = fovea::position;
using position::RotaryLayout;
using position::RotaryOptions;

namespace {

template <class T>
struct Rotated {
  Extents extents;
  std::vector<T> given, out;

  Rotated(const Extents& e, unsigned seed = 1)
      : extents(e),
        given(support::uniform<T>(seed, e.batch * e.heads * e.length * e.dim)),
        out(given.size(), support::nan<T>) {}

  template <class Exec = fovea::exec::Serial>
  Rotated& run(const std::vector<Index>& positions, const RotaryOptions& options = {}, const Exec& executor = {}) {
    position::rotary(fovea::view(given.data(), extents), positions, fovea::view(out.data(), extents), options,
                     executor);
    return *this;
  }
};

// The pair of channels k, by the definition of each layout.
std::pair<Index, Index> pair_of(Index k, Index rotated, RotaryLayout layout) {
  return layout == RotaryLayout::half_split ? std::pair{k, k + rotated / 2} : std::pair{2 * k, 2 * k + 1};
}

// How many elements differ from the formula in long double. Cosine and sine are rounded (half an epsilon), the two
// products and their sum as well: below 2 epsilon of |a| + |b|. The angle is a product of rounded doubles: below 2 of
// their epsilon for each position.
template <class T>
int wrong_elements(const Rotated<T>& r, const std::vector<Index>& positions, const RotaryOptions& options) {
  const Index heads = r.extents.heads, length = r.extents.length, dim = r.extents.dim;
  const Index rotated = options.rotated == 0 ? dim : options.rotated;
  int wrong = 0;
  for (Index row = 0; row < r.extents.batch * heads * length; ++row) {
    const Index b = row / length / heads, t = row % length;
    const auto at = std::size_t(Index(positions.size()) == length ? t : b * length + t);
    const T* const x = r.given.data() + row * dim;
    const T* const y = r.out.data() + row * dim;
    for (Index k = 0; k < rotated / 2; ++k) {
      const auto [i, j] = pair_of(k, rotated, options.layout);
      const long double angle = (long double)positions[at] *
                                std::pow((long double)options.base, -2.0L * (long double)k / (long double)rotated);
      const long double first = x[i], second = x[j];
      const double allowed =
          2 * (support::epsilon<T> + std::fabs(double(positions[at])) *
                                         support::epsilon<double>)*double(std::fabs(first) + std::fabs(second));
      wrong += !(std::fabs(double(y[i] - (first * std::cos(angle) - second * std::sin(angle)))) <= allowed);
      wrong += !(std::fabs(double(y[j] - (first * std::sin(angle) + second * std::cos(angle)))) <= allowed);
    }
    for (Index c = rotated; c < dim; ++c) wrong += support::bits(x[c]) != support::bits(y[c]);
  }
  return wrong;
}

template <class T>
double dot(const T* x, const T* y, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += double(x[i]) * double(y[i]);
  return sum;
}

const std::vector<Index> five{0, 1, 7, 1000, 3};

}  // namespace

TEMPLATE_TEST_CASE("rotary is the rotation of its formula in both layouts and at odd widths", "[parts][position]",
                   float, double) {
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    for (const Index dim : {2, 4, 6, 10, 14, 30, 34, 64, 66, 128}) {
      const RotaryOptions options{layout, 10000, 0};
      CAPTURE(dim, int(layout));
      CHECK(wrong_elements(Rotated<TestType>({2, 3, 5, dim}).run(five, options), five, options) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("rotary with another base", "[parts][position]", float, double) {
  const RotaryOptions options{RotaryLayout::half_split, 500000, 0};
  CHECK(wrong_elements(Rotated<TestType>({1, 2, 5, 64}).run(five, options), five, options) == 0);
}

TEMPLATE_TEST_CASE("rotary turns the leading channels and copies the rest", "[parts][position]", float, double) {
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    for (const Index rotated : {2, 6, 32, 40}) {
      const RotaryOptions options{layout, 10000, rotated};
      CAPTURE(rotated, int(layout));
      CHECK(wrong_elements(Rotated<TestType>({1, 2, 5, 41}).run(five, options), five, options) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("position 0 is the identity", "[parts][position]", float, double) {
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    auto r = Rotated<TestType>({1, 2, 3, 38});
    r.run({0, 0, 0}, {layout, 10000, 0});
    CHECK(r.out == r.given);
  }
}

TEMPLATE_TEST_CASE("rotary preserves the norm", "[parts][position]", float, double) {
  // Each element is off by less than 2 epsilon of its pair's |a| + |b|, so the norm by less than 2 sqrt(2) of itself.
  using T = TestType;
  const Index dim = 38;
  const auto r = Rotated<T>({1, 2, 5, dim}).run(five);
  for (Index row = 0; row < 10; ++row) {
    const double before = std::sqrt(dot(r.given.data() + row * dim, r.given.data() + row * dim, dim));
    const double after = std::sqrt(dot(r.out.data() + row * dim, r.out.data() + row * dim, dim));
    CHECK(std::fabs(before - after) <= 3 * support::epsilon<T> * before);
  }
}

TEMPLATE_TEST_CASE("the product of a query and a key depends on the distance of their positions alone",
                   "[parts][position]", float, double) {
  using T = TestType;
  const Index dim = 38;
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    std::vector<double> products;
    double size = 0;
    for (const Index start : {0, 1, 5, 100, 4000}) {
      const RotaryOptions options{layout, 10000, 0};
      const auto q = Rotated<T>({1, 1, 1, dim}, 3).run({start + 11}, options);
      const auto k = Rotated<T>({1, 1, 1, dim}, 4).run({start}, options);
      products.push_back(dot(q.out.data(), k.out.data(), dim));
      size = std::sqrt(dot(q.given.data(), q.given.data(), dim) * dot(k.given.data(), k.given.data(), dim));
    }
    // Both vectors are off by less than 3 epsilon of their norm and their angles by less than 2 epsilon of double for
    // each position, in each of two products.
    const double allowed = (12 * support::epsilon<T> + 8 * 4011 * support::epsilon<double>)*size;
    for (const double product : products) CHECK(std::fabs(product - products[0]) <= allowed);
  }
}

TEMPLATE_TEST_CASE("the two layouts agree after the fixed permutation", "[parts][position]", float, double) {
  using T = TestType;
  const Index dim = 38;
  auto split = Rotated<T>({1, 2, 5, dim}), mixed = split;
  for (Index row = 0; row < 10; ++row) {
    for (Index k = 0; k < dim / 2; ++k) {
      mixed.given[std::size_t(row * dim + 2 * k)] = split.given[std::size_t(row * dim + k)];
      mixed.given[std::size_t(row * dim + 2 * k + 1)] = split.given[std::size_t(row * dim + k + dim / 2)];
    }
  }
  split.run(five, {RotaryLayout::half_split, 10000, 0});
  mixed.run(five, {RotaryLayout::interleaved, 10000, 0});
  double most = 0;
  for (Index row = 0; row < 10; ++row) {
    for (Index k = 0; k < dim / 2; ++k) {
      most = std::max(most, std::fabs(double(mixed.out[std::size_t(row * dim + 2 * k)]) -
                                      double(split.out[std::size_t(row * dim + k)])));
      most = std::max(most, std::fabs(double(mixed.out[std::size_t(row * dim + 2 * k + 1)]) -
                                      double(split.out[std::size_t(row * dim + k + dim / 2)])));
    }
  }
  CHECK(most <= 2 * support::epsilon<T>);  // the same two products below one, fused or not
}

TEMPLATE_TEST_CASE("rotary works in place", "[parts][position]", float, double) {
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    const RotaryOptions options{layout, 10000, 36};
    const auto apart = Rotated<TestType>({2, 2, 5, 38}).run(five, options);
    auto x = apart.given;
    const auto view = fovea::view(x.data(), apart.extents);
    position::rotary(view, five, view, options);
    CHECK(support::same_bits(x.data(), apart.out.data(), Index(x.size())));
  }
}

TEST_CASE("each batch may have positions of its own", "[parts][position]") {
  const std::vector<Index> positions{0, 1, 2, 3, 4, 100, 101, 102, 103, 104};
  CHECK(wrong_elements(Rotated<float>({2, 3, 5, 14}).run(positions), positions, {}) == 0);
}

TEST_CASE("negative positions turn back", "[parts][position]") {
  const std::vector<Index> positions{-1, -7, 0, 5, -1000};
  CHECK(wrong_elements(Rotated<double>({1, 1, 5, 14}).run(positions), positions, {}) == 0);
}

TEST_CASE("rotary takes tensors, matrices, other layouts and positions of int", "[parts][position]") {
  auto wanted = Rotated<float>({2, 3, 5, 14}).run(five);
  const std::vector<int> positions(five.begin(), five.end());
  const Eigen::TensorMap<Eigen::Tensor<float, 4, Eigen::RowMajor>> x(wanted.given.data(), 2, 3, 5, 14);
  Eigen::Tensor<float, 4, Eigen::RowMajor> out(2, 3, 5, 14), swapped(2, 5, 3, 14);
  position::rotary(x, positions, out);
  CHECK(support::same_bits(out.data(), wanted.out.data(), out.size()));
  position::rotary(x, positions, fovea::bthd(swapped));
  int wrong = 0;
  for (Index b = 0; b < 2; ++b)
    for (Index h = 0; h < 3; ++h)
      for (Index t = 0; t < 5; ++t)
        for (Index d = 0; d < 14; ++d) wrong += swapped(b, t, h, d) != out(b, h, t, d);
  CHECK(wrong == 0);
}

TEST_CASE("rotary gives the same bits on a pool", "[parts][position]") {
  const auto serial = Rotated<float>({2, 3, 5, 38}).run(five);
  for (const Index threads : {2, 3, 8}) {
    const auto pool = Rotated<float>({2, 3, 5, 38}).run(five, {}, fovea::exec::Pool(threads));
    CHECK(support::same_bits(serial.out.data(), pool.out.data(), Index(pool.out.size())));
  }
}

TEST_CASE("rotary touches nothing behind its rows", "[parts][position]") {
  for (const auto layout : {RotaryLayout::half_split, RotaryLayout::interleaved}) {
    for (const Index dim : {2, 6, 10, 18, 34, 38, 66}) {
      const support::Guarded<float> px(dim), po(dim);
      std::fill(px.at_end(dim), px.at_end(0), 1.f);
      position::rotary(fovea::view(static_cast<const float*>(px.at_end(dim)), {1, 1, 1, dim}), std::vector<Index>{0},
                       fovea::view(po.at_end(dim), {1, 1, 1, dim}), {layout, 10000, 0});
      CHECK(po.at_end(dim)[dim - 1] == 1.f);
    }
  }
}

TEST_CASE("no tokens are legal", "[parts][position]") {
  CHECK(support::refusal([] { Rotated<float>({2, 3, 0, 14}).run({}); }) == "accepted");
  CHECK(support::refusal([] { Rotated<float>({0, 3, 5, 14}).run(five); }) == "accepted");
}

TEST_CASE("rotary refuses what does not fit and touches nothing", "[parts][position]") {
  Rotated<float> r({1, 2, 5, 14});
  const auto said = [&](const std::vector<Index>& positions, const RotaryOptions& options) {
    return support::refusal([&] { r.run(positions, options); });
  };
  CHECK(said(five, {RotaryLayout::half_split, 10000, 3}) ==
        "fovea::position::rotary: the rotated channels must be even and at most the width 14, got 3");
  CHECK(said(five, {RotaryLayout::half_split, 10000, 16}) != "accepted");
  CHECK(said(five, {RotaryLayout::half_split, 10000, -2}) != "accepted");
  CHECK(said({0, 1, 2, 3}, {}) ==
        "fovea::position::rotary: positions must have one integer for each token, wanted 5 or 5, got 4");
  CHECK(said({}, {}) != "accepted");
  CHECK(said(five, {RotaryLayout::half_split, 0, 0}) ==
        "fovea::position::rotary: the base must be positive and finite, got 0");
  CHECK(said(five, {RotaryLayout::half_split, HUGE_VAL, 0}) != "accepted");
  int touched = 0;
  for (const float x : r.out) touched += !std::isnan(x);
  CHECK(touched == 0);
}

TEST_CASE("rotary refuses an odd width unless fewer channels are rotated", "[parts][position]") {
  CHECK(support::refusal([] {
          Rotated<float>({1, 1, 5, 13}).run(five);
        }) == "fovea::position::rotary: the rotated channels must be even and at most the width 13, got 13");
  CHECK(support::refusal([] {
          Rotated<float>({1, 1, 5, 13}).run(five, {RotaryLayout::half_split, 10000, 12});
        }) == "accepted");
}

TEST_CASE("rotary refuses an output of another shape", "[parts][position]") {
  std::vector<float> x(70), out(70);
  CHECK(support::refusal([&] {
          position::rotary(fovea::view(x.data(), {1, 1, 5, 14}), five, fovea::view(out.data(), {1, 1, 5, 12}));
        }) == "fovea::position::rotary: out must have the shape of x, wanted [1, 1, 5, 14], got [1, 1, 5, 12]");
}
