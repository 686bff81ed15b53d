// Pooled blocks, page bounds and the ranking of blocks, against loops.
#include <fovea/exec/pool.hpp>
#include <fovea/parts/select/page_bounds.hpp>
#include <fovea/parts/select/rank_blocks.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

namespace {

using fovea::Index;
using fovea::View;
using fovea::mask::BlockTable;
using fovea::select::BlockGrid;
using fovea::select::BlockRule;
using fovea::select::PageBounds;
using fovea::select::Pooling;
using fovea::select::Sharing;
using support::refusal;

template <class T>
struct Array {
  fovea::Extents extents;
  std::vector<T> data;

  View<const T> view() const { return fovea::view(data.data(), extents); }
};

// Multiples of 1/8 between -2 and 2: sums and products of some of them are exact in float.
template <class T>
Array<T> grid_array(unsigned seed, const fovea::Extents& e) {
  std::mt19937 random(seed);
  Array<T> x{e, std::vector<T>(std::size_t(e.batch * e.heads * e.length * e.dim))};
  for (T& value : x.data) value = T(int(random() % 33) - 16) / 8;
  return x;
}

std::vector<Index> list_of(const BlockTable& table, Index b, Index h, Index a) {
  const fovea::Span list = table.list(b, h, a);
  return {table.blocks.begin() + list.first, table.blocks.begin() + list.last};
}

}  // namespace

TEMPLATE_TEST_CASE("pooled blocks are means and extremes of their true length", "", float, double) {
  using T = TestType;
  for (const Index dim : {1, 5, 16, 37, 64, 100}) {
    for (const auto& [length, block] : {std::pair<Index, Index>{1, 1}, {7, 3}, {64, 16}, {33, 64}, {20, 8}}) {
      const auto x = grid_array<T>(3, {2, 3, length, dim});
      for (const Pooling pooling : {Pooling::mean, Pooling::max, Pooling::bounds}) {
        const auto pooled = fovea::select::pool(x.view(), block, pooling);
        const auto rows = pooled.view();
        REQUIRE((rows.batch == 2 && rows.heads == 3 && rows.length == (length + block - 1) / block));
        REQUIRE(rows.dim == (pooling == Pooling::bounds ? 2 * dim : dim));
        bool same = true;
        for (Index b = 0; b < 2; ++b) {
          for (Index h = 0; h < 3; ++h) {
            for (Index n = 0; n < rows.length; ++n) {
              for (Index d = 0; d < dim; ++d) {
                T sum = 0, high = x.view().row(b, h, n * block)[d], low = high;
                const Index end = std::min((n + 1) * block, length);
                for (Index i = n * block; i < end; ++i) {
                  const T value = x.view().row(b, h, i)[d];
                  sum += value;
                  high = std::max(high, value);
                  low = std::min(low, value);
                }
                const T* const row = rows.row(b, h, n);
                same = same && row[d] == (pooling == Pooling::mean ? sum / T(end - n * block) : high);
                if (pooling == Pooling::bounds) same = same && row[dim + d] == low;
              }
            }
          }
        }
        CHECK(same);
      }
    }
  }
}

TEST_CASE("a NaN token makes its block NaN and no other, wherever it stands") {
  for (const Index at : {0, 2, 4, 7}) {
    auto x = grid_array<float>(1, {1, 1, 12, 20});
    x.data[std::size_t(at * 20 + 19)] = support::nan<float>;
    for (const Pooling pooling : {Pooling::mean, Pooling::max, Pooling::bounds}) {
      const auto pooled = fovea::select::pool(x.view(), 4, pooling);
      for (Index n = 0; n < 3; ++n) {
        for (Index d = 0; d < pooled.dim; ++d)
          CHECK(std::isnan(pooled.view().row(0, 0, n)[d]) == (n == at / 4 && d % 20 == 19));
      }
    }
  }
}

TEST_CASE("the score of bounds is an upper bound of every product, and exact for one key") {
  const auto q = grid_array<double>(5, {1, 1, 40, 24}), k = grid_array<double>(6, {1, 1, 63, 24});
  for (const Index page : {1, 4, 16}) {
    const auto bounds = fovea::select::pool(k.view(), page, Pooling::bounds);
    for (Index i = 0; i < 40; ++i) {
      double halves[48];
      fovea::select::bound_query(q.view().row(0, 0, i), Index{24}, halves);
      for (Index p = 0; p < bounds.blocks; ++p) {
        double score = 0, most = -fovea::simd::infinity<double>;
        for (Index d = 0; d < 48; ++d) score += halves[d] * bounds.view().row(0, 0, p)[d];
        for (Index j = p * page; j < std::min((p + 1) * page, Index{63}); ++j) {
          double product = 0;
          for (Index d = 0; d < 24; ++d) product += q.view().row(0, 0, i)[d] * k.view().row(0, 0, j)[d];
          most = std::max(most, product);
        }
        CHECK(score >= most);
        if (page == 1) CHECK(score == most);
      }
    }
  }
}

