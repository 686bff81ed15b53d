// Pages of a pool: the bits of the same tokens in one array, whatever their size and order.
#include <fovea/parts/kv/paged.hpp>

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>
#include <random>
#include <span>

#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::softmax;
namespace kv = fovea::kv;
namespace mask = fovea::mask;
using Table = Matrix<int>;

namespace {

// Tokens of some sequences, and pools that hold them in pages drawn at random; the rest of the pools is NaN.
template <class K, class V = K>
struct Pools {
  Tensor4<K> k;  // [pages,G,page,D]
  Tensor4<V> v;
  Table table;
  std::vector<Index> lengths;

  template <class T>
  Pools(const Inputs<T>& x, std::vector<Index> of_each, Index page, unsigned seed = 1) : lengths(std::move(of_each)) {
    const Sizes s = x.sizes();
    const Index most = (s.keys + page - 1) / page + 1, pages = s.batch * most + 3;
    k = Tensor4<K>(pages, s.kv_heads, page, s.dim);
    v = Tensor4<V>(pages, s.kv_heads, page, s.value_dim);
    k.setConstant(K(not_a_number<float>));
    v.setConstant(V(not_a_number<float>));
    std::vector<int> free(static_cast<std::size_t>(pages));
    for (int n = 0; n < int(pages); ++n) free[std::size_t(n)] = n;
    std::shuffle(free.begin(), free.end(), std::mt19937(seed));
    table = Table::Constant(s.batch, most, -7);
    for (Index b = 0; b < s.batch; ++b) {
      for (Index t = 0; t < lengths[std::size_t(b)]; ++t) {
        int& number = table(b, t / page);
        if (t % page == 0) {
          number = free.back();
          free.pop_back();
        }
        for (Index h = 0; h < s.kv_heads; ++h) {
          for (Index d = 0; d < s.dim; ++d) row(k, number, h, t % page)[d] = K(row(x.k, b, h, t)[d]);
          for (Index e = 0; e < s.value_dim; ++e) row(v, number, h, t % page)[e] = V(row(x.v, b, h, t)[e]);
        }
      }
    }
  }

  auto source() const { return kv::paged(k, v, table, lengths); }
};

const auto recipe = softmax().mask(mask::causal() & (mask::window(300) | mask::prefix(3)));

template <class From>
Result<float> attend(const Inputs<float>& x, const From& from) {
  auto got = blank<float>(x.sizes());
  fovea::attend(x.q, from, got.both(), recipe);
  return got;
}

// Where every token of a source lies.
template <class From>
std::vector<const float*> places(const From& source) {
  std::vector<const float*> at;
  for (Index b = 0; b < source.batch(); ++b) {
    for (Index h = 0; h < source.kv_heads(); ++h) {
      const auto add = [&](fovea::Span part, const kv::Rows<float>& run) {
        for (Index t = 0; t < part.size(); ++t) at.push_back(run[t]);
      };
      source.each_keys(b, h, {0, source.length(b)}, add);
      source.each_values(b, h, {0, source.length(b)}, add);
    }
  }
  return at;
}

// What each sequence gives alone from one array.
Result<float> one_by_one(const Inputs<float>& x, const std::vector<Index>& lengths) {
  const Sizes s = x.sizes();
  auto all = blank<float>(s);
  for (Index b = 0; b < s.batch; ++b) {
    const Index length = lengths[std::size_t(b)];
    Inputs<float> own{Tensor4<float>(1, s.heads, s.queries, s.dim), Tensor4<float>(1, s.kv_heads, length, s.dim),
                      Tensor4<float>(1, s.kv_heads, length, s.value_dim)};
    std::copy_n(row(x.q, b, 0, 0), own.q.size(), own.q.data());
    for (Index h = 0; h < s.kv_heads; ++h) {
      std::copy_n(row(x.k, b, h, 0), length * s.dim, row(own.k, 0, h, 0));
      std::copy_n(row(x.v, b, h, 0), length * s.value_dim, row(own.v, 0, h, 0));
    }
    const auto one = attention(own, recipe);
    std::copy_n(one.out.data(), one.out.size(), row(all.out, b, 0, 0));
    std::copy_n(one.log_sum.data(), one.log_sum.size(), all.log_sum.data() + b * s.heads * s.queries);
  }
  return all;
}

}  // namespace

