// Block-sparse visibility: for each block of queries the blocks of keys it sees.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/lists.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// A table of key blocks for each query block, shared by batches and heads or one for each. A plain object: make it
// once, keep it, copy it, use it in several layers or steps.
struct BlockTable {
  Index query_block = 0;        // queries of a block; the last block may be shorter
  Index key_block = 0;          // keys of a block; the last block may be shorter
  Index batch = 1;              // 1 (shared) or B
  Index heads = 1;              // 1 (shared), the kv heads or the query heads
  Index query_blocks = 0;       // ceil(N / query_block)
  std::vector<Index> begin{};   // [batch x heads x query_blocks + 1] where the list of a query block begins
  std::vector<Index> blocks{};  // the lists: key blocks in ascending order

  // The list of a query block.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * query_blocks + query);
    return {begin[at], begin[at + 1]};
  }

  Index entries() const { return Index(blocks.size()); }
  Index key_grain() const { return key_block; }
  // The keys of an entry; of the last block some may not be there.
  Span keys(Index entry) const {
    const Index block = blocks[std::size_t(entry)];
    return {block * key_block, (block + 1) * key_block};
  }

  // lists[(b * heads + h) * query_blocks + i] are the key blocks of query block i, in any order.
  static BlockTable from_lists(Index query_block, Index key_block, Index query_blocks,
                               std::vector<std::vector<Index>> lists, Index batch = 1, Index heads = 1) {
    constexpr auto where = "fovea::mask::BlockTable::from_lists";
    check(query_blocks >= 0 && batch > 0 && heads > 0, where, "there must be at least one batch and head, got ", batch,
          " and ", heads);
    check(Index(lists.size()) == batch * heads * query_blocks, where,
          "there must be a list for each query block, wanted ", batch * heads * query_blocks, ", got ", lists.size());
    BlockTable table{query_block, key_block, batch, heads, query_blocks, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end());
      table.blocks.insert(table.blocks.end(), list.begin(), list.end());
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

  // From a matrix of booleans, or of numbers that are zero where a block is not seen, [query blocks x key blocks].
  template <class Matrix>
  static BlockTable from_matrix(Index query_block, Index key_block, const Matrix& seen) {
    BlockTable table{query_block, key_block, 1, 1, Index(seen.rows()), {0}, {}};
    for (Index i = 0; i < Index(seen.rows()); ++i) {
      for (Index j = 0; j < Index(seen.cols()); ++j) {
        if (seen(i, j)) table.blocks.push_back(j);
      }
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

  // The blocks of which a mask shows anything, for a call of that shape. The mask must not depend on batch and head.
  // Join the result with the mask itself to hide what single keys of a block hide.
  template <Mask M>
  static BlockTable from_mask(Index query_block, Index key_block, const M& mask, const Shape& shape) {
    constexpr auto where = "fovea::mask::BlockTable::from_mask";
    check(query_block > 0 && key_block > 0, where, "blocks must have a positive size, got ", query_block, " and ",
          key_block);
    const auto bound = mask.bind(where, shape);
    const Index query_blocks = (shape.queries + query_block - 1) / query_block;
    BlockTable table{query_block, key_block, 1, 1, query_blocks, {0}, {}};
    for (Index i = 0; i < query_blocks; ++i) {
      const Span queries{i * query_block, std::min((i + 1) * query_block, shape.queries)};
      for (Index j = 0; j * key_block < shape.keys; ++j) {
        const Span keys{j * key_block, std::min((j + 1) * key_block, shape.keys)};
        if (shows_any(bound, queries, keys, shape.heads)) table.blocks.push_back(j);
      }
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

 private:
  template <BoundMask M>
  static bool shows_any(const M& mask, Span queries, Span keys, Index heads) {
    const Cover cover = mask.cover({0, {0, heads}, queries, keys});
    if (cover != Cover::part) return cover == Cover::full;
    for (Index i = queries.first; i < queries.last; ++i) {
      for (Index j = keys.first; j < keys.last; j += word) {
        if (mask.seen({0, 0, i}, {j, std::min(j + word, keys.last)}) != 0) return true;
      }
    }
    return false;
  }
};

struct Blocks {
  std::shared_ptr<const BlockTable> table;

  BoundLists<BlockTable> bind(const char* where, const Shape& shape) const {
    const BlockTable& t = *table;
    check(t.query_block > 0 && t.key_block > 0, where, "blocks must have a positive size, got ", t.query_block, " and ",
          t.key_block);
    check_lists(t, where, shape);
    const Index key_blocks = (shape.keys + t.key_block - 1) / t.key_block;
    for (std::size_t list = 0; list + 1 < t.begin.size(); ++list) {
      Index last = -1;
      for (Index n = t.begin[list]; n < t.begin[list + 1]; ++n) {
        const Index block = t.blocks[std::size_t(n)];
        check(block > last, where, "the blocks of a list must ascend and none stand twice, got ", block, " after ",
              last);
        check(block < key_blocks, where, "a block must lie among the ", key_blocks, " key blocks, got ", block);
        last = block;
      }
    }
    return {table, shape};
  }
};

// Query i sees key j when the table lists the block of j for the block of i. Join it with other masks for blocks that
// are seen in part. The table is copied.
inline Blocks blocks(BlockTable table) { return {std::make_shared<const BlockTable>(std::move(table))}; }

}  // namespace fovea::inline FOVEA_ISA::mask
