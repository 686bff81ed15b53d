// Attention over lists that are there: the best sixteenth of the keys, chosen outside the time.
#include <fovea/top_k/gathered.hpp>
#include <fovea/top_k/top_k.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

const auto gathered =
    bench::method([](const auto& in, auto& lists, auto&& out, const auto& executor) {
      fovea::gathered(in.q, in.k, in.v, out, lists, {}, executor);
    })
        .state([](const auto& in, const auto& executor) {
          return fovea::top_k_selection(in.q, in.k, {.top_k = std::max<Index>(in.shape.keys / 16, 1)}, executor);
        })
        .keeps([](const auto& in, auto& lists, const auto&) {
          return bench::Kept([&lists, heads = in.shape.heads](const bench::Row& row) {
            const fovea::Span list = lists.list(row.batch, row.head * lists.heads / heads, row.query);
            return std::vector<Index>(lists.keys.begin() + list.first, lists.keys.begin() + list.last);
          });
        });

const bool added = bench::add("top_k/gathered", bench::approximate_shapes(), gathered);

}  // namespace
