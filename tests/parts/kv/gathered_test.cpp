// Lists of tokens over a source: the bits of the listed tokens in one array.
#include <fovea/parts/kv/gathered.hpp>

#include <algorithm>
#include <fovea/parts/kv/paged.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <numeric>
#include <random>

#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::softmax;
using fovea::Span;
namespace kv = fovea::kv;
namespace mask = fovea::mask;

namespace {

const auto recipe = softmax().mask(mask::causal());

template <class From>
Result<float> attend(const Inputs<float>& x, const From& from) {
  auto got = blank<float>(x.sizes());
  fovea::attend(x.q, from, got.both(), recipe);
  return got;
}

// The listed tokens in arrays of their own, of_head(b, h) being the list.
template <class Lists>
Inputs<float> copied(const Inputs<float>& x, Index count, const Lists& of_head) {
  const Sizes s = x.sizes();
  Inputs<float> y{x.q, Tensor4<float>(s.batch, s.kv_heads, count, s.dim),
                  Tensor4<float>(s.batch, s.kv_heads, count, s.value_dim)};
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.kv_heads; ++h) {
      for (Index j = 0; j < count; ++j) {
        std::copy_n(row(x.k, b, h, Index(of_head(b, h)[j])), s.dim, row(y.k, b, h, j));
        std::copy_n(row(x.v, b, h, Index(of_head(b, h)[j])), s.value_dim, row(y.v, b, h, j));
      }
    }
  }
  return y;
}

// `count` of `tokens` tokens, ascending; in runs of about `run` neighbours.
std::vector<Index> some(unsigned seed, Index tokens, Index count, Index run) {
  std::vector<Index> begins(std::size_t(tokens / run)), list;
  std::iota(begins.begin(), begins.end(), Index{0});
  std::shuffle(begins.begin(), begins.end(), std::mt19937(seed));
  for (std::size_t n = 0; Index(list.size()) < count; ++n)
    for (Index j = 0; j < run; ++j) list.push_back(begins[n] * run + j);
  list.resize(std::size_t(count));
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace

TEST_CASE("every token listed is the source itself, bit for bit", "[parts][kv]") {
  for (const Index queries : {1, 3, 30}) {
    const auto x = gaussian<float>({2, 4, 2, queries, 700, 16, 12});
    std::vector<Index> all(700);
    std::iota(all.begin(), all.end(), Index{0});
    CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(x.k, x.v), all)), attention(x, recipe)));
  }
}

TEST_CASE("a list gives the bits of its tokens in one array, neighbours or not, in any order", "[parts][kv]") {
  for (const Index queries : {1, 30}) {
    const auto x = gaussian<float>({2, 4, 2, queries, 900, 16, 8});
    for (const Index run : {1, 3, 40}) {
      auto list = some(1, 900, 530, run);
      const auto wanted = attention(copied(x, 530, [&](Index, Index) { return list.data(); }), recipe);
      CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(x.k, x.v), list)), wanted));
    }
    auto mixed = some(2, 900, 530, 1);
    std::shuffle(mixed.begin(), mixed.end(), std::mt19937(3));
    mixed[7] = mixed[200];
    const auto wanted = attention(copied(x, 530, [&](Index, Index) { return mixed.data(); }), recipe);
    CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(x.k, x.v), mixed)), wanted));
  }
}

TEST_CASE("lists of kv heads, and of sequences", "[parts][kv]") {
  const auto x = gaussian<float>({2, 4, 2, 1, 300, 16, 8});
  Tensor3<int> heads(2, 2, 100);
  Matrix<int> sequences(2, 100);
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 2; ++h) {
      const auto list = some(unsigned(2 * b + h), 300, 100, 2);
      std::copy(list.begin(), list.end(), &heads(b, h, 0));
      std::copy(list.begin(), list.end(), &sequences(b, 0));
    }
  }
  const auto source = kv::contiguous(x.k, x.v);
  CHECK(same_bits(attend(x, kv::gathered(source, heads)),
                  attention(copied(x, 100, [&](Index b, Index h) { return &heads(b, h, 0); }), recipe)));
  CHECK(same_bits(attend(x, kv::gathered(source, sequences)),
                  attention(copied(x, 100, [&](Index b, Index) { return &sequences(b, 0); }), recipe)));
}

TEST_CASE("lists may be of several lengths, and empty", "[parts][kv]") {
  const auto x = gaussian<float>({3, 2, 1, 1, 300, 16, 8});
  const auto list = some(5, 300, 90, 1);
  const std::vector<int> lengths{90, 0, 33};
  const auto got = attend(x, kv::gathered(kv::contiguous(x.k, x.v), list, lengths));
  for (const Index b : {0, 2}) {
    const auto wanted =
        attention(copied(x, lengths[std::size_t(b)], [&](Index, Index) { return list.data(); }), recipe);
    for (Index h = 0; h < 2; ++h) CHECK(same_row(got, wanted, b, h, 0));
  }
  CHECK(all_zero(row(got.out, 1, 0, 0), 16));
  CHECK(got.log_sum(1, 0, 0) == -infinity<float>);
}

