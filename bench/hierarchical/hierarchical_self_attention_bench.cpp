#include <fovea/hierarchical/hierarchical_self_attention.hpp>

#include "bench.hpp"
#include "hierarchical/hierarchical_self_attention.hpp"

namespace {

using bench::Index;

// Windows of 64 tokens, of 16 of these, and so on.
fovea::TokenTree tree_for(Index tokens) { return fovea::TokenTree::from_windows(tokens, {64, 16, 16}); }

double flops(const bench::Shape& shape) {
  double pairs = 0;
  const fovea::permute::TokenFamilies families("bench", tree_for(shape.keys), shape.keys);
  for (const auto* borders : {&families.leaves, &families.begin}) {
    for (std::size_t n = 0; n + 1 < borders->size(); ++n) {
      const double size = double((*borders)[n + 1] - (*borders)[n]);
      pairs += size * size;
    }
  }
  return double(shape.batch * shape.heads) * pairs * 2 * double(shape.key_dim + shape.value_dim);
}

const auto method =
    bench::method([](const auto& in, const fovea::TokenTree& tree, auto&& out, const auto& executor) {
      fovea::hierarchical_self_attention(in.q, in.k, in.v, out, tree, {}, executor);
    })
        .state([](const auto& in, const auto&) { return tree_for(in.shape.keys); })
        .head_reference([]<class Real>(const bench::Head<Real>& head, const fovea::TokenTree& tree) {
          const Real scale = 1 / std::sqrt(Real(head.shape.key_dim));
          return fovea::reference::hierarchical_self_attention<Real>(head.q, head.k, head.v, scale, tree.parent).out;
        })
        .flops(flops);

const bool added = bench::add("hierarchical/hierarchical_self_attention", bench::growth_shapes(false), method) &&
                   bench::add("hierarchical/hierarchical_self_attention", bench::approximate_shapes(false), method);

}  // namespace
