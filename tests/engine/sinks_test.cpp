// Learned sink logits: exp(c_h) joins the denominator.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/mask/causal.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;

namespace {

const std::vector<Sizes> shapes = {{2, 4, 2, 75, 75, 17, 15}, {1, 4, 1, 20, 150, 16, 33}, {1, 4, 2, 1, 1500, 33, 16}};
const std::vector<double> logits = {0.0, 1.5, -2.0, 6.0};

template <class T>
double share(T log_sum, double logit) {  // of the keys: sigmoid(log_sum - logit)
  return 1 / (1 + std::exp(logit - double(log_sum)));
}

}  // namespace

TEMPLATE_TEST_CASE("sinks equal the reference", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(is_exact(attention(x, fovea::softmax().sink_logits(logits)), x, {.sink_logits = logits}));
    const auto visible = [&](Site at) { return at.key <= at.query + s.keys - s.queries; };
    CHECK(is_exact(attention(x, fovea::softmax().mask(mask::causal()).sink_logits(logits)), x,
                   {.visible = visible, .sink_logits = logits}));
  }
}

TEMPLATE_TEST_CASE("a sink applied afterwards equals the sink in the engine", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto plain = attention(x, fovea::softmax());
    const auto sunk = attention(x, fovea::softmax().sink_logits(logits));
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          const auto keys = TestType(share(plain.log_sum(b, h, i), logits[std::size_t(h)]));
          for (Index e = 0; e < s.value_dim; ++e) row(plain.out, b, h, i)[e] *= keys;
        }
      }
    }
    CHECK(relative_rms(sunk.out, plain.out) < 8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("log-sums do not count the sink", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(
        same_bits(attention(x, fovea::softmax().sink_logits(logits)).log_sum, attention(x, fovea::softmax()).log_sum));
  }
}

TEMPLATE_TEST_CASE("the weights of the keys sum to sigmoid(log_sum - sink)", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<TestType>(s);
    x.v.setConstant(TestType(1));
    const auto got = attention(x, fovea::softmax().sink_logits(logits));
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          const double sum = share(got.log_sum(b, h, i), logits[std::size_t(h)]);
          REQUIRE(std::abs(row(got.out, b, h, i)[0] - sum) < 64 * epsilon<TestType>);
          REQUIRE(row(got.out, b, h, i)[0] < TestType(1));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("a sink is a key with that score and a value of zero", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto plain = attention(x, fovea::softmax()), sink = blank<TestType>(s), merged = blank<TestType>(s);
    sink.out.setZero();
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) sink.log_sum(b, h, i) = TestType(logits[std::size_t(h)]);
      }
    }
    fovea::combine::merge(plain.both(), sink.both(), merged.both());
    CHECK(relative_rms(attention(x, fovea::softmax().sink_logits(logits)).out, merged.out) < 8 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("a sink of -infinity is no sink", "", float, double) {
  const std::vector<double> none(4, -infinity<double>);
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(attention(x, fovea::softmax().sink_logits(none)), attention(x, fovea::softmax())));
  }
}
