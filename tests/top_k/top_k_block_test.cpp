// Attention to the best key blocks against its reference: the choice, what is attended, the exact limits, MoBA, and
// what it refuses.
#include <fovea/block_sparse/block_sparse.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/top_k/top_k_block.hpp>

#include "support/attention.hpp"
#include "top_k/top_k_block.hpp"

using namespace fovea::test;
using fovea::BlockTable;
using fovea::Index;
using fovea::Pooling;
using fovea::Sharing;
using fovea::Site;
using fovea::TopKBlockOptions;
using Lists = std::vector<std::vector<Index>>;

namespace {

std::vector<Index> list_of(const BlockTable& table, Index b, Index h, Index a) {
  const fovea::Span list = table.list(b, table.heads == 1 ? 0 : h, a);
  return {table.blocks.begin() + list.first, table.blocks.begin() + list.last};
}

// q and k in multiples of 1/8 up to 1: with blocks of a power of two their means and products are exact in float.
template <class T>
Inputs<T> on_a_grid(const Sizes& s) {
  auto x = gaussian<T>(s);
  std::mt19937 random(5);
  for (auto* a : {&x.q, &x.k})
    std::generate(a->data(), a->data() + a->size(), [&] { return T(int(random() % 17) - 8) / 8; });
  return x;
}

fovea::reference::TopKBlock definition(const TopKBlockOptions& o) {
  using fovea::reference::BlockPooling;
  const auto pooling = [](Pooling p) {
    return p == Pooling::mean ? BlockPooling::mean : p == Pooling::max ? BlockPooling::max : BlockPooling::bounds;
  };
  return {o.query_block, o.key_block, pooling(o.query_pooling), pooling(o.key_pooling), o.top_k,
          o.top_p,       o.threshold, o.first_blocks,           o.own_blocks,           o.forced_extra,
          o.causal};
}

// The lists of all heads [B x H x query blocks], or [B x G x query blocks] when they are shared.
template <class T>
Lists wanted_lists(const Inputs<T>& x, const TopKBlockOptions& o) {
  const Sizes s = x.sizes();
  const auto d = definition(o);
  const Index group = s.heads / s.kv_heads;
  Lists all;
  for (Index b = 0; b < s.batch; ++b) {
    Matrix<double> shared;
    for (Index h = 0; h < s.heads; ++h) {
      const Matrix<double> q = head(x.q, b, h).template cast<double>();
      const Matrix<double> k = head(x.k, b, h / group).template cast<double>();
      const auto scores = fovea::reference::top_k_block_scores<double>(q, k, d);
      if (o.sharing == Sharing::none || h % group == 0) {
        shared = scores;
      } else {
        for (Index i = 0; i < shared.size(); ++i) {
          double& to = shared.data()[i];
          to = o.sharing == Sharing::max ? std::max(to, scores.data()[i]) : to + scores.data()[i];
        }
      }
      if (o.sharing != Sharing::none && h % group != group - 1) continue;
      for (auto& list :
           fovea::reference::top_k_block_lists<double>(shared, s.queries, s.keys, 1 / std::sqrt(double(s.dim)), d))
        all.push_back(list);
    }
  }
  return all;
}

template <class T>
bool chooses_what_is_wanted(const Inputs<T>& x, const TopKBlockOptions& o) {
  const BlockTable table = fovea::top_k_block_selection(x.q, x.k, o);
  const Lists wanted = wanted_lists(x, o);
  if (table.batch * table.heads * table.query_blocks != Index(wanted.size())) return false;
  for (std::size_t list = 0; list < wanted.size(); ++list) {
    if (std::vector<Index>(table.blocks.begin() + table.begin[list], table.blocks.begin() + table.begin[list + 1]) !=
        wanted[list])
      return false;
  }
  return true;
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const TopKBlockOptions& o, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::top_k_block(x.q, x.k, x.v, got.both(), o, executor);
  return got;
}

// What a table shows.
template <class T>
Model<T> model_of(const BlockTable& table, const Sizes& s, bool causal) {
  return {.visible = [&table, s, causal](Site at) {
    const Index h = table.heads == s.heads ? at.head : at.head * s.kv_heads / s.heads;
    const auto list = list_of(table, at.batch, h, at.query / table.query_block);
    return std::binary_search(list.begin(), list.end(), at.key / table.key_block) &&
           (!causal || at.key <= at.query + s.keys - s.queries);
  }};
}

}  // namespace

