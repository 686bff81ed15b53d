// What one writes in Eigen: S = Q K^T, softmax of its rows, O = S V. Threads share the heads; Eigen's products are
// serial.
#include <omp.h>

#include <Eigen/Core>

#include "peer.hpp"

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const peer::Inputs in(c);
  const peer::Buffer<float> out(in.q.size());
  // One query a head: the heads of a group are the rows of one product.
  const Eigen::Index rows = c.N == 1 ? c.group() : c.N, products = in.q.size() / (rows * c.D);

  omp_set_num_threads(c.threads);
  std::vector<Matrix> scores(c.threads, Matrix(rows, c.M));
  const auto call = [&] {
#pragma omp parallel for schedule(static)
    for (Eigen::Index p = 0; p < products; ++p) {
      const auto kv_head = p * (c.B * c.G) / products;
      const Eigen::Map<const Matrix> q(in.q.data() + p * rows * c.D, rows, c.D);
      const Eigen::Map<const Matrix> k(in.k.data() + kv_head * c.M * c.D, c.M, c.D);
      const Eigen::Map<const Matrix> v(in.v.data() + kv_head * c.M * c.D, c.M, c.D);
      Eigen::Map<Matrix> o(out.data() + p * rows * c.D, rows, c.D);
      auto& s = scores[omp_get_thread_num()];
      s.noalias() = q * k.transpose();
      for (Eigen::Index i = 0; i < rows; ++i) {
        auto seen = s.row(i).segment(c.first(i), c.visible(i) - c.first(i));
        seen = (c.scale() * (seen.array() - seen.maxCoeff())).exp();
        seen /= seen.sum();
        s.row(i).head(c.first(i)).setZero();
        s.row(i).tail(c.M - c.visible(i)).setZero();
      }
      o.noalias() = s * v;
    }
  };
  peer::report("eigen", c, in, call, peer::heads_outside_rows(c, out.data()));
}
