#include <fovea/exec/pool.hpp>
#include <fovea/parts/resample/mean.hpp>

#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Span;
namespace resample = fovea::resample;

namespace {

template <class T>
Tensor4<T> tokens_of(Index heads, Index tokens, Index dim) {
  Tensor4<T> x(2, heads, tokens, dim);
  fill_gaussian(x, 1);
  return x;
}

// Means over groups of tokens, by the definition; in(g, t) says whether token t belongs to group g.
template <class T, class In>
Tensor4<Exact<T>> means_of(const Tensor4<T>& x, Index groups, const In& in) {
  Tensor4<Exact<T>> means(x.dimension(0), x.dimension(1), groups, x.dimension(3));
  means.setZero();
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h) {
      for (Index g = 0; g < groups; ++g) {
        Index number = 0;
        for (Index t = 0; t < x.dimension(2); ++t) {
          if (!in(g, t)) continue;
          ++number;
          for (Index d = 0; d < x.dimension(3); ++d) means(b, h, g, d) += Exact<T>(x(b, h, t, d));
        }
        for (Index d = 0; d < x.dimension(3); ++d) means(b, h, g, d) /= Exact<T>(number);
      }
    }
  }
  return means;
}

}  // namespace

TEST_CASE("segments are shorter first, and share out all tokens", "[parts][resample]") {
  for (Index tokens = 1; tokens < 40; ++tokens) {
    for (Index segments = 1; segments <= tokens; ++segments) {
      const Index size = tokens / segments;
      Index next = 0;
      for (Index s = 0; s < segments; ++s) {
        const Span span = resample::segment(s, tokens, segments);
        CHECK(span.first == next);
        CHECK(span.size() == (s < (size + 1) * segments - tokens ? size : size + 1));
        next = span.last;
      }
      CHECK(next == tokens);
    }
  }
}

TEMPLATE_TEST_CASE("means of segments", "[parts][resample]", float, double) {
  using T = TestType;
  for (const auto& [tokens, segments, dim] : {std::array<Index, 3>{1, 1, 1}, {7, 3, 5}, {130, 4, 67}, {1000, 9, 16}}) {
    const auto x = tokens_of<T>(3, tokens, dim);
    Tensor4<T> out(2, 3, segments, dim);
    out.setConstant(not_a_number<T>);
    resample::segment_means(x, out);
    const Index number = tokens, cut = segments;
    const auto wanted = means_of(x, segments, [&](Index g, Index t) {
      const Index size = number / cut, shorter = (size + 1) * cut - number;
      return g == (t < shorter * size ? t / size : shorter + (t - shorter * size) / (size + 1));
    });
    CHECK(relative_rms(out, wanted) < 8 * double(epsilon<T>));
    Tensor4<T> again(2, 3, segments, dim);
    resample::segment_means(x, again, fovea::exec::Pool(3));
    CHECK(same_bits(out, again));
  }
}

TEMPLATE_TEST_CASE("means of cells, ragged and overlapping", "[parts][resample]", float, double) {
  using T = TestType;
  for (const auto& [height, width, rows, columns] :
       {std::array<Index, 4>{1, 1, 1, 1}, {7, 9, 3, 4}, {14, 14, 7, 7}, {2, 40, 5, 6}, {56, 30, 7, 7}}) {
    const Index h = height, w = width, m = rows, n = columns;
    const auto x = tokens_of<T>(2, h * w, 19);
    Tensor4<T> out(2, 2, m * n, 19);
    out.setConstant(not_a_number<T>);
    resample::cell_means(x, h, w, out, m, n);
    const auto wanted = means_of(x, m * n, [&](Index g, Index t) {
      const auto in = [](Index place, Index i, Index extent, Index cells) {
        return double(place) >= std::floor(double(i * extent) / double(cells)) &&
               double(place) < std::ceil(double((i + 1) * extent) / double(cells));
      };
      return in(t / w, g / n, h, m) && in(t % w, g % n, w, n);
    });
    CHECK(relative_rms(out, wanted) < 8 * double(epsilon<T>));
  }
}

TEST_CASE("what means refuse", "[parts][resample]") {
  const auto x = tokens_of<float>(2, 6, 4);
  Tensor4<float> three(2, 2, 3, 4), seven(2, 2, 7, 4), narrow(2, 2, 3, 3);
  const std::string segments = "fovea::resample::segment_means: ", cells = "fovea::resample::cell_means: ";
  CHECK(support::refusal([&] { resample::segment_means(x, seven); }) ==
        segments + "there must be 1 to 6 segments, got 7");
  CHECK(support::refusal([&] { resample::segment_means(x, narrow); }).rfind(segments, 0) == 0);
  CHECK(support::refusal([&] { resample::cell_means(x, 2, 4, three, 1, 3); }) ==
        cells + "the grid must hold the tokens, wanted 6, got 2 times 4");
  CHECK(support::refusal([&] { resample::cell_means(x, 2, 3, three, 0, 3); }) ==
        cells + "there must be cells, got 0 times 3");
  CHECK(support::refusal([&] { resample::cell_means(x, 2, 3, three, 2, 2); }).rfind(cells, 0) == 0);
}
