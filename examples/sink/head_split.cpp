// Four heads over 500 tokens, two that retrieve and two that stream, by the kernel and by the equation; returns
// non-zero when they disagree.
#include "sink/head_split.hpp"

#include <cstdio>
#include <fovea/sink/head_split.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

int main() {
  Eigen::Tensor<float, 3, Eigen::RowMajor> q(4, 500, 64), k(4, 500, 64), v(4, 500, 64);
  q.setRandom(), k.setRandom(), v.setRandom();

  const std::vector<bool> retrieval = fovea::retrieval_heads({0.9, 0.1, 0.2, 0.7}, 0.5);
  auto out = fovea::output_for(q, v);
  fovea::head_split(q, k, v, out, {.retrieval = retrieval, .window = 64, .sink_tokens = 4});

  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  double error = 0;
  for (Eigen::Index h = 0; h < 4; ++h) {
    const auto head = [h](const auto& x) {
      return Eigen::Map<const Matrix>(x.data() + h * 500 * 64, 500, 64).cast<double>().eval();
    };
    const auto expected =
        fovea::reference::head_split<double>(head(q), head(k), head(v), retrieval[std::size_t(h)], 64, 4);
    for (Eigen::Index n = 0; n < expected.size(); ++n)
      error = std::max(error, std::abs(out.data()[h * expected.size() + n] - expected.data()[n]));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
