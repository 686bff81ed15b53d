// A method of one's own: ALiBi over a sliding window, with four tokens that every query sees and a learned sink. The
// recipe is the equation; the engine does the rest. Returns non-zero when kernel and equation disagree.
#include <cstdio>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/alibi.hpp>

#include "dense/scaled_dot_product.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(500, 32), k = Matrix::Random(500, 32), v = Matrix::Random(500, 32);
  const double slope = 0.25, sink = -1.5;

  namespace mask = fovea::mask;
  const auto recipe = fovea::softmax()
                          .mask(mask::causal() & (mask::window(64) | mask::prefix(4)))
                          .score(fovea::score::alibi({slope}))
                          .sink_logits({sink});
  auto out = fovea::output_for(q, v);
  fovea::attend(q, k, v, out, recipe);

  const auto expected = fovea::reference::scaled_dot_product<double>(
      q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / std::sqrt(32.0),
      {.visible = [](Eigen::Index i, Eigen::Index j) { return j <= i && (i - j < 64 || j < 4); },
       .score = [=](double s, Eigen::Index i, Eigen::Index j) { return s - slope * double(i - j); },
       .sink_logit = sink});
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n)
    error = std::max(error, std::abs(out.data()[n] - expected.out.data()[n]));
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
