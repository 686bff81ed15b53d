#include <fovea/block_sparse/block_sparse.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

constexpr Index block = 64;

// An eighth of the blocks, scattered by a fixed hash; the own block of every query always.
bool listed(Index query_block, Index key_block) {
  const auto mixed =
      (std::uint64_t(query_block) * 0x9E3779B97F4A7C15u) ^ (std::uint64_t(key_block) * 0xC2B2AE3D27D4EB4Fu);
  return query_block == key_block || (mixed * 0xD6E8FEB86659FD93u) >> 61 == 0;
}

std::vector<bench::Shape> shapes() {
  bench::Shape shape = bench::mask_shapes().front();
  shape.pattern = {.label = "blocks_64_eighth", .sees = [](Index i, Index j) { return listed(i / block, j / block); }};
  shape.quick = true;
  return {shape};
}

fovea::BlockTable table(const bench::Shape& shape) {
  const Index rows = (shape.queries + block - 1) / block, columns = (shape.keys + block - 1) / block;
  std::vector<std::vector<Index>> lists(static_cast<std::size_t>(rows));
  for (Index a = 0; a < rows; ++a) {
    for (Index b = 0; b < columns; ++b) {
      if (listed(a, b)) lists[std::size_t(a)].push_back(b);
    }
  }
  return fovea::BlockTable::from_lists(block, block, rows, lists);
}

const bool added =
    bench::add("block_sparse/block_sparse", shapes(), [](const auto& in, auto&& out, const auto& executor) {
      static const fovea::BlockTable lists = table(in.shape);
      fovea::block_sparse(in.q, in.k, in.v, out, lists, {}, executor);
    });

const bool added_real = bench::add("block_sparse/block_sparse", bench::approximate_shapes(),
                                   bench::method([](const auto& in, auto& lists, auto&& out, const auto& executor) {
                                     fovea::block_sparse(in.q, in.k, in.v, out, lists, {}, executor);
                                   }).state([](const auto& in, const auto&) {
                                       return table(in.shape);
                                     }).keeps([](const auto& in, auto& lists, const auto&) {
                                     return bench::Kept(fovea::mask::blocks(lists), in.shape);
                                   }));

}  // namespace