TEST_CASE("pages of any size and order give the bits of one array", "[parts][kv]") {
  for (const Sizes& s : {Sizes{2, 4, 2, 1, 700, 20, 12}, Sizes{1, 2, 1, 3, 600, 16, 17}, Sizes{1, 4, 2, 1, 400, 16, 16},
                         Sizes{2, 2, 2, 30, 150, 8, 16}}) {
    const auto x = gaussian<float>(s);
    const auto wanted = attention(x, recipe);
    for (const Index page : {1, 7, 16, 64, 1000}) {
      INFO(s << " page " << page);
      const Pools<float> pools(x, std::vector<Index>(std::size_t(s.batch), s.keys), page);
      CHECK(same_bits(attend(x, pools.source()), wanted));
    }
  }
}

TEST_CASE("sequences of different lengths in one call are one call each, bit for bit", "[parts][kv]") {
  const std::vector<Index> lengths{40, 1100, 0, 513, 7};
  for (const Index queries : {1, 3, 20}) {
    const auto x = gaussian<float>({5, 4, 2, queries, 1100, 16, 8});
    const auto wanted = one_by_one(x, lengths);
    for (const Index page : {5, 16}) {
      const Pools<float> pools(x, lengths, page);
      CHECK(same_bits(attend(x, pools.source()), wanted));
    }
    for (Index h = 0; h < 4; ++h) CHECK(all_zero(row(wanted.out, 2, h, 0), queries * 8));
  }
}

TEST_CASE("narrow pools give attention over the rounded numbers", "[parts][kv]") {
  for (const Index queries : {1, 20}) {
    auto x = gaussian<float>({2, 4, 2, queries, 500, 20, 16});
    const Pools<Eigen::half, Eigen::bfloat16> pools(x, {500, 500}, 16);
    for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] = float(Eigen::half(x.k.data()[n]));
    for (Index n = 0; n < x.v.size(); ++n) x.v.data()[n] = float(Eigen::bfloat16(x.v.data()[n]));
    Model<float> model;
    model.visible = [&](fovea::Site s) {
      const Index behind = s.query + 500 - queries - s.key;
      return behind >= 0 && (behind < 300 || s.key < 3);
    };
    CHECK(is_exact(attend(x, pools.source()), x, model));
  }
}

TEST_CASE("tables are matrices, tensors and ranges of any integer; pools have either layout", "[parts][kv]") {
  const auto x = gaussian<float>({2, 2, 2, 1, 50, 8, 4});
  const Pools<float> p(x, {50, 33}, 8);
  const auto wanted = places(p.source());
  Eigen::Tensor<std::int64_t, 2, Eigen::RowMajor> tensor(2, p.table.cols());
  std::copy_n(p.table.data(), p.table.size(), tensor.data());
  const std::vector<std::uint32_t> flat(p.table.data(), p.table.data() + p.table.size());
  const Eigen::Vector2i lengths(50, 33);
  CHECK(places(kv::paged(p.k, p.v, tensor, lengths)) == wanted);
  CHECK(places(kv::paged(p.k, p.v, std::span(flat), p.lengths)) == wanted);
  Table wide = Table::Constant(2, p.table.cols() + 5, 1000);
  wide.leftCols(p.table.cols()) = p.table;
  CHECK(places(kv::paged(p.k, p.v, wide.leftCols(p.table.cols()), lengths)) == wanted);

  const Tensor4<float> k(9, 4, 2, 3), v(9, 4, 2, 5);  // [pages,page,G,D]
  const std::vector<int> table{7, 0}, six{6};
  const auto at = places(kv::paged(fovea::bthd(k), fovea::bthd(v), table, six));
  CHECK(at[0] == &k(7, 0, 0, 0));
  CHECK(at[5] == &k(0, 1, 0, 0));
  CHECK(at[12 + 5] == &k(0, 1, 1, 0));
  CHECK(at[18 + 3] == &v(7, 3, 1, 0));
}

