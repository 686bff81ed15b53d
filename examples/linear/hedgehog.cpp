// Hedgehog attention with one learned matrix, here a random one: causal, in the softmax and in the exponential form, by
// the kernel and by the reference; returns non-zero when they disagree.
#include "linear/hedgehog.hpp"

#include <cstdio>
#include <fovea/linear/hedgehog.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(200, 16), k = Matrix::Random(200, 16), v = Matrix::Random(200, 16);
  const Matrix w = Matrix::Random(16, 16);
  const fovea::feature::Projection learned(fovea::view(w));

  auto softmax = fovea::output_for(q, v), exponential = fovea::output_for(q, v);
  fovea::chunk_hedgehog(q, k, v, softmax, fovea::feature::hedgehog(learned));
  fovea::chunk_hedgehog(q, k, v, exponential, fovea::feature::hedgehog_exp(learned));

  using fovea::reference::Hedgehog;
  const fovea::reference::RowVector<double> none = fovea::reference::RowVector<double>::Zero(16);
  double error = 0;
  for (const Hedgehog form : {Hedgehog::softmax, Hedgehog::exp}) {
    const auto expected = fovea::reference::hedgehog<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                             w.cast<double>(), none, form, {.causal = true});
    const Matrix& got = form == Hedgehog::exp ? exponential : softmax;
    error = std::max(error, (got.cast<double>() - expected).cwiseAbs().maxCoeff());
  }
  std::printf("largest error %.1e\n", error);
  return error < 2e-6 ? 0 : 1;
}