TEMPLATE_TEST_CASE("page bounds do not depend on how the keys came", "", float, double) {
  using T = TestType;
  const auto k = grid_array<T>(2, {2, 2, 77, 9});
  const auto whole = fovea::select::pool(k.view(), 8, Pooling::bounds);
  for (const Index most : {1, 3, 8, 30, 77}) {
    PageBounds<T> bounds{.page = 8, .batch = 2, .kv_heads = 2, .dim = 9};
    for (Index first = 0; first < 77; first += most) {
      View<const T> next = k.view();
      next.data += first * 9;
      next.length = std::min(most, 77 - first);
      bounds.append(next, fovea::exec::Pool(2));
    }
    const PageBounds<T> copy = bounds;
    REQUIRE((copy.length == 77 && copy.pages() == 10));
    bool same = true;
    for (Index head = 0; head < 4; ++head) {
      for (Index n = 0; n < 10; ++n)
        same = same && std::equal(whole.view().row(head / 2, head % 2, n), whole.view().row(head / 2, head % 2, n) + 18,
                                  copy.view().row(head / 2, head % 2, n));
    }
    CHECK(same);
  }
}

TEST_CASE("page bounds refuse keys of another shape and stay as they are") {
  const auto k = grid_array<float>(2, {1, 2, 5, 8});
  PageBounds<float> bounds{.page = 4, .kv_heads = 2, .dim = 8};
  bounds.append(k.view());
  const auto before = bounds.rows;
  CHECK(refusal([&] { bounds.append(grid_array<float>(1, {1, 1, 5, 8}).view()); }) != "accepted");
  CHECK(refusal([&] { bounds.append(grid_array<float>(1, {2, 2, 5, 8}).view()); }) != "accepted");
  CHECK(refusal([&] { bounds.append(grid_array<float>(1, {1, 2, 5, 9}).view()); }) != "accepted");
  CHECK((bounds.length == 5 && bounds.rows == before));
  bounds.rows.pop_back();
  CHECK(refusal([&] { bounds.append(k.view()); }) != "accepted");
  PageBounds<float> nothing{.page = 0, .kv_heads = 2, .dim = 8};
  CHECK(refusal([&] { nothing.append(k.view()); }) != "accepted");
  CHECK(refusal([&] { fovea::select::pool(k.view(), 0, Pooling::mean); }) ==
        "fovea::select::pool: blocks must have a positive size, got 0");
}

TEST_CASE("the tables of a ranking are those of sorted scores, with any group and sharing, on any threads") {
  // Heads 4 / 2; enough blocks for several chunks, tiles of keys and words of bits.
  const Index heads = 4, kv_heads = 2, group = 2, key_blocks = 300, dim = 24;
  for (const Index query_blocks : {1, 2, 50}) {
    const auto q = grid_array<float>(1, {2, heads, query_blocks, dim});
    const auto k = grid_array<float>(2, {2, kv_heads, key_blocks, dim});
    const BlockGrid grid{1, 1, query_blocks, key_blocks, 250, true};
    for (const Sharing sharing : {Sharing::none, Sharing::max, Sharing::sum}) {
      BlockRule rule;
      rule.top_k = 7;
      rule.first_blocks = 2;
      rule.sharing = sharing;
      const auto table = fovea::select::rank_blocks<float>(q.view(), k.view(), grid, rule);
      REQUIRE((table.batch == 2 && table.heads == (sharing == Sharing::none ? heads : kv_heads)));
      bool same = true;
      for (Index b = 0; b < 2; ++b) {
        for (Index h = 0; h < table.heads; ++h) {
          for (Index a = 0; a < query_blocks; ++a) {
            const Index own = 250 + a;
            std::vector<std::pair<float, Index>> order;
            for (Index n = 0; n <= std::min(own, key_blocks - 1); ++n) {
              float score = sharing == Sharing::max ? -1e9f : 0.f;
              for (Index m = 0; m < (sharing == Sharing::none ? 1 : group); ++m) {
                const Index head = sharing == Sharing::none ? h : h * group + m;
                float product = 0;
                for (Index d = 0; d < dim; ++d)
                  product += q.view().row(b, head, a)[d] * k.view().row(b, head / group, n)[d];
                score = sharing == Sharing::max ? std::max(score, product) : score + product;
              }
              if (n < 2 || n == own) score = fovea::simd::infinity<float>;
              order.push_back({-score, n});
            }
            std::sort(order.begin(), order.end());
            std::vector<Index> wanted;
            for (std::size_t n = 0; n < 7; ++n) wanted.push_back(order[n].second);
            std::sort(wanted.begin(), wanted.end());
            same = same && list_of(table, b, h, a) == wanted;
          }
        }
      }
      CHECK(same);
      const auto again = fovea::select::rank_blocks<float>(q.view(), k.view(), grid, rule, fovea::exec::Pool(3));
      CHECK((again.begin == table.begin && again.blocks == table.blocks));
    }
  }
}