TEST_CASE("pages that follow one another are one run, unless other heads lie in between", "[parts][kv]") {
  const Tensor4<float> k(9, 2, 4, 3), v(9, 2, 4, 3);
  const std::vector<int> table{2, 3, 4, 7, 6};
  const std::vector<Index> lengths{19};
  const auto runs = [&](const auto& source, Index head, fovea::Span tokens) {
    std::vector<Index> ends;
    Index next = tokens.first;
    source.each_keys(0, head, tokens, [&](fovea::Span part, const kv::Rows<float>& run) {
      CHECK(part.first == next);
      next = part.last;
      for (Index t = part.first; t < part.last; ++t)
        CHECK(run[t - part.first] == source.k.row(table[std::size_t(t / 4)], head, t % 4));
      ends.push_back(part.last);
    });
    return ends;
  };
  const auto split = kv::paged(k, v, table, lengths);
  CHECK(runs(split, 1, {0, 19}) == std::vector<Index>{4, 8, 12, 16, 19});
  CHECK(runs(split, 0, {5, 7}) == std::vector<Index>{7});
  CHECK(runs(split, 0, {5, 5}).empty());
  const fovea::View<const float> one = fovea::view(k.data(), {18, 1, 4, 3});
  const auto seamless = kv::paged(one, one, table, lengths);
  CHECK(runs(seamless, 0, {0, 19}) == std::vector<Index>{12, 16, 19});
  CHECK(runs(seamless, 0, {5, 11}) == std::vector<Index>{11});
  CHECK(runs(seamless, 0, {3, 13}) == std::vector<Index>{12, 13});
}

TEST_CASE("pools refuse what does not fit", "[parts][kv]") {
  const Tensor4<float> k(6, 2, 4, 3), v(6, 2, 4, 5);
  const auto said = [&](const Tensor4<float>& values, const std::vector<int>& table,
                        const std::vector<Index>& lengths) {
    return support::refusal([&] { kv::paged(k, values, table, lengths); });
  };
  CHECK(said(v, {0, 5}, {8}) == "accepted");
  CHECK(said(v, {0, -1, 77}, {3}) == "accepted");
  CHECK(said(v, {}, {}) == "accepted");
  CHECK(said(v, {0, 6}, {8}) == "fovea::kv::paged: pages must be among the 6 of the pool, got 6 in row 0");
  CHECK(said(v, {0, 5, 1, -1}, {8, 5}) == "fovea::kv::paged: pages must be among the 6 of the pool, got -1 in row 1");
  CHECK(said(v, {0, 5}, {9}) ==
        "fovea::kv::paged: the table must hold every page that a length needs, wanted 3 of 9 tokens, got 2");
  CHECK(said(v, {0, 5}, {-1}) == "fovea::kv::paged: lengths must not be negative, got -1");
  CHECK(said(v, {0, 5, 1}, {4, 4}) ==
        "fovea::kv::paged: the table must have a row for each sequence, wanted 2 rows, got 3 entries");
  CHECK(said(Tensor4<float>(5, 2, 4, 5), {0, 5}, {8}) ==
        "fovea::kv::paged: v must have the pages of k, wanted 6, got 5");
  CHECK(said(Tensor4<float>(6, 1, 4, 5), {0, 5}, {8}) ==
        "fovea::kv::paged: v must have the heads of k, wanted 2, got 1");
  CHECK(said(Tensor4<float>(6, 2, 3, 5), {0, 5}, {8}) ==
        "fovea::kv::paged: pages of v must be as long as those of k, wanted 4, got 3");
  CHECK(support::refusal([&] {
          kv::paged(k, v, Table(3, 2), std::vector<Index>{1, 1});
        }) == "fovea::kv::paged: the table must have a row for each sequence, wanted 2 rows, got 3");

  const auto x = gaussian<float>({2, 2, 2, 1, 8, 3, 5});
  auto got = blank<float>(x.sizes());
  const std::vector<int> table{0, 5};
  const std::vector<Index> lengths{8};
  CHECK(support::refusal([&] { fovea::attend(x.q, kv::paged(k, v, table, lengths), got.both(), recipe); }) ==
        "fovea::attend: k must have the batch of q, wanted 2, got 1");
  CHECK(all_nan(got.out.data(), got.out.size()));
}
