// Nystroemformer with 64 landmarks, as published.
#include <fovea/low_rank/nystrom.hpp>

#include "low_rank/nystrom.hpp"

#include "bench.hpp"

namespace {

using bench::Index;

constexpr Index landmarks = 64, iterations = 6;

const auto nystrom =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::nystrom(in.q, in.k, in.v, out, {.landmarks = landmarks, .iterations = iterations}, executor);
    })
        .head_reference([]<class Real>(const bench::Head<Real>& head) {
          return fovea::reference::nystrom<Real>(head.q, head.k, head.v, 1 / std::sqrt(Real(head.shape.key_dim)),
                                                 landmarks, iterations);
        })
        .flops([](const bench::Shape& s) {
          const double m = landmarks, widths = double(s.key_dim + s.value_dim);
          const double of_head =
              4 * double(s.keys) * m * widths + 8 * iterations * m * m * m + 2 * m * m * (widths + m);
          return double(s.batch * s.heads) * of_head;
        });

const bool added = bench::add("low_rank/nystrom", bench::growth_shapes(), nystrom) &&
                   bench::add("low_rank/nystrom", bench::approximate_shapes(), nystrom);

}  // namespace
