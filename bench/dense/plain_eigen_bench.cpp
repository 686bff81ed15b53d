// What a careful program without fovea does: softmax(Q K^T) V of each head with Eigen's products, the threads sharing
// the heads.
#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "bench.hpp"

namespace {

using bench::Index;

struct PlainEigen {
  template <class T>
  void operator()(const bench::Input<T>& in, bench::Tensor<T>& out, const fovea::exec::Pool& pool) const {
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Map = Eigen::Map<const Matrix>;
    const bench::Shape& s = in.shape;
    pool.parallel_for(s.batch * s.heads, s.flops() / double(s.batch * s.heads), [&](Index begin, Index end) {
      Matrix scores(s.queries, s.keys);
      for (Index item = begin; item < end; ++item) {
        const Index batch = item / s.heads, head = item % s.heads, kv_head = head / (s.heads / s.kv_heads);
        const Map q(&in.q(batch, head, 0, 0), s.queries, s.key_dim), k(&in.k(batch, kv_head, 0, 0), s.keys, s.key_dim),
            v(&in.v(batch, kv_head, 0, 0), s.keys, s.value_dim);
        scores.noalias() = (T(1) / std::sqrt(T(s.key_dim)) * q) * k.transpose();
        if (s.pattern.sees) hide(s.pattern, scores);
        for (Index i = 0; i < s.queries; ++i) {
          auto row = scores.row(i).array();
          row = (row - row.maxCoeff()).exp();
          row /= row.sum();
        }
        Eigen::Map<Matrix>(&out(batch, head, 0, 0), s.queries, s.value_dim).noalias() = scores * v;
      }
    });
  }

  template <class Matrix>
  static void hide(const bench::Pattern& pattern, Matrix& scores) {
    constexpr auto nothing = -std::numeric_limits<typename Matrix::Scalar>::infinity();
    const Index offset = scores.cols() - scores.rows();
    if (pattern.label == "causal") {
      for (Index i = 0; i < scores.rows(); ++i) scores.row(i).tail(scores.cols() - 1 - i - offset).setConstant(nothing);
    } else {
      for (Index i = 0; i < scores.rows(); ++i) {
        for (Index j = 0; j < scores.cols(); ++j) {
          if (!pattern.sees(i, j)) scores(i, j) = nothing;
        }
      }
    }
  }
};

const bool added = bench::add<float, double>("dense/plain_eigen", bench::dense_shapes(), PlainEigen{});

}  // namespace
