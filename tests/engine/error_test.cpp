// The error against the reference, beside that of a naive loop in the same type: never above it.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;

namespace {

// Enough rows and channels of each, over `draws` draws, that the two errors are statistics rather than accidents.
const std::vector<Sizes> shapes = {
    {200, 2, 2, 16, 16, 16, 16},  // small
    {40, 3, 3, 17, 33, 15, 15},   // a text recogniser's heads
    {8, 2, 1, 100, 100, 64, 64},  // not whole tiles
    {1, 2, 2, 197, 197, 64, 64},  // image patches
    {1, 1, 1, 64, 1024, 64, 64}, {1, 1, 1, 100, 512, 128, 128}, {4, 1, 1, 64, 130, 200, 200},
    {1, 4, 1, 100, 300, 33, 15}, {8, 8, 2, 1, 1000, 64, 64},  // decode
    {2, 4, 4, 1, 4000, 64, 64},  {4, 4, 4, 4, 777, 33, 33},
};
constexpr unsigned draws = 4;

enum class Kind { gaussian, sharp, aligned };

const char* name(Kind kind) { return kind == Kind::gaussian ? "gaussian" : kind == Kind::sharp ? "sharp" : "aligned"; }

// Gaussian; the same with scores of deviation 4; and, like the heads of trained models, keys that share a direction
// which queries find, so that scores are large, mostly of one sign, and a few keys take most of the weight.
template <class T>
Inputs<T> inputs(const Sizes& s, Kind kind, unsigned seed) {
  auto x = gaussian<T>(s, seed, kind == Kind::sharp ? 4 : 1);
  if (kind != Kind::aligned) return x;
  for (Index n = 0; n < x.q.size(); ++n) x.q.data()[n] += T(n % s.dim % 2 == 0 ? 1.5 : -1.5);
  for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] += T(n % s.dim % 2 == 0 ? 0.75 : -0.75);
  for (Index n = 0; n < x.v.size(); ++n) x.v.data()[n] += T(0.25);
  return x;
}

template <class T, class Recipe>
void compare(const Sizes& s, Kind kind, const Recipe& recipe, const Model<T>& model) {
  double kernel = 0, loop = 0;
  for (unsigned seed = 21; seed < 21 + draws; ++seed) {
    const auto x = inputs<T>(s, kind, seed);
    const auto wanted = expected(x, model);
    auto got = blank<T>(s);
    fovea::attend(x.q, x.k, x.v, got.both(), recipe);
    kernel += std::pow(relative_rms(got.out, wanted.out), 2);
    loop += std::pow(relative_rms(naive(x, model).out, wanted.out), 2);
  }
  kernel = std::sqrt(kernel / draws) / double(epsilon<T>);
  loop = std::sqrt(loop / draws) / double(epsilon<T>);
  INFO(s << ", " << name(kind) << ": kernel " << kernel << " epsilons, naive " << loop << ", ratio " << kernel / loop);
  CHECK(kernel <= loop);
}

template <class T>
void compare_all(Kind kind) {
  for (const Sizes& s : shapes) {
    compare<T>(s, kind, fovea::softmax(), {});
    if (s.queries > 1) {
      compare<T>(s, kind, fovea::softmax().mask(mask::causal()),
                 {.visible = [=](Site at) { return at.key <= at.query + s.keys - s.queries; }});
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("on Gaussian input the error is not above that of a naive loop", "", float, double) {
  compare_all<TestType>(Kind::gaussian);
}

TEMPLATE_TEST_CASE("on sharp scores the error is not above that of a naive loop", "", float, double) {
  compare_all<TestType>(Kind::sharp);
}

TEMPLATE_TEST_CASE("on keys that share a direction the error is not above that of a naive loop", "", float, double) {
  compare_all<TestType>(Kind::aligned);
}
