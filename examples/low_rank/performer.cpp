// Performer attention with 64 positive orthogonal random features, over all keys and causal, by the kernel and by the
// reference on the same features, and how far both are from softmax attention; returns non-zero when kernel and
// reference disagree.
#include "low_rank/performer.hpp"

#include <cstdio>
#include <fovea/low_rank/performer.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Exact = fovea::reference::Matrix<double>;
  const Matrix q = Matrix::Random(200, 16), k = Matrix::Random(200, 16), v = Matrix::Random(200, 16);

  const auto w = fovea::feature::orthogonal_directions(64, 16, 1);
  const auto features = fovea::feature::positive_random(w);
  auto full = fovea::output_for(q, v), causal = fovea::output_for(q, v);
  fovea::performer(q, k, v, full, features);
  fovea::chunk_performer(q, k, v, causal, features);

  const Exact directions = Eigen::Map<const Exact>(w.numbers.data(), 64, 16);
  const Exact eq = q.cast<double>(), ek = k.cast<double>(), ev = v.cast<double>();
  double error = 0;
  for (const bool is_causal : {false, true}) {
    const auto expected =
        fovea::reference::performer<double>(eq, ek, ev, directions, fovea::reference::Performer::positive, 0.25,
                                            is_causal ? 0 : 1e-4, {.causal = is_causal, .epsilon = 1e-6});
    error = std::max(error, ((is_causal ? causal : full).cast<double>() - expected).cwiseAbs().maxCoeff());
  }
  const Exact dense = fovea::reference::scaled_dot_product<double>(eq, ek, ev, 0.25).out;
  std::printf("largest error %.1e, distance from softmax %.3f\n", error,
              (full.cast<double>() - dense).norm() / dense.norm());
  return error < 2e-6 ? 0 : 1;
}
