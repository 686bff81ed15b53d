#include <fovea/dense/scaled_dot_product.hpp>

#include "bench.hpp"

namespace {

const bool added = bench::add<float, double>(
    "dense/scaled_dot_product", bench::dense_shapes(), [](const auto& in, auto&& out, const auto& executor) {
      fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = in.shape.pattern.label == "causal"}, executor);
    });

}  // namespace
