// Nystroemformer against its reference, in its exact limits, and what it refuses.
#include "low_rank/nystrom.hpp"

#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/low_rank/nystrom.hpp>

#include "support/attention.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::NystromOptions;
using fovea::NystromStart;

namespace {

template <class T>
Tensor4<T> nystrom(const Inputs<T>& x, const NystromOptions& options) {
  Tensor4<T> out(x.q.dimension(0), x.q.dimension(1), x.q.dimension(2), x.v.dimension(3));
  out.setConstant(not_a_number<T>);
  fovea::nystrom(x.q, x.k, x.v, out, options);
  return out;
}

fovea::combine::TokenKernel kernel(Index heads, Index size) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  fovea::combine::TokenKernel result{size, {}};
  for (Index n = 0; n < heads * size; ++n) result.weights.push_back(normal(random));
  return result;
}

// The equations in a type of one's choice, over batch and heads.
template <class Real, class T>
Tensor4<Real> by_reference(const Inputs<T>& x, const NystromOptions& options, Real column_sum = 0) {
  const Sizes s = x.sizes();
  Tensor4<Real> out(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads, size = options.residual.size;
      const Matrix<Real> v = head(x.v, b, g).template cast<Real>();
      Matrix<Real> one =
          fovea::reference::nystrom<Real>(head(x.q, b, h).template cast<Real>(), head(x.k, b, g).template cast<Real>(),
                                          v, options.scale ? Real(*options.scale) : 1 / std::sqrt(Real(s.dim)),
                                          options.landmarks, options.iterations, column_sum);
      if (size > 0) {
        fovea::reference::Vector<Real> w(size);
        for (Index t = 0; t < size; ++t) w(t) = Real(T(options.residual.weights[std::size_t(h * size + t)]));
        one += fovea::reference::convolve_tokens<Real>(v, w);
      }
      std::copy_n(one.data(), one.size(), row(out, b, h, 0));
    }
  }
  return out;
}

Inputs<double> golden() {
  Inputs<double> x{Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 1)};
  x.q.setValues({{{{1, 0}, {0, 1}, {1, 1}, {1, -1}}}});
  x.k.setValues({{{{1, 0}, {0, 1}, {1, 1}, {-1, 1}}}});
  x.v.setValues({{{{1}, {2}, {3}, {4}}}});
  return x;
}

}  // namespace

TEST_CASE("the golden values of two landmarks") {
  Matrix<double> six(4, 1), twenty(4, 1);
  six << 2.177774995086, 2.708345189949, 2.443060092517, 1.928248438051;
  twenty << 2.177704867615, 2.708557735408, 2.443131301512, 1.928045369825;
  CHECK(relative_rms(nystrom(golden(), {.landmarks = 2}), six) < 1e-12);
  CHECK(relative_rms(nystrom(golden(), {.landmarks = 2, .iterations = 20}), twenty) < 1e-12);
  CHECK(relative_rms(by_reference<double>(golden(), {.landmarks = 2}), six) < 1e-12);
  CHECK(relative_rms(by_reference<double>(golden(), {.landmarks = 2, .iterations = 20}), twenty) < 1e-12);
}

TEMPLATE_TEST_CASE("nystrom equals its reference, within twice the error of the equations in its own type", "", float,
                   double) {
  using T = TestType;
  for (const auto& [s, m, size] : {std::tuple<Sizes, Index, Index>{{1, 1, 1, 2, 2, 1, 1}, 1, 0},
                                   {{2, 4, 2, 70, 70, 33, 15}, 9, 3},
                                   {{1, 2, 1, 300, 300, 64, 64}, 64, 35},
                                   {{1, 3, 3, 101, 101, 24, 40}, 16, 0},
                                   {{1, 2, 2, 90, 90, 8, 5}, 70, 7}}) {
    const auto x = gaussian<T>(s, 1, 2);
    for (const Index iterations : {1, 6}) {
      const NystromOptions options{.landmarks = m, .iterations = iterations, .residual = kernel(s.heads, size)};
      const auto wanted = by_reference<Exact<T>>(x, options);
      const double naive = relative_rms(by_reference<T>(x, options), wanted) / double(epsilon<T>);
      const double error = relative_rms(nystrom(x, options), wanted) / double(epsilon<T>);
      INFO(s << " landmarks " << m << " iterations " << iterations << ": error " << error << ", naive " << naive);
      CHECK(error < std::max(8.0, 2 * naive));
    }
  }
}

