#include <fovea/parts/permute/residue_classes.hpp>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Problem;

namespace {

// A problem of [batch, 2, length] whose arrays hold the index of each token and whose axes lie in another order; out
// and log_sum are written.
struct Tokens {
  Index batch, length;
  std::vector<float> q = std::vector<float>(std::size_t(batch * length * 2 * 3));  // [B,T,H,D]
  std::vector<float> out = std::vector<float>(q.size(), -1), log_sum = std::vector<float>(q.size() / 3, -1);

  Problem<float> problem(bool with_log_sum) {
    for (std::size_t n = 0; n < q.size(); ++n) q[n] = float(n / 6);  // token b length + i
    const fovea::View<float> x{q.data(), batch, 2, length, 3, length * 6, 3, 6};
    fovea::View<float> result = x, sums{};
    result.data = out.data();
    if (with_log_sum) sums = {log_sum.data(), batch, 2, length, 1, length * 2, 1, 2};
    return {x, x, x, result, sums, 1, "test"};
  }
};

}  // namespace

TEST_CASE("every token is in one class, at its place", "[parts][permute]") {
  for (const Index batch : {1, 3}) {
    for (Index length = 1; length <= 12; ++length) {
      for (const Index dilation : {1, 2, 3, 4, 7, 11, 12, 13, 1000}) {
        CAPTURE(batch, length, dilation);
        Tokens tokens{batch, length};
        Index problems = 0;
        bool in_step = true, same = true;
        fovea::permute::each_residue_class(tokens.problem(true), dilation, [&](const Problem<float>& part) {
          ++problems;
          CHECK(part.q.extents() == part.out.extents());
          CHECK(part.q.extents() == part.k.extents());
          CHECK(part.q.extents() == part.v.extents());
          for (Index b = 0; b < part.q.batch; ++b) {
            for (Index h = 0; h < 2; ++h) {
              for (Index i = 0; i < part.q.length; ++i) {
                const float token = *part.q.row(b, h, i);
                in_step &= i == 0 || Index(token - *part.q.row(b, h, i - 1)) == dilation;
                in_step &= i > 0 || Index(token) % length < dilation;
                same &= *part.k.row(b, h, i) == token && *part.v.row(b, h, i) == token;
                for (Index d = 0; d < 3; ++d) part.out.row(b, h, i)[d] = token;
                *part.log_sum.row(b, h, i) = token;
              }
            }
          }
        });
        CHECK(in_step);
        CHECK(same);
        CHECK(problems <= 2 * batch);
        CHECK(tokens.out == tokens.q);
        for (std::size_t n = 0; n < tokens.log_sum.size(); ++n) CHECK(tokens.log_sum[n] == float(n / 2));
      }
    }
  }
}

TEST_CASE("classes of a length that is a multiple of the dilation are one problem", "[parts][permute]") {
  Index problems = 0;
  Tokens tokens{1, 12};
  fovea::permute::each_residue_class(tokens.problem(false), 4, [&](const Problem<float>& part) {
    ++problems;
    CHECK(part.q.extents() == fovea::Extents{4, 2, 3, 3});
    CHECK(part.log_sum.data == nullptr);
  });
  CHECK(problems == 1);
}

TEST_CASE("a dilation of any size is legal", "[parts][permute]") {
  Index problems = 0;
  Tokens tokens{1, 5};
  fovea::permute::each_residue_class(tokens.problem(false), std::numeric_limits<Index>::max(),
                                     [&](const Problem<float>& part) {
                                       ++problems;
                                       CHECK(part.q.extents() == fovea::Extents{5, 2, 1, 3});
                                     });
  CHECK(problems == 1);
}

TEST_CASE("a problem without tokens or batch is passed on", "[parts][permute]") {
  for (const fovea::Extents& extents : {fovea::Extents{2, 2, 0, 3}, fovea::Extents{0, 2, 5, 3}}) {
    Index problems = 0;
    Tokens tokens{extents.batch, extents.length};
    fovea::permute::each_residue_class(tokens.problem(false), 3, [&](const Problem<float>& part) {
      ++problems;
      CHECK(part.q.extents() == extents);
    });
    CHECK(problems == 1);
  }
}
