#include "support/catch.hpp"

#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/combine/sink.hpp>

#include "support/attention.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::combine::add_sink;
using namespace fovea::test;

namespace {

const Sizes sizes{2, 3, 3, 7, 1, 1, 19};
const std::vector<double> logits = {0.0, -1.5, 4.0};

// A result with log-sums about zero.
template <class T>
Result<T> some() {
  auto r = blank<T>(sizes);
  fill_gaussian(r.out, 1);
  fill_gaussian(r.log_sum, 2, 3);
  return r;
}

}  // namespace

TEMPLATE_TEST_CASE("a row is shrunk by sigmoid(log_sum - logit)", "[parts][combine]", float, double) {
  const auto before = some<TestType>();
  auto after = before;
  add_sink(after.both(), logits);
  auto wanted = before.out;
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 3; ++h) {
      for (Index i = 0; i < 7; ++i) {
        const Exact<TestType> share =
            1 / (1 + std::exp(Exact<TestType>(logits[std::size_t(h)]) - Exact<TestType>(before.log_sum(b, h, i))));
        for (Index e = 0; e < 19; ++e) row(wanted, b, h, i)[e] = TestType(share * row(before.out, b, h, i)[e]);
      }
    }
  }
  CHECK(relative_rms(after.out, wanted) < 2 * double(epsilon<TestType>));
  CHECK(same_bits(after.log_sum, before.log_sum));
}

TEMPLATE_TEST_CASE("a sink of -infinity changes nothing, bit for bit", "[parts][combine]", float, double) {
  const auto before = some<TestType>();
  auto after = before;
  after.log_sum(0, 0, 0) = -infinity<TestType>;
  add_sink(after.both(), std::vector<double>(3, -infinity<double>));
  CHECK(same_bits(after.out, before.out));
}

TEMPLATE_TEST_CASE("a row that saw no key stays zero", "[parts][combine]", float, double) {
  auto r = some<TestType>();
  r.log_sum.setConstant(-infinity<TestType>);
  r.out.setZero();
  add_sink(r.both(), logits);
  CHECK(all_zero(r.out.data(), r.out.size()));
}

TEMPLATE_TEST_CASE("log-sums and logits of any size shrink without overflow", "[parts][combine]", float, double) {
  for (const double size : {1e30, -1e30, 1000.0, -1000.0}) {
    const auto before = some<TestType>();
    auto after = before;
    after.log_sum.setConstant(TestType(size));
    add_sink(after.both(), std::vector<double>(3, double(TestType(size))));
    for (Index n = 0; n < after.out.size(); ++n) REQUIRE(after.out.data()[n] == before.out.data()[n] / 2);
    after = before;
    after.log_sum.setConstant(TestType(size));
    add_sink(after.both(), std::vector<double>(3, -size));
    if (size > 0) CHECK(same_bits(after.out, before.out));
    if (size < 0) CHECK(all_zero(after.out.data(), after.out.size()));
  }
}

TEST_CASE("NaN in a row of a result with a sink stays in its row", "[parts][combine]") {
  auto r = some<double>();
  r.log_sum(1, 2, 3) = not_a_number<double>;
  add_sink(r.both(), logits);
  for (Index n = 0; n < r.out.size(); ++n) REQUIRE(std::isnan(r.out.data()[n]) == (n / 19 == (1 * 3 + 2) * 7 + 3));
}

TEMPLATE_TEST_CASE("a sink is the merge with a value of zero", "[parts][combine]", float, double) {
  auto a = some<TestType>(), sink = blank<TestType>(sizes), merged = blank<TestType>(sizes);
  sink.out.setZero();
  for (Index n = 0; n < sink.log_sum.size(); ++n) sink.log_sum.data()[n] = TestType(logits[std::size_t(n / 7 % 3)]);
  fovea::combine::merge(a.both(), sink.both(), merged.both());
  add_sink(a.both(), logits);
  CHECK(relative_rms(a.out, merged.out) < 8 * double(epsilon<TestType>));
}

TEST_CASE("sinks on a pool are the same, bit for bit", "[parts][combine]") {
  auto a = some<float>(), b = a;
  add_sink(a.both(), logits);
  add_sink(b.both(), logits, fovea::exec::Pool(3));
  CHECK(same_bits(a, b));
}

TEST_CASE("logits that are too few, NaN or infinite are refused and nothing is touched", "[parts][combine]") {
  const auto before = some<float>();
  auto after = before;
  const auto said = [&](const std::vector<double>& x) { return support::refusal([&] { add_sink(after.both(), x); }); };
  CHECK(said({1, 2}) == "fovea::combine::add_sink: sink logits need one number for each head, wanted 3, got 2");
  CHECK(said({}) == "fovea::combine::add_sink: sink logits need one number for each head, wanted 3, got 0");
  CHECK(said({1, not_a_number<double>, 2}) ==
        "fovea::combine::add_sink: sink logits must be finite or -infinity, got nan");
  CHECK(said({1, 2, infinity<double>}) == "fovea::combine::add_sink: sink logits must be finite or -infinity, got inf");
  Tensor3<float> short_sum(2, 3, 6);
  CHECK(support::refusal([&] { add_sink(fovea::with_log_sum(after.out, short_sum), logits); }) ==
        "fovea::combine::add_sink: log_sum must have one number for each query, wanted [2, 3, 7], got [2, 3, 6]");
  CHECK(same_bits(after, before));
}
