// Block-sparse attention against its reference, in its exact limits, and what it refuses.
#include <fovea/block_sparse/block_sparse.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <random>

#include "block_sparse/block_sparse.hpp"
#include "support/attention.hpp"

using namespace fovea::test;
using fovea::BlockTable;
using fovea::Index;
using fovea::Site;
using Lists = std::vector<std::vector<Index>>;

namespace {

Index blocks_of(Index n, Index block) { return (n + block - 1) / block; }

Lists random_lists(unsigned seed, Index count, Index key_blocks) {
  std::mt19937 random(seed);
  Lists lists(static_cast<std::size_t>(count));
  for (auto& list : lists) {
    for (Index b = 0; b < key_blocks; ++b)
      if (random() % 3 == 0) list.push_back(b);
  }
  return lists;
}

template <class T>
Result<T> attention(const Inputs<T>& x, const BlockTable& table, const fovea::BlockSparseOptions& options = {}) {
  auto got = blank<T>(x.sizes());
  fovea::block_sparse(x.q, x.k, x.v, got.both(), table, options);
  return got;
}

}  // namespace

TEMPLATE_TEST_CASE("block_sparse is its reference for any block sizes and ragged ends", "", float, double) {
  using T = TestType;
  for (const Sizes& s :
       {Sizes{1, 1, 1, 100, 100, 16, 16}, Sizes{2, 4, 2, 70, 133, 33, 15}, Sizes{1, 2, 1, 7, 300, 64, 64},
        Sizes{1, 2, 2, 1, 500, 32, 32}, Sizes{1, 2, 1, 500, 300, 64, 64}}) {
    for (const auto& blocks : {std::pair<Index, Index>{64, 64}, {16, 32}, {13, 7}, {1, 100}}) {
      const Index query_block = blocks.first, key_block = blocks.second;
      for (const bool causal : {false, true}) {
        if (causal && s.queries > s.keys) continue;
        INFO(s << ", blocks of " << query_block << " and " << key_block << ", causal " << causal);
        const auto x = gaussian<T>(s, 3);
        const Index rows = blocks_of(s.queries, query_block);
        const Lists lists = random_lists(7, s.heads * rows, blocks_of(s.keys, key_block));
        const auto got =
            attention(x, BlockTable::from_lists(query_block, key_block, rows, lists, 1, s.heads), {.causal = causal});
        CHECK(is_exact(got, x, {.visible = [&](Site at) {
                         const auto& list = lists[std::size_t(at.head * rows + at.query / query_block)];
                         return std::find(list.begin(), list.end(), at.key / key_block) != list.end() &&
                                (!causal || at.key <= at.query + s.keys - s.queries);
                       }}));
      }
    }
  }
}

TEST_CASE("the hand case of three sums") {
  const Matrix<double> q = Matrix<double>::Ones(1, 1);
  Matrix<double> k(4, 1), v(4, 1);
  k << 0, std::log(2.0), std::log(3.0), 0;
  v << 1, 2, 3, 4;
  const auto run = [&](std::vector<Index> list, double& log_sum) {
    Matrix<double> out(1, 1);
    Eigen::VectorXd sums(1);
    fovea::block_sparse(q, k, v, fovea::with_log_sum(out, sums), BlockTable::from_lists(1, 2, 1, {list}),
                        {.scale = 1.0});
    log_sum = sums(0);
    return out(0, 0);
  };
  double log_sum = 0;
  CHECK(std::abs(run({1}, log_sum) - 3.25) < 1e-14);
  CHECK(std::abs(log_sum - std::log(4.0)) < 1e-14);
  CHECK(std::abs(run({0}, log_sum) - 5.0 / 3) < 1e-14);
  CHECK(std::abs(log_sum - std::log(3.0)) < 1e-14);
  CHECK(std::abs(run({0, 1}, log_sum) - 18.0 / 7) < 1e-14);
  CHECK(std::abs(log_sum - std::log(7.0)) < 1e-14);
  CHECK(run({}, log_sum) == 0);
  CHECK(log_sum == -std::numeric_limits<double>::infinity());
}

TEMPLATE_TEST_CASE("with every block listed it is dense attention, bit for bit", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 200, 200, 32, 32});
  const Lists all(4, {0, 1, 2, 3});
  for (const bool causal : {false, true}) {
    auto dense = blank<TestType>(x.sizes());
    const auto softmax = fovea::softmax();
    if (causal) {
      fovea::attend(x.q, x.k, x.v, dense.both(), softmax.mask(fovea::mask::causal()));
    } else {
      fovea::attend(x.q, x.k, x.v, dense.both(), softmax);
    }
    CHECK(same_bits(attention(x, BlockTable::from_lists(50, 50, 4, all), {.causal = causal}), dense));
  }
}

TEMPLATE_TEST_CASE("two tables that share out the blocks merge to the whole", "", float, double) {
  using T = TestType;
  const auto x = gaussian<T>({1, 2, 1, 90, 160, 16, 16});
  const Lists odd(3, {1, 3}), even(3, {0, 2, 4});
  auto a = attention(x, BlockTable::from_lists(32, 32, 3, odd)),
       b = attention(x, BlockTable::from_lists(32, 32, 3, even));
  fovea::combine::merge(a.both(), b.both(), a.both());
  CHECK(is_exact(a, x, {}));
}

TEST_CASE("block_sparse is the same on any number of threads") {
  const auto x = gaussian<float>({2, 4, 2, 300, 300, 32, 32});
  const auto table = BlockTable::from_lists(32, 64, 10, random_lists(3, 10, 5));
  const auto serial = attention(x, table, {.causal = true});
  for (const Index threads : {2, 3, 8}) {
    auto got = blank<float>(x.sizes());
    fovea::block_sparse(x.q, x.k, x.v, got.both(), table, {.causal = true}, fovea::exec::Pool(threads));
    CHECK(same_bits(got, serial));
  }
}

TEST_CASE("block_sparse refuses a block out of range or twice in a row, the output untouched") {
  const auto x = gaussian<float>({1, 1, 1, 8, 8, 4, 4});
  for (const Lists& lists : {Lists{{0, 2}, {1}}, Lists{{0}, {1, 1}}, Lists{{-1}, {0}}}) {
    auto out = x.q;
    out.setConstant(7);
    try {
      fovea::block_sparse(x.q, x.k, x.v, out, BlockTable::from_lists(4, 4, 2, lists));
      CHECK(false);
    } catch (const fovea::ArgumentError& error) {
      CHECK(error.function() == "fovea::block_sparse");
    }
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; }));
  }
}