TEST_CASE("tokens of pages are listed as those of an array are", "[parts][kv]") {
  const auto x = gaussian<float>({1, 2, 1, 1, 96, 16, 8});
  Tensor4<float> k(12, 1, 8, 16), v(12, 1, 8, 8);
  std::vector<int> table;
  for (int p = 0; p < 12; ++p) {
    const int page = (5 * p + 3) % 12;
    table.push_back(page);
    std::copy_n(row(x.k, 0, 0, 8 * p), 8 * 16, row(k, page, 0, 0));
    std::copy_n(row(x.v, 0, 0, 8 * p), 8 * 8, row(v, page, 0, 0));
  }
  const std::vector<Index> lengths{96};
  const auto list = some(4, 96, 60, 5);
  CHECK(same_bits(attend(x, kv::gathered(kv::paged(k, v, table, lengths), list)),
                  attention(copied(x, 60, [&](Index, Index) { return list.data(); }), recipe)));
}

TEST_CASE("neighbours in a list are one run; strewn rows of one array are brought together", "[parts][kv]") {
  const Tensor4<float> k(5, 1, 4, 3), v(5, 1, 4, 5);
  const std::vector<int> table{0, 1, 2, 3, 4}, list{3, 4, 5, 9, 8, 0, 1, 2, 3};
  const std::vector<Index> twenty{20};
  const auto ends = [&](const auto& source, Span tokens) {
    std::vector<Index> all;
    Index next = tokens.first;
    source.each_values(0, 0, tokens, [&](Span part, const auto& run) {
      CHECK(part.first == next);
      next = part.last;
      for (Index t = part.first; t < part.last; ++t) CHECK(run[t - part.first] == v.data() + 5 * list[std::size_t(t)]);
      all.push_back(part.last);
    });
    return all;
  };
  const auto pages = kv::gathered(kv::paged(k, v, table, twenty), list);
  CHECK(ends(pages, {0, 9}) == std::vector<Index>{3, 4, 5, 9});
  CHECK(ends(pages, {1, 6}) == std::vector<Index>{3, 4, 5, 6});
  CHECK(ends(pages, {2, 2}).empty());
  const auto one = [](const auto& x) { return fovea::view(x.data(), {1, 1, 20, x.dimension(3)}); };
  const auto rows = kv::gathered(kv::contiguous(one(k), one(v)), list);
  CHECK(ends(rows, {0, 9}) == std::vector<Index>{9});
  CHECK(ends(rows, {5, 9}) == std::vector<Index>{9});
  CHECK(ends(rows, {2, 2}).empty());
}

TEST_CASE("lists over narrow arrays give the bits of their tokens in one array", "[parts][kv]") {
  auto x = gaussian<float>({1, 2, 1, 1, 300, 24, 20});
  const auto list = some(7, 300, 150, 1);
  Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor> k(1, 1, 300, 24), listed(1, 1, 150, 24);
  for (Index n = 0; n < k.size(); ++n) k.data()[n] = Eigen::half(x.k.data()[n]);
  Tensor4<float> v(1, 1, 150, 20);
  for (Index j = 0; j < 150; ++j) {
    std::copy_n(&k(0, 0, list[std::size_t(j)], 0), 24, &listed(0, 0, j, 0));
    std::copy_n(row(x.v, 0, 0, list[std::size_t(j)]), 20, row(v, 0, 0, j));
  }
  CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(k, x.v), list)), attend(x, kv::contiguous(listed, v))));
}

TEST_CASE("lists refuse what does not fit and touch nothing", "[parts][kv]") {
  const auto x = gaussian<float>({2, 2, 2, 1, 8, 3, 5});
  const auto source = kv::contiguous(x.k, x.v);
  const auto said = [&](const auto& lists) { return support::refusal([&] { kv::gathered(source, lists); }); };
  using List = std::vector<int>;
  CHECK(said(List{0, 7}) == "accepted");
  CHECK(said(List{0, 8}) == "fovea::kv::gathered: tokens must be among the 8 of sequence 0, got 8");
  CHECK(said(List{-1}) == "fovea::kv::gathered: tokens must be among the 8 of sequence 0, got -1");
  CHECK(said(Matrix<int>(3, 2)) ==
        "fovea::kv::gathered: there must be lists for all sequences or for each, wanted 2, got 3");
  CHECK(said(Tensor3<int>(2, 3, 2)) ==
        "fovea::kv::gathered: there must be lists for all kv heads or for each, wanted 2, got 3");
  const List list{0, 1, 77}, short_of{1}, long_of{2, 4}, negative{-1, 2}, good{2, 1};
  const auto counted = [&](const List& lengths) {
    return support::refusal([&] { kv::gathered(source, list, lengths); });
  };
  CHECK(counted(good) == "accepted");
  CHECK(counted(short_of) == "fovea::kv::gathered: there must be one length for each sequence, wanted 2, got 1");
  CHECK(counted(long_of) == "fovea::kv::gathered: lengths must be between 0 and 3, got 4");
  CHECK(counted(negative) == "fovea::kv::gathered: lengths must be between 0 and 3, got -1");
}