TEST_CASE("forced blocks inside the budget and on top of it, thresholds and shares") {
  // One query with scores 1, 5, 3, 3, 2 of five blocks.
  const std::vector<float> q{1}, k{1, 5, 3, 3, 2};
  const auto queries = fovea::view(q.data(), {1, 1, 1, 1});
  const auto keys = fovea::view(k.data(), {1, 1, 5, 1});
  const auto run = [&](BlockRule rule, Index offset = 9, bool causal = false) {
    return fovea::select::rank_blocks<float>(queries, keys, {1, 2, 1, 10, offset, causal}, rule).blocks;
  };
  using List = std::vector<Index>;
  BlockRule rule;
  rule.top_k = 2;
  CHECK(run(rule) == List{1, 4});
  rule.own_blocks = false;
  CHECK(run(rule) == List{1, 2});
  rule.first_blocks = 1;
  CHECK(run(rule) == List{0, 1});
  rule.extra = true;
  CHECK(run(rule) == List{0, 1, 2});
  rule.extra = false;
  rule.own_blocks = true;
  rule.top_k = 1;
  CHECK(run(rule) == List{0, 4});  // what is forced stays when it is more than the budget
  rule.first_blocks = 0;
  rule.top_k = 3;
  CHECK(run(rule, 5, true) == List{0, 1, 2});  // no others are there
  CHECK(run(rule, -1, true).empty());          // a query before the first key

  BlockRule reach;
  reach.threshold = 1.5;
  reach.scale = 0.5;
  reach.own_blocks = false;
  CHECK(run(reach) == List{1, 2, 3});
  reach.first_blocks = 1;
  CHECK(run(reach) == List{0, 1, 2, 3});

  BlockRule share;  // weights 0.018, 1, 0.135, 0.135, 0.05 in all 1.34
  share.own_blocks = false;
  for (const auto& [p, wanted] :
       {std::pair<double, List>{0.7, {1}}, {0.8, {1, 2}}, {0.9, {1, 2, 3}}, {1, {0, 1, 2, 3, 4}}}) {
    share.top_p = p;
    CHECK(run(share) == wanted);
  }
  share.top_p = 0.8;
  share.top_p_rule = fovea::select::TopP::fitting;
  CHECK(run(share) == List{1});
}

TEST_CASE("a block whose score is NaN is taken only when it is forced or nothing is left to choose") {
  const std::vector<float> q{1}, k{1, support::nan<float>, 3, -fovea::simd::infinity<float>};
  const auto run = [&](Index top_k, Index first_blocks) {
    BlockRule rule;
    rule.top_k = top_k;
    rule.first_blocks = first_blocks;
    rule.own_blocks = false;
    return fovea::select::rank_blocks<float>(fovea::view(q.data(), {1, 1, 1, 1}), fovea::view(k.data(), {1, 1, 4, 1}),
                                             {1, 1, 1, 4, 3, false}, rule)
        .blocks;
  };
  CHECK(run(3, 0) == std::vector<Index>{0, 2});
  CHECK(run(3, 2) == std::vector<Index>{0, 1, 2});
  CHECK(run(4, 0) == std::vector<Index>{0, 1, 2, 3});
}

TEST_CASE("a ranking refuses what is no rule and rows that are not the blocks'") {
  const auto x = grid_array<float>(1, {1, 2, 4, 8});
  const auto run = [&](const BlockRule& rule, const BlockGrid& grid = {2, 2, 8, 8, 0, false}) {
    return refusal([&] { fovea::select::rank_blocks<float>(x.view(), x.view(), grid, rule); });
  };
  BlockRule rule;
  CHECK(run(rule) ==
        "fovea::select::rank_blocks: exactly one of top_k, top_p and threshold must be given, got top_k 0");
  rule.top_k = -1;
  CHECK(run(rule) == "fovea::select::rank_blocks: top_k must be positive, got -1");
  rule.top_k = 1;
  CHECK(run(rule) == "accepted");
  CHECK(run(rule, {2, 2, 9, 8, 0, false}) != "accepted");
  CHECK(run(rule, {2, 2, 8, 9, 0, false}) != "accepted");
  CHECK(run(rule, {0, 2, 8, 8, 0, false}) != "accepted");
  for (const double p : {0.0, -0.5, 1.5, support::nan<double>}) {
    BlockRule share;
    share.top_p = p;
    CHECK(run(share) != "accepted");
  }
  rule.first_blocks = -1;
  CHECK(run(rule) != "accepted");
}
