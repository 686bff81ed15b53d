#include "support/catch.hpp"

#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/window.hpp>
#include <random>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;
using Lists = std::vector<std::vector<Index>>;

namespace {

Lists random_lists(unsigned seed, Index count, Index key_blocks) {
  std::mt19937 random(seed);
  Lists lists(static_cast<std::size_t>(count));
  for (auto& list : lists) {
    for (Index b = 0; b < key_blocks; ++b)
      if (random() % 3 == 0) list.insert(list.begin(), b);  // descending: from_lists sorts
  }
  return lists;
}

bool listed(const std::vector<Index>& list, Index block) {
  return std::find(list.begin(), list.end(), block) != list.end();
}

Index blocks_of(Index n, Index block) { return (n + block - 1) / block; }

}  // namespace

TEST_CASE("blocks sees the keys of listed blocks, whatever the sizes and ragged ends", "[parts][mask][blocks]") {
  std::string first;
  for (const Index query_block : {1, 2, 3, 5, 20}) {
    for (const Index key_block : {1, 3, 4, 20}) {
      for (const auto& [queries, keys] : {std::pair<Index, Index>{7, 11}, {12, 12}, {1, 9}, {9, 1}}) {
        const Index rows = blocks_of(queries, query_block), columns = blocks_of(keys, key_block);
        const Lists lists = random_lists(unsigned(query_block * 31 + key_block), rows, columns);
        const auto table = mask::BlockTable::from_lists(query_block, key_block, rows, lists);
        const auto rule = [&](Site s) { return listed(lists[std::size_t(s.query / query_block)], s.key / key_block); };
        if (first.empty()) first = support::mask_difference(mask::blocks(table), {1, 1, 1, queries, keys}, rule, true);
      }
    }
  }
  CHECK(first == "");
}

TEST_CASE("a table for each batch and for the heads of q or of k", "[parts][mask][blocks]") {
  const Shape shape{2, 6, 3, 4, 6};
  for (const Index heads : {6, 3, 1}) {
    for (const Index batch : {1, 2}) {
      CAPTURE(heads, batch);
      const Lists lists = random_lists(5, batch * heads * 2, 3);
      const auto table = mask::BlockTable::from_lists(2, 2, 2, lists, batch, heads);
      const auto rule = [&](Site s) {
        const Index b = batch == 1 ? 0 : s.batch, h = s.head / (6 / heads);
        return listed(lists[std::size_t((b * heads + h) * 2 + s.query / 2)], s.key / 2);
      };
      CHECK(support::mask_difference(mask::blocks(table), shape, rule, true) == "");
    }
  }
}

TEST_CASE("a table from a matrix is the table from its lists", "[parts][mask][blocks]") {
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> seen(3, 4);
  seen << true, false, false, true, false, false, false, false, true, true, true, true;
  const auto a = mask::BlockTable::from_matrix(8, 4, seen);
  const auto b = mask::BlockTable::from_lists(8, 4, 3, {{0, 3}, {}, {0, 1, 2, 3}});
  CHECK(a.begin == b.begin);
  CHECK(a.blocks == b.blocks);
}

TEST_CASE("a table from a mask lists the blocks of which it shows anything and no other", "[parts][mask][blocks]") {
  const auto rule = mask::causal() & mask::window(5);
  const Shape shape{1, 1, 1, 17, 23};
  const auto table = mask::BlockTable::from_mask(4, 3, rule, shape);
  for (Index a = 0; a < table.query_blocks; ++a) {
    const auto list = table.list(0, 0, a);
    for (Index b = 0; b < 8; ++b) {
      bool any = false;
      for (Index i = 4 * a; i < std::min<Index>(4 * a + 4, 17); ++i)
        for (Index j = 3 * b; j < std::min<Index>(3 * b + 3, 23); ++j) any = any || (j <= i + 6 && i + 6 - j < 5);
      CAPTURE(a, b);
      CHECK(any == std::binary_search(table.blocks.begin() + list.first, table.blocks.begin() + list.last, b));
    }
  }
}

TEST_CASE("tables that do not fit are refused", "[parts][mask][blocks]") {
  const Shape shape{1, 4, 2, 8, 8};
  const auto refusal = [&](mask::BlockTable table) {
    return support::refusal([&] { mask::blocks(std::move(table)).bind("f", shape); });
  };
  const auto fine = mask::BlockTable::from_lists(4, 4, 2, {{0, 1}, {1}});
  CHECK(refusal(fine) == "accepted");
  auto table = fine;
  table.blocks[2] = 2;
  CHECK(refusal(table) == "f: a block must lie among the 2 key blocks, got 2");
  table.blocks[2] = -1;
  CHECK(refusal(table) != "accepted");
  table = fine;
  table.blocks[1] = 0;
  CHECK(refusal(table) == "f: the blocks of a list must ascend and none stand twice, got 0 after 0");
  table = fine;
  table.key_block = 0;
  CHECK(refusal(table) == "f: blocks must have a positive size, got 4 and 0");
  table = fine;
  table.query_block = 8;
  CHECK(refusal(table) == "f: a table must have a list for each query block, wanted 1, got 2");
  table = fine;
  table.begin.back() = 1;
  CHECK(refusal(table) != "accepted");
  CHECK(refusal(mask::BlockTable::from_lists(4, 4, 2, Lists(6), 1, 3)) ==
        "f: a table must be shared or have the heads of q or of k, wanted 4 or 2, got 3");
  CHECK(refusal(mask::BlockTable::from_lists(4, 4, 2, Lists(4), 2, 1)) ==
        "f: a table must be shared or have the batch of q, wanted 1, got 2");
  CHECK(support::refusal([] { mask::BlockTable::from_lists(4, 4, 2, Lists(3)); }) ==
        "fovea::mask::BlockTable::from_lists: there must be a list for each query block, wanted 2, got 3");
}