TEMPLATE_TEST_CASE("with a landmark for every token it is dense attention, bit for bit", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 60, 60, 32, 32});
  const auto dense = run(x, [](const auto& in, auto&& out) { fovea::scaled_dot_product(in.q, in.k, in.v, out); });
  CHECK(same_bits(nystrom(x, {.landmarks = 60}), dense.out));
  CHECK(same_bits(nystrom(x, {.landmarks = 64}), dense.out));
}

TEST_CASE("constant values stay constant once the iterations have converged") {
  auto x = gaussian<double>({1, 2, 1, 64, 64, 8, 8}, 1, 3);
  x.v.setConstant(3.25);
  const auto out = nystrom(x, {.landmarks = 4, .iterations = 30});
  for (Index n = 0; n < out.size(); ++n) CHECK(std::abs(out.data()[n] - 3.25) < 1e-11);
}

TEST_CASE("the start of its own does not depend on the batch, the shared one does") {
  const auto x = gaussian<double>({2, 2, 1, 50, 50, 16, 16}, 1, 2);
  const NystromOptions own{.landmarks = 8}, shared{.landmarks = 8, .start = NystromStart::shared};
  const auto all = nystrom(x, own);
  Inputs<double> second{Tensor4<double>(1, 2, 50, 16), Tensor4<double>(1, 1, 50, 16), Tensor4<double>(1, 1, 50, 16)};
  std::copy_n(row(x.q, 1, 0, 0), 1600, second.q.data());
  std::copy_n(row(x.k, 1, 0, 0), 800, second.k.data());
  std::copy_n(row(x.v, 1, 0, 0), 800, second.v.data());
  const auto alone = nystrom(second, own);
  CHECK(std::memcmp(alone.data(), row(all, 1, 0, 0), std::size_t(alone.size()) * sizeof(double)) == 0);
  const auto one_head = gaussian<double>({1, 1, 1, 50, 50, 16, 16}, 1, 2);
  CHECK(same_bits(nystrom(one_head, shared), nystrom(one_head, own)));

  double most = 0;
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 2; ++h) {
      const Matrix<double> A =
          fovea::reference::softmax_rows<double>(fovea::reference::landmarks<double>(head(x.q, b, h), 8),
                                                 fovea::reference::landmarks<double>(head(x.k, b, 0), 8), 0.25);
      for (Index j = 0; j < 8; ++j) most = std::max(most, A.col(j).sum());
    }
  }
  CHECK(relative_rms(nystrom(x, shared), by_reference<double>(x, shared, most)) < 100 * epsilon<double>);
}

TEST_CASE("padding counts as zeros in the landmarks and is seen by nobody, whatever it holds") {
  for (const Index m : {9, 60}) {
    const std::vector<Index> lengths{31, 50, 0};
    auto x = gaussian<double>({3, 2, 1, 50, 50, 16, 16}, 1, 2);
    const NystromOptions options{.landmarks = m, .residual = kernel(2, 5), .lengths = lengths};
    const auto clean = nystrom(x, options);
    for (Index b = 0; b < 3; ++b) {
      const Index length = lengths[std::size_t(b)];
      for (Index h = 0; h < 2; ++h) {
        Matrix<double> v = head(x.v, b, 0), wanted = fovea::reference::nystrom<double>(head(x.q, b, h), head(x.k, b, 0),
                                                                                       v, 0.25, m, 6, 0, length);
        fovea::reference::Vector<double> w(5);
        std::copy_n(options.residual.weights.data() + h * 5, 5, w.data());
        v.bottomRows(50 - length).setZero();
        wanted += fovea::reference::convolve_tokens<double>(v, w);
        const Matrix<double> got = head(clean, b, h);
        CHECK(relative_rms(Matrix<double>(got.topRows(length)), Matrix<double>(wanted.topRows(length))) <
              100 * epsilon<double>);
        CHECK(all_nan(row(clean, b, h, length), (50 - length) * 16));  // left alone
      }
      for (Index i = length; i < 50; ++i) {
        std::fill_n(row(x.k, b, 0, i), 16, infinity<double>);
        std::fill_n(row(x.v, b, 0, i), 16, not_a_number<double>);
        for (Index h = 0; h < 2; ++h) std::fill_n(row(x.q, b, h, i), 16, not_a_number<double>);
      }
    }
    CHECK(same_bits(nystrom(x, options), clean));
  }
  const auto x = gaussian<double>({2, 2, 1, 50, 50, 16, 16}, 1, 2);
  CHECK(relative_rms(nystrom(x, {.landmarks = 9, .lengths = {50, 50}}), nystrom(x, {.landmarks = 9})) <
        100 * epsilon<double>);
}

