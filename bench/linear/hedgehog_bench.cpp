// Hedgehog attention with the matrix that its training starts from, the identity: what the features alone are worth.
#include <fovea/linear/hedgehog.hpp>

#include "linear/hedgehog.hpp"

#include "bench.hpp"

namespace {

using bench::Index;
using bench::Matrix;

template <class Real>
Matrix<Real> features(const Matrix<Real>& x) {
  const Index dim = x.cols();
  Matrix<Real> result(x.rows(), 2 * dim);
  for (Index i = 0; i < x.rows(); ++i) {
    fovea::reference::RowVector<Real> y(2 * dim);
    y << x.row(i), -x.row(i);
    result.row(i).head(dim) = fovea::reference::softmax_features<Real>(y.head(dim));
    result.row(i).tail(dim) = fovea::reference::softmax_features<Real>(y.tail(dim));
  }
  return result.cwiseMax(Real(1e-12));
}

const auto hedgehog =
    bench::method([](const auto& in, const auto& phi, auto&& out, const auto& executor) {
      fovea::hedgehog(in.q, in.k, in.v, out, phi, {}, executor);
    })
        .state([](const auto& in, const auto&) {
          const Matrix<double> identity = Matrix<double>::Identity(in.shape.key_dim, in.shape.key_dim);
          return fovea::feature::hedgehog(fovea::feature::Projection(fovea::view(identity)));
        })
        .head_reference([]<class Real>(const bench::Head<Real>& head) {
          const Matrix<Real> a = features(head.q), b = features(head.k);
          const Matrix<Real> features_by_keys = b.transpose();
          Matrix<Real> out = a.lazyProduct(Matrix<Real>(features_by_keys.lazyProduct(head.v)));
          const Matrix<Real> sums = b.colwise().sum();
          for (Index i = 0; i < out.rows(); ++i) out.row(i) /= a.row(i).dot(sums.row(0)) + Real(1e-12);
          return out;
        })
        .flops([](const bench::Shape& s) {
          const double d = double(s.key_dim), of_token = 2 * d * d + 4 * d * double(s.value_dim);
          return of_token * double(s.batch) * (double(s.heads * s.queries) + double(s.kv_heads * s.keys));
        });

const bool added = bench::add("linear/hedgehog", bench::growth_shapes(), hedgehog) &&
                   bench::add("linear/hedgehog", bench::approximate_shapes(), hedgehog);

}  // namespace
