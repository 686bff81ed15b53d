// Performer attention with D ln D positive orthogonal random features.
#include <fovea/low_rank/performer.hpp>

#include <cmath>

#include "bench.hpp"

namespace {

using bench::Index;
using bench::Matrix;

struct Features {
  fovea::feature::Directions directions;
  fovea::feature::ExponentialRandom<false> map;
};

Index count(Index dim) { return Index(double(dim) * std::log(double(dim))); }

// m^-1/2 (e^(y - shift) + 1e-4), the shift that of each row, or of all.
template <class Real>
Matrix<Real> features(const Matrix<Real>& x, const fovea::feature::Directions& w, bool of_all) {
  const Matrix<Real> rows = Eigen::Map<const Matrix<double>>(w.numbers.data(), w.rows, w.dim).cast<Real>();
  const Matrix<Real> z = x / std::sqrt(std::sqrt(Real(w.dim)));
  Matrix<Real> y = z.lazyProduct(rows.transpose());
  y.colwise() -= z.rowwise().squaredNorm() / 2;
  const Real most = y.maxCoeff(), factor = 1 / std::sqrt(Real(w.rows));
  for (Index i = 0; i < y.rows(); ++i) {
    const Real shift = of_all ? most : y.row(i).maxCoeff();
    for (Index f = 0; f < y.cols(); ++f) y(i, f) = factor * (std::exp(y(i, f) - shift) + Real(1e-4));
  }
  return y;
}

const auto performer =
    bench::method([](const auto& in, const Features& features, auto&& out, const auto& executor) {
      fovea::performer(in.q, in.k, in.v, out, features.map, {}, executor);
    })
        .state([](const auto& in, const auto&) {
          auto directions = fovea::feature::orthogonal_directions(count(in.shape.key_dim), in.shape.key_dim, 1);
          return Features{directions, fovea::feature::positive_random(directions)};
        })
        .head_reference([]<class Real>(const bench::Head<Real>& head, const Features& f) {
          const Matrix<Real> a = features(head.q, f.directions, false), b = features(head.k, f.directions, true);
          const Matrix<Real> features_by_keys = b.transpose();
          Matrix<Real> out = a.lazyProduct(Matrix<Real>(features_by_keys.lazyProduct(head.v)));
          const Matrix<Real> sums = b.colwise().sum();
          for (Index i = 0; i < out.rows(); ++i) out.row(i) /= a.row(i).dot(sums.row(0)) + Real(1e-6);
          return out;
        })
        .flops([](const bench::Shape& s) {
          const double of_token = 2 * double(count(s.key_dim)) * double(s.key_dim + s.value_dim);
          return of_token * double(s.batch) * (double(s.heads * s.queries) + double(s.kv_heads * s.keys));
        });

const bool added = bench::add("low_rank/performer", bench::quick_growth(bench::growth_shapes()), performer) &&
                   bench::add("low_rank/performer", bench::approximate_shapes(), performer);

}  // namespace
