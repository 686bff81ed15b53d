// Block-sparse visibility: for each block of queries the blocks of keys it sees.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

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

class BoundBlocks {
 public:
  BoundBlocks(std::shared_ptr<const BlockTable> table, const Shape& shape)
      : table_(std::move(table)), heads_of_one_(table_->heads == 1 ? shape.heads : shape.heads / table_->heads) {}

  std::uint64_t seen(Row row, Span keys) const {
    const Span list = table_->list(batch(row.batch), row.head / heads_of_one_, row.query / table_->query_block);
    std::uint64_t bits = 0;
    for (const Index* block = from(list, keys.first / table_->key_block); block != end(list); ++block) {
      const Span span{*block * table_->key_block, (*block + 1) * table_->key_block};
      if (span.first >= keys.last) break;
      bits |= bits_of(span, keys);
    }
    return bits;
  }

  Grain grain() const { return {table_->query_block, table_->key_block}; }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    const Span queries{region.queries.first / table_->query_block, (region.queries.last - 1) / table_->query_block + 1};
    const Span keys{region.keys.first / table_->key_block, (region.keys.last - 1) / table_->key_block + 1};
    const Span heads{region.heads.first / heads_of_one_, (region.heads.last - 1) / heads_of_one_ + 1};
    bool all = true, some = false;
    for (Index h = heads.first; h < heads.last; ++h) {
      for (Index i = queries.first; i < queries.last; ++i) {
        const Span list = table_->list(batch(region.batch), h, i);
        const Index listed = from(list, keys.last) - from(list, keys.first);
        some = some || listed > 0;
        all = all && listed == keys.size();
        if (some && !all) return Cover::part;
      }
    }
    return all ? Cover::full : Cover::none;
  }

 private:
  Index batch(Index b) const { return table_->batch == 1 ? 0 : b; }
  const Index* end(Span list) const { return table_->blocks.data() + list.last; }
  // The first entry of a list that is not below `block`.
  const Index* from(Span list, Index block) const {
    return std::lower_bound(table_->blocks.data() + list.first, end(list), block);
  }

  std::shared_ptr<const BlockTable> table_;
  Index heads_of_one_;  // query heads that share a table
};

struct Blocks {
  std::shared_ptr<const BlockTable> table;

  BoundBlocks bind(const char* where, const Shape& shape) const {
    const BlockTable& t = *table;
    check(t.query_block > 0 && t.key_block > 0, where, "blocks must have a positive size, got ", t.query_block, " and ",
          t.key_block);
    check(t.query_blocks == (shape.queries + t.query_block - 1) / t.query_block, where,
          "a block table must have a list for each query block, wanted ",
          (shape.queries + t.query_block - 1) / t.query_block, ", got ", t.query_blocks);
    check(t.batch > 0 && t.heads > 0, where, "a block table must have at least one batch and head, got ", t.batch,
          " and ", t.heads);
    check(t.batch == 1 || t.batch == shape.batch, where, "a block table must be shared or have the batch of q, wanted ",
          shape.batch, ", got ", t.batch);
    check(t.heads == 1 || t.heads == shape.heads || t.heads == shape.kv_heads, where,
          "a block table must be shared or have the heads of q or of k, wanted ", shape.heads, " or ", shape.kv_heads,
          ", got ", t.heads);
    const Index lists = t.batch * t.heads * t.query_blocks;
    check(Index(t.begin.size()) == lists + 1 && t.begin.front() == 0 && t.begin.back() == Index(t.blocks.size()) &&
              std::is_sorted(t.begin.begin(), t.begin.end()),
          where, "the lists of a block table must cover its blocks in order, ", lists, " lists of ", t.blocks.size(),
          " blocks in all");
    const Index key_blocks = (shape.keys + t.key_block - 1) / t.key_block;
    for (Index list = 0; list < lists; ++list) {
      Index last = -1;
      for (Index n = t.begin[std::size_t(list)]; n < t.begin[std::size_t(list) + 1]; ++n) {
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
