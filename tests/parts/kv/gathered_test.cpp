// Lists of tokens over a source: the bits of the listed tokens in one array.
#include <fovea/parts/kv/paged.hpp>

#include "parts/kv/listed.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Span;
namespace kv = fovea::kv;

TEST_CASE("every token listed is the source itself, bit for bit", "[parts][kv]") {
  for (const Index queries : {1, 3, 30}) {
    const auto x = gaussian<float>({2, 4, 2, queries, 700, 16, 12});
    std::vector<Index> all(700);
    std::iota(all.begin(), all.end(), Index{0});
    CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(x.k, x.v), all)), attention(x, recipe)));
  }
}

TEST_CASE("a list gives the bits of its tokens in one array, neighbours or not, in any order", "[parts][kv]") {
  // Few queries and many, values of whole vectors or not.
  for (const auto& [queries, width] : {std::pair<Index, Index>{1, 8}, {1, 64}, {3, 8}, {3, 64}, {30, 8}}) {
    INFO(queries << " queries, values of " << width);
    const auto x = gaussian<float>({2, 4, 2, queries, 900, 16, width});
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
  CHECK(counted({}) == "fovea::kv::gathered: there must be one length for each sequence, wanted 2, got 0");
  CHECK(counted(long_of) == "fovea::kv::gathered: lengths must be between 0 and 3, got 4");
  CHECK(counted(negative) == "fovea::kv::gathered: lengths must be between 0 and 3, got -1");
}
