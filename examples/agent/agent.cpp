// Agent attention over an image of 20 x 24 tokens with 5 x 5 agents, by the kernel and by the equations; returns
// non-zero when they disagree.
#include "agent/agent.hpp"

#include <cstdio>
#include <fovea/agent/agent.hpp>

int main() {
  namespace reference = fovea::reference;
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(480, 64), k = Matrix::Random(480, 64), v = Matrix::Random(480, 64);
  const reference::Matrix<double> kernel = reference::Matrix<double>::Random(64, 9);

  auto out = fovea::output_for(q, v);
  fovea::vision_agent(q, k, v, out,
                      {.height = 20,
                       .width = 24,
                       .agents = 5,
                       .residual = {.size = 3, .weights = {kernel.data(), kernel.data() + 576}}});

  const reference::Matrix<double> Q = q.cast<double>(), K = k.cast<double>(), V = v.cast<double>();
  const reference::Matrix<double> expected =
      reference::agent<double>(Q, reference::pool_to_agents(Q, 20, 24, 5), K, V, 1 / 8.0) +
      reference::convolve<double>(V, 20, 24, kernel, reference::Vector<double>::Zero(64));
  const double error = (out.cast<double>() - expected).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 2e-6 ? 0 : 1;
}
