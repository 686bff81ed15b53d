// The golden numbers of score modifiers and sinks on the fixture of the specification:
// val(s, a, b) = ((7 s + 5 a + 3 b + 2 a b) mod 13 - 6) / 4; q = val(1), k = val(2) [4 x 3], v = val(3) [4 x 2].
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

template <class T, class Recipe>
void check_golden(const Recipe& recipe, const std::vector<double>& wanted) {
  Matrix<T> q(4, 3), k(4, 3), v(4, 2);
  q << T(0.25), 1, T(-1.5), T(1.5), T(-0.5), T(0.75), T(-0.5), T(1.25), T(-0.25), T(0.75), T(-0.25), T(-1.25);
  k << T(-1.25), T(-0.5), T(0.25), 0, T(1.25), T(-0.75), T(1.25), T(-0.25), T(1.5), T(-0.75), T(1.5), T(0.5);
  v << T(0.5), T(1.25), T(-1.5), T(-0.25), T(-0.25), T(1.5), 1, 0;
  Matrix<T> out = Matrix<T>::Constant(4, 2, not_a_number<T>);
  fovea::attend(q, k, v, out, recipe);
  for (std::size_t n = 0; n < wanted.size(); ++n) CHECK(std::abs(double(out.data()[n]) - wanted[n]) < 1e-6);
}

}  // namespace

TEMPLATE_TEST_CASE("ALiBi with slope 0.5, causal", "", float, double) {
  check_golden<TestType>(fovea::softmax().mask(mask::causal()).score(score::alibi({0.5})),
                         {0.5, 1.25, -0.811467, 0.266400, -0.979575, 0.293295, -0.295994, 0.397402});
}

TEMPLATE_TEST_CASE("soft cap 2, causal", "", float, double) {
  check_golden<TestType>(fovea::softmax().mask(mask::causal()).score(score::soft_cap(2)),
                         {0.5, 1.25, -0.562626, 0.453030, -0.864570, 0.325345, -0.532881, 0.407971});
}

TEMPLATE_TEST_CASE("sink logit 0, causal", "", float, double) {
  check_golden<TestType>(fovea::softmax().mask(mask::causal()).sink_logits({0}),
                         {0.167506, 0.418765, -0.277155, 0.216071, -0.724883, 0.235935, -0.412461, 0.302407});
}