TEST_CASE("strides and threads do not change a bit") {
  const auto x = gaussian<float>({2, 4, 2, 333, 333, 32, 24});
  const NystromOptions options{.landmarks = 20, .residual = kernel(4, 9), .scale = 0.3};
  const auto serial = nystrom(x, options);
  for (const Index threads : {2, 5}) {
    auto out = serial;
    out.setConstant(not_a_number<float>);
    fovea::nystrom(x.q, x.k, x.v, out, options, fovea::exec::Pool(threads));
    CHECK(same_bits(out, serial));
  }
  const auto q = swap_axes(x.q), k = swap_axes(x.k), v = swap_axes(x.v);
  auto swapped = swap_axes(serial);
  swapped.setConstant(not_a_number<float>);
  fovea::nystrom(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(swapped), options);
  CHECK(same_bits(swap_axes(swapped), serial));
}

TEST_CASE("a NaN stays in its head, its batch, and its column of values") {
  auto x = gaussian<float>({2, 4, 2, 100, 100, 16, 16});
  const NystromOptions options{.landmarks = 10, .residual = kernel(4, 3)};
  const auto clean = nystrom(x, options);
  row(x.v, 1, 1, 5)[3] = not_a_number<float>;
  const auto out = nystrom(x, options);
  bool right = true;
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 4; ++h) {
      for (Index i = 0; i < 100; ++i) {
        for (Index e = 0; e < 16; ++e) {
          const float got = row(out, b, h, i)[e];
          right = right && (b == 1 && h >= 2 && e == 3 ? std::isnan(got) : got == row(clean, b, h, i)[e]);
        }
      }
    }
  }
  CHECK(right);
}

TEST_CASE("nothing to do is no error") {
  CHECK_NOTHROW(nystrom(gaussian<float>({0, 2, 1, 5, 5, 4, 4}), {.landmarks = 2}));
  CHECK_NOTHROW(nystrom(gaussian<float>({1, 2, 1, 0, 0, 4, 4}), {.landmarks = 2}));
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 12, 12, 8, 8});
  const std::string where = "fovea::nystrom: ";
  const auto refused = [&](const Inputs<float>& in, const NystromOptions& options) {
    return refusal_of(in, [&](const auto& y, auto&& out) { fovea::nystrom(y.q, y.k, y.v, out.out, options); });
  };
  CHECK(refused(x, {.landmarks = 0}) == where + "landmarks must be positive, got 0");
  CHECK(refused(x, {.landmarks = 4, .iterations = 0}) == where + "iterations must be positive, got 0");
  CHECK(refused(x, {.landmarks = 4, .residual = {4, std::vector<double>(8)}}) ==
        where + "the size of a token kernel must be odd, got 4");
  CHECK(refused(x, {.landmarks = 4, .residual = {5, std::vector<double>(9)}}) ==
        where + "a token kernel needs size weights for each head, wanted 10, got 9");
  CHECK(refused(x, {.landmarks = 4, .lengths = {3, 4}}) ==
        where + "there must be a length for each sequence, wanted 1, got 2");
  CHECK(refused(x, {.landmarks = 4, .lengths = {13}}) == where + "a length must be 0 to 12, got 13");
  CHECK(refused(x, {.landmarks = 4, .scale = infinity<double>}).rfind(where, 0) == 0);
  CHECK(refused(gaussian<float>({1, 2, 1, 12, 13, 8, 8}), {.landmarks = 4}) ==
        where + "k must have the length of q, wanted 12, got 13");
  CHECK(refusal_of(x, [&](const auto& y, auto&& out) { fovea::nystrom(y.q, y.k, y.v, out, {.landmarks = 4}); }) ==
        where + "there is no log-sum of a product of three matrices");
}
