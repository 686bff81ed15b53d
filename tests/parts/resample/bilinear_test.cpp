#include <fovea/exec/pool.hpp>
#include <fovea/parts/resample/bilinear.hpp>

#include "agent/agent.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
namespace resample = fovea::resample;

TEMPLATE_TEST_CASE("a grid on another grid is its reference", "[parts][resample]", float, double) {
  using T = TestType;
  for (const auto& [height, width, rows, columns] :
       {std::array<Index, 4>{1, 1, 3, 2}, {7, 7, 14, 10}, {7, 7, 56, 56}, {5, 9, 3, 4}, {3, 4, 3, 4}, {1, 6, 5, 1}}) {
    for (const Index dim : {1, 19, 32}) {
      Tensor4<T> x(2, 3, height * width, dim), out(2, 3, rows * columns, dim), again(2, 3, rows * columns, dim);
      fill_gaussian(x, 3);
      out.setConstant(not_a_number<T>);
      resample::bilinear(x, height, width, out, rows, columns);
      Tensor4<Exact<T>> wanted(2, 3, rows * columns, dim);
      for (Index b = 0; b < 2; ++b) {
        for (Index h = 0; h < 3; ++h) {
          const auto one =
              fovea::reference::resize<Exact<T>>(head(x, b, h).template cast<Exact<T>>(), height, width, rows, columns);
          std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
        }
      }
      INFO(height << " x " << width << " to " << rows << " x " << columns << " of " << dim);
      CHECK(relative_rms(out, wanted) < 4 * double(epsilon<T>));
      if (rows == height && columns == width) CHECK(same_bits(out, x));
      resample::bilinear(x, height, width, again, rows, columns, fovea::exec::Pool(3));
      CHECK(same_bits(out, again));
    }
  }
}

TEST_CASE("what bilinear refuses", "[parts][resample]") {
  Tensor4<float> x(1, 2, 6, 4), out(1, 2, 12, 4);
  const std::string where = "fovea::resample::bilinear: ";
  CHECK(support::refusal([&] { resample::bilinear(x, 2, 2, out, 3, 4); }) ==
        where + "the grid must hold the tokens, wanted 6, got 2 times 2");
  CHECK(support::refusal([&] { resample::bilinear(x, 0, 0, out, 3, 4); }).rfind(where, 0) == 0);
  CHECK(support::refusal([&] { resample::bilinear(x, 2, 3, out, 3, 3); }) ==
        where + "the result must hold its grid, wanted [1, 2, 9, 4], got [1, 2, 12, 4]");
}