TEMPLATE_TEST_CASE("on a grid the choice is that of sorted scores, exactly", "", float, double) {
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 8, 4}, Sizes{2, 4, 2, 32, 40, 8, 4}, Sizes{1, 2, 1, 24, 64, 17, 4},
                         Sizes{1, 2, 2, 24, 16, 8, 4}}) {
    const auto x = on_a_grid<TestType>(s);
    for (const Index query_block : {1, 8}) {
      for (const Pooling keys : {Pooling::mean, Pooling::max, Pooling::bounds}) {
        for (const Sharing sharing : {Sharing::none, Sharing::max, Sharing::sum}) {
          for (const bool causal : {false, true}) {
            TopKBlockOptions o{.query_block = query_block, .key_block = 8, .top_k = 3};
            o.key_pooling = keys;
            o.sharing = sharing;
            o.causal = causal;
            o.query_pooling = keys == Pooling::max ? Pooling::max : Pooling::mean;
            INFO(s << ", blocks of " << query_block << ", causal " << causal);
            CHECK(chooses_what_is_wanted(x, o));
            o.first_blocks = 1;
            o.forced_extra = sharing == Sharing::sum;
            o.own_blocks = keys != Pooling::mean;
            CHECK(chooses_what_is_wanted(x, o));
            o.top_k = 0;
            o.threshold = 0.1;
            CHECK(chooses_what_is_wanted(x, o));
          }
        }
      }
    }
  }
}

TEST_CASE("the blocks that hold a share of the mass, with ragged blocks") {
  const auto x = gaussian<double>({2, 4, 2, 70, 103, 24, 4}, 3, 3);
  for (const double share : {0.1, 0.5, 0.9, 0.999, 1.0}) {
    for (const Index query_block : {1, 16}) {
      TopKBlockOptions o{.query_block = query_block, .key_block = 10, .top_p = share};
      o.own_blocks = query_block == 1;
      o.causal = share != 0.5;
      CHECK(chooses_what_is_wanted(x, o));
    }
  }
}

