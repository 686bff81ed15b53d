// Attention over tables of small query blocks, key block by key block, against the reference.
#include <fovea/engine/by_key_block.hpp>
#include <fovea/exec/pool.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Alignment;
using fovea::Index;
using fovea::Site;
using fovea::mask::BlockTable;
using Lists = std::vector<std::vector<Index>>;

namespace {

// Lists of a third of the blocks; some are empty, some full.
Lists random_lists(unsigned seed, Index count, Index key_blocks) {
  std::mt19937 random(seed);
  Lists lists(static_cast<std::size_t>(count));
  for (auto& list : lists) {
    const unsigned share = random() % 5;
    for (Index b = 0; b < key_blocks; ++b)
      if (random() % 4 < share) list.push_back(b);
  }
  return lists;
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const BlockTable& table, bool causal, Alignment alignment,
                    const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  const auto problem = fovea::make_problem("test", x.q, x.k, x.v, got.both());
  const auto position = causal ? std::optional<Index>(problem.shape().offset(alignment)) : std::nullopt;
  fovea::engine::ByKeyBlock<T>(problem, {}, table, position).run(executor);
  return got;
}

}  // namespace

TEMPLATE_TEST_CASE("queries that choose for themselves are attended exactly", "", float, double) {
  using T = TestType;
  for (const Sizes& s : {Sizes{1, 1, 1, 500, 130, 8, 8}, Sizes{2, 4, 2, 70, 133, 33, 15},
                         Sizes{1, 2, 1, 64, 150, 64, 64}, Sizes{1, 2, 2, 100, 90, 8, 8}}) {
    const auto x = gaussian<T>(s, 3, 2);
    for (const auto& [query_block, key_block] : {std::pair<Index, Index>{1, 16}, {1, 64}, {5, 7}}) {
      const Index rows = (s.queries + query_block - 1) / query_block, key_blocks = (s.keys + key_block - 1) / key_block;
      // Full, causal, and causal from the first key on; tables shared by all, of each head, of each kv head.
      for (const int kind : {0, 1, 2}) {
        const Index batch = kind == 1 ? s.batch : 1, heads = kind == 0 ? 1 : kind == 1 ? s.heads : s.kv_heads;
        const auto alignment = kind == 2 ? Alignment::top_left : Alignment::bottom_right;
        const Lists lists = random_lists(7, batch * heads * rows, key_blocks);
        const auto table = BlockTable::from_lists(query_block, key_block, rows, lists, batch, heads);
        INFO(s << ", blocks of " << query_block << " and " << key_block << ", kind " << kind);
        const auto sees = [&, qb = query_block, kb = key_block](Site at) {
          const Index list = ((batch == 1 ? 0 : at.batch) * heads + at.head * heads / s.heads) * rows + at.query / qb;
          const auto& blocks = lists[std::size_t(list)];
          return std::binary_search(blocks.begin(), blocks.end(), at.key / kb) &&
                 (kind == 0 || at.key <= at.query + (kind == 1 ? s.keys - s.queries : 0));
        };
        CHECK(is_exact(attention(x, table, kind > 0, alignment), x, {.visible = sees}));
      }
    }
  }
}

TEST_CASE("what a query gets does not depend on what others choose, nor on the threads") {
  const Sizes s{1, 1, 1, 500, 200, 16, 16};
  const auto x = gaussian<float>(s);
  Lists lists = random_lists(3, 500, 25), others = random_lists(4, 500, 25);
  for (std::size_t i = 0; i < 500; i += 7) others[i] = lists[i];
  const auto run = [&](const Lists& l, const auto& executor) {
    return attention(x, BlockTable::from_lists(1, 8, 500, l), false, Alignment::bottom_right, executor);
  };
  const auto one = run(lists, fovea::exec::Serial()), other = run(others, fovea::exec::Serial());
  for (Index i = 0; i < 500; i += 7) CHECK(same_row(one, other, 0, 0, i));
  for (const Index threads : {2, 3, 8}) CHECK(same_bits(run(lists, fovea::exec::Pool(threads)), one));
}

TEST_CASE("scores of any size, and values that are not finite, in one block of many") {
  const Sizes s{1, 1, 1, 100, 64, 4, 4};
  auto x = gaussian<double>(s);
  for (const double size : {1e30, -1e30}) {
    for (Index j = 0; j < s.keys; ++j) row(x.k, 0, 0, j)[0] = j / 8 == 2 ? size : 0;
    for (Index i = 0; i < s.queries; ++i) row(x.q, 0, 0, i)[0] = 1;
    const Lists all(100, {0, 2, 5});
    const auto got = attention(x, BlockTable::from_lists(1, 8, 100, all), false, Alignment::bottom_right);
    const auto sees = [](Site at) { return at.key / 8 == 0 || at.key / 8 == 2 || at.key / 8 == 5; };
    CHECK(is_exact(got, x, {.visible = sees}));
  }
  const Lists halves = [] {
    Lists lists;
    for (Index i = 0; i < 100; ++i) lists.push_back(i % 2 == 0 ? std::vector<Index>{1, 4} : std::vector<Index>{4, 7});
    return lists;
  }();
  const auto table = BlockTable::from_lists(1, 8, 100, halves);
  x = gaussian<double>(s);
  const auto clean = attention(x, table, false, Alignment::bottom_right);
  row(x.k, 0, 0, 10)[1] = not_a_number<double>;
  row(x.v, 0, 0, 11)[1] = infinity<double>;
  const auto got = attention(x, table, false, Alignment::bottom_right);
  for (Index i = 0; i < 100; ++i) {
    CHECK((i % 2 == 0 ? all_nan(row(got.out, 0, 0, i), 4) : same_row(got, clean, 0, 0, i)));
  }
}

TEST_CASE("tables of large and of small query blocks, many and few, are attended alike") {
  for (const Index queries : {1, 60, 400}) {
    const auto x = gaussian<float>({1, 2, 1, queries, 100, 16, 16});
    for (const Index query_block : {1, 20}) {
      const Index rows = (queries + query_block - 1) / query_block;
      const Lists lists = random_lists(5, 2 * rows, 7);
      const auto table = BlockTable::from_lists(query_block, 16, rows, lists, 1, 2);
      auto got = blank<float>(x.sizes());
      fovea::engine::attend_blocks(fovea::make_problem("test", x.q, x.k, x.v, got.both()), {}, table, false);
      const auto sees = [&](Site at) {
        const auto& blocks = lists[std::size_t(at.head * rows + at.query / query_block)];
        return std::binary_search(blocks.begin(), blocks.end(), at.key / 16);
      };
      CHECK(is_exact(got, x, {.visible = sees}));
    }
  }
}