TEMPLATE_TEST_CASE("the chosen blocks are attended exactly, by query blocks and by queries", "", float, double) {
  using T = TestType;
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 16, 16}, Sizes{1, 4, 1, 1, 100, 32, 32}, Sizes{2, 2, 1, 390, 50, 20, 9},
                         Sizes{1, 1, 1, 390, 260, 16, 16}, Sizes{1, 4, 2, 70, 60, 16, 16}}) {
    for (const Index query_block : {1, 3, 16, 64}) {
      for (const bool causal : {false, true}) {
        INFO(s << ", blocks of " << query_block << ", causal " << causal);
        const auto x = gaussian<T>(s, 2, 2);
        TopKBlockOptions o{.query_block = query_block, .key_block = 16, .top_k = 3};
        o.causal = causal;
        o.own_blocks = query_block != 3;
        o.sharing = query_block == 64 ? Sharing::max : Sharing::none;
        const BlockTable table = fovea::top_k_block_selection(x.q, x.k, o);
        CHECK(is_exact(attention(x, o), x, model_of<T>(table, s, causal)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("with every block chosen it is dense attention", "", float, double) {
  using T = TestType;
  const auto x = gaussian<T>({1, 2, 1, 400, 200, 16, 16}, 2, 2);
  for (const bool causal : {false, true}) {
    auto dense = blank<T>(x.sizes());
    if (causal) {
      fovea::attend(x.q, x.k, x.v, dense.both(), fovea::softmax().mask(fovea::mask::causal()));
    } else {
      fovea::attend(x.q, x.k, x.v, dense.both(), fovea::softmax());
    }
    TopKBlockOptions o{.query_block = 64, .key_block = 64, .top_k = 4};
    o.causal = causal;
    o.sharing = Sharing::sum;
    CHECK(same_bits(attention(x, o), dense));
    o.query_block = 1;
    const Model<T> model{.visible = [causal](Site at) { return !causal || at.key <= at.query - 200; }};
    CHECK(is_exact(attention(x, o), x, model));
    o.key_block = 200;  // one block that holds all keys
    o.top_k = 1;
    CHECK(is_exact(attention(x, o), x, model));
  }
}

TEST_CASE("MoBA: the own block and the past blocks whose mean key the query meets best") {
  const Sizes s{1, 1, 1, 400, 400, 8, 8};
  const auto x = on_a_grid<double>(s);
  // By the words of the paper, without the reference.
  const Index block = 8, top_k = 3;
  const BlockTable table = fovea::top_k_block_selection(x.q, x.k, fovea::moba(block, top_k));
  bool same = true;
  for (Index h = 0; h < s.heads; ++h) {
    for (Index i = 0; i < s.queries; ++i) {
      std::vector<std::pair<double, Index>> gates;
      for (Index b = 0; b < i / block; ++b) {
        double gate = 0;
        for (Index d = 0; d < s.dim; ++d) {
          double mean = 0;
          for (Index j = b * block; j < (b + 1) * block; ++j) mean += x.k(0, 0, j, d) / double(block);
          gate += x.q(0, h, i, d) * mean;
        }
        gates.push_back({-gate, b});
      }
      std::sort(gates.begin(), gates.end());
      std::vector<Index> wanted{i / block};
      for (Index n = 0; n < std::min<Index>(top_k - 1, i / block); ++n) wanted.push_back(gates[std::size_t(n)].second);
      std::sort(wanted.begin(), wanted.end());
      same = same && list_of(table, 0, h, i) == wanted;
    }
  }
  CHECK(same);
  CHECK(is_exact(attention(x, fovea::moba(block, top_k)), x, model_of<double>(table, s, true)));

  const auto own = [&](Site at) { return at.key / block == at.query / block && at.key <= at.query; };
  CHECK(is_exact(attention(x, fovea::moba(block, 1)), x, {.visible = own}));
  const auto causal = [](Site at) { return at.key <= at.query; };
  CHECK(is_exact(attention(x, fovea::moba(block, 50)), x, {.visible = causal}));
  CHECK(is_exact(attention(x, fovea::moba(500, 1)), x, {.visible = causal}));
}

TEST_CASE("what is lost is bounded by the mass that is left out") {
  const Sizes s{1, 2, 2, 128, 128, 16, 16};
  const auto x = gaussian<double>(s, 4, 3);
  const auto dense = expected(x);
  for (const Index query_block : {1, 16}) {
    double last = -1;
    for (const Index top_k : {1, 2, 4, 8}) {
      TopKBlockOptions o{.query_block = query_block, .key_block = 16, .top_k = top_k};
      const auto got = attention(x, o);
      double kept = 0;
      bool bounded = true;
      for (Index h = 0; h < s.heads; ++h) {
        double longest = 0;
        for (Index j = 0; j < s.keys; ++j) {
          double square = 0;
          for (Index e = 0; e < s.value_dim; ++e) square += x.v(0, h, j, e) * x.v(0, h, j, e);
          longest = std::max(longest, std::sqrt(square));
        }
        for (Index i = 0; i < s.queries; ++i) {
          const double mass = std::exp(got.log_sum(0, h, i) - double(dense.log_sum(0, h, i)));
          double square = 0;
          for (Index e = 0; e < s.value_dim; ++e)
            square += std::pow(got.out(0, h, i, e) - double(dense.out(0, h, i, e)), 2);
          const double lost = std::sqrt(square);
          bounded = bounded && mass < 1 + 1e-12 && lost <= 2 * (1 - mass) * longest + 1e-12;
          kept += mass;
        }
      }
      CHECK(bounded);
      CHECK(kept > last);
      last = kept;
    }
  }
}

TEST_CASE("a choice can be kept and used again") {
  const auto x = gaussian<float>({2, 4, 2, 150, 150, 32, 32}, 3, 2);
  const TopKBlockOptions o{.query_block = 32, .key_block = 16, .top_k = 4, .causal = true};
  const BlockTable table = fovea::top_k_block_selection(x.q, x.k, o);
  auto got = blank<float>(x.sizes());
  fovea::block_sparse(x.q, x.k, x.v, got.both(), BlockTable(table), {.causal = true});
  CHECK(same_bits(got, attention(x, o)));
}

TEST_CASE("top_k_block is the same on any number of threads and for strided arrays") {
  const auto x = gaussian<float>({2, 4, 2, 400, 400, 32, 32}, 3, 2);
  for (const auto& o :
       {TopKBlockOptions{.query_block = 32, .key_block = 16, .top_k = 4, .causal = true}, fovea::moba(16, 4)}) {
    const auto serial = attention(x, o);
    for (const Index threads : {2, 3, 8}) CHECK(same_bits(attention(x, o, fovea::exec::Pool(threads)), serial));
    const auto heads_inside = [](const Tensor4<float>& a) {
      Tensor4<float> turned(a.dimension(0), a.dimension(2), a.dimension(1), a.dimension(3));
      for (Index b = 0; b < a.dimension(0); ++b) {
        for (Index h = 0; h < a.dimension(1); ++h) {
          for (Index i = 0; i < a.dimension(2); ++i) std::copy_n(row(a, b, h, i), a.dimension(3), row(turned, b, i, h));
        }
      }
      return turned;
    };
    const Tensor4<float> q = heads_inside(x.q), k = heads_inside(x.k), v = heads_inside(x.v);
    Tensor4<float> out = q;
    fovea::top_k_block(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), o);
    CHECK(same_bits(out, heads_inside(serial.out)));
  }
}

TEST_CASE("NaN and infinity reach the rows that see them and no other") {
  const Sizes s{1, 2, 1, 400, 200, 16, 16};
  const Index block = 16, spoiled_key = 37;
  for (const Index query_block : {1, 16}) {
    TopKBlockOptions o{.query_block = query_block, .key_block = block, .top_k = 3, .causal = true};
    auto x = gaussian<float>(s, 3, 2);
    const BlockTable table = fovea::top_k_block_selection(x.q, x.k, o);
    const auto model = model_of<float>(table, s, true);
    const auto clean = attention(x, o);
    for (const float bad : {not_a_number<float>, infinity<float>}) {
      auto y = x;
      row(y.v, 0, 0, spoiled_key)[3] = bad;
      const auto got = attention(y, o);
      bool right = true;
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          const bool sees = model.visible({0, h, i, spoiled_key});
          right = right && (sees ? !std::isfinite(row(got.out, 0, h, i)[3]) : same_row(got, clean, 0, h, i));
        }
      }
      CHECK(right);
    }
    // A query of NaN spoils its own row, and the choice of the block that it is a part of. (Rows that share a tile with
    // that block may be summed in another order.)
    auto y = x;
    row(y.q, 0, 1, 330)[0] = not_a_number<float>;
    const auto got = attention(y, o);
    CHECK(all_nan(row(got.out, 0, 1, 330), 16));
    bool right = true;
    for (Index h = 0; h < s.heads; ++h) {
      for (Index i = 0; i < s.queries; ++i) {
        if (h == 1 && i / query_block == 330 / query_block) continue;
        right = right && (query_block > 1 || same_row(got, clean, 0, h, i));
        for (Index e = 0; e < s.value_dim; ++e)
          right = right && std::abs(got.out(0, h, i, e) - clean.out(0, h, i, e)) < 1e-6;
      }
    }
    CHECK(right);
  }
}

TEST_CASE("queries before the first key see nothing; without keys nobody sees anything") {
  const auto x = gaussian<float>({1, 1, 1, 390, 380, 8, 8});
  for (const Index query_block : {1, 16}) {
    const auto got = attention(x, {.query_block = query_block, .key_block = 16, .top_k = 2, .causal = true});
    for (Index i = 0; i < 10; ++i) {
      CHECK(all_zero(row(got.out, 0, 0, i), 8));
      CHECK(got.log_sum(0, 0, i) == -infinity<float>);
    }
    CHECK(std::isfinite(got.log_sum(0, 0, 10)));
    const auto none = attention(gaussian<float>({1, 1, 1, 390, 0, 8, 8}), {.query_block = query_block, .top_k = 2});
    CHECK(all_zero(none.out.data(), none.out.size()));
  }
}

TEST_CASE("top_k_block refuses what is no rule, the output untouched") {
  const auto x = gaussian<float>({1, 2, 1, 8, 8, 4, 4});
  const auto refuses = [&](const TopKBlockOptions& o) {
    auto out = x.q;
    out.setConstant(7);
    try {
      fovea::top_k_block(x.q, x.k, x.v, out, o);
    } catch (const fovea::ArgumentError& error) {
      return error.function() == "fovea::top_k_block" &&
             std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; });
    }
    return false;
  };
  CHECK_FALSE(refuses({.query_block = 4, .key_block = 4, .top_k = 1}));
  CHECK(refuses({.query_block = 4, .key_block = 4}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = 0}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = -1}));
  CHECK(refuses({.query_block = 0, .key_block = 4, .top_k = 1}));
  CHECK(refuses({.query_block = 4, .key_block = 0, .top_k = 1}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = 1, .top_p = 0.5}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_p = 0.0}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_p = 1.5}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .threshold = not_a_number<double>}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = 1, .query_pooling = Pooling::bounds}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = 1, .first_blocks = -1}));
  CHECK(refuses({.query_block = 4, .key_block = 4, .top_k = 1, .scale = -1.0}));
  CHECK_THROWS_AS(fovea::top_k_block_selection(x.q, gaussian<float>({1, 2, 1, 8, 8, 5, 4}).k, {.top_k = 1}),
                  fovea::ArgumentError);
}
