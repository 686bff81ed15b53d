// Quest against its reference: the pages, decoding with bounds that grow, the exact limits, and what it refuses.
#include <fovea/block_sparse/block_sparse.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/top_k/quest.hpp>

#include "support/attention.hpp"
#include "top_k/quest.hpp"

using namespace fovea::test;
using fovea::BlockTable;
using fovea::Index;
using fovea::PageBounds;
using fovea::QuestOptions;
using fovea::Sharing;
using fovea::Site;

namespace {

template <class T>
PageBounds<T> bounds_of(const Tensor4<T>& k, Index page) {
  PageBounds<T> bounds{.page = page, .batch = k.dimension(0), .kv_heads = k.dimension(1), .dim = k.dimension(3)};
  bounds.append(k);
  return bounds;
}

std::vector<Index> list_of(const BlockTable& table, Index b, Index h) {
  const fovea::Span list = table.list(b, h, 0);
  return {table.blocks.begin() + list.first, table.blocks.begin() + list.last};
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const PageBounds<T>& bounds, const QuestOptions& o, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::quest(x.q, x.k, x.v, got.both(), bounds, o, executor);
  return got;
}

template <class T>
Model<T> model_of(const BlockTable& table, const Sizes& s) {
  return {.visible = [&table, s](Site at) {
    const auto list = list_of(table, at.batch, table.heads == s.heads ? at.head : at.head * s.kv_heads / s.heads);
    return std::binary_search(list.begin(), list.end(), at.key / table.key_block);
  }};
}

// q and k in multiples of 1/8: bounds and their products are exact in float.
template <class T>
Inputs<T> on_a_grid(const Sizes& s) {
  auto x = gaussian<T>(s);
  std::mt19937 random(5);
  for (auto* a : {&x.q, &x.k})
    std::generate(a->data(), a->data() + a->size(), [&] { return T(int(random() % 33) - 16) / 8; });
  return x;
}

}  // namespace

TEST_CASE("the hand case of two keys on a page") {
  const Matrix<double> k = (Matrix<double>(2, 2) << 1, -1, -2, 3).finished();
  PageBounds<double> bounds{.page = 2, .dim = 2};
  bounds.append(k);
  CHECK(bounds.rows == std::vector<double>{1, 3, -2, -1});
  const auto score = [&](double a, double b) {
    const double q[2] = {a, b};
    double halves[4];
    fovea::select::bound_query(q, Index{2}, halves);
    double sum = 0;
    for (std::size_t d = 0; d < 4; ++d) sum += halves[d] * bounds.rows[d];
    return sum;
  };
  CHECK(score(1, -1) == 2);
  CHECK(score(1, 1) == 4);
}

TEMPLATE_TEST_CASE("on a grid the pages are those of the reference, exactly", "", float, double) {
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 8, 4}, Sizes{2, 4, 2, 1, 333, 33, 4}, Sizes{1, 8, 1, 1, 1600, 16, 4}}) {
    const auto x = on_a_grid<TestType>(s);
    for (const Index page : {1, 4, 16}) {
      const auto bounds = bounds_of(x.k, page);
      for (const Index top_k : {1, 2, 7, 1000}) {
        const BlockTable table = fovea::quest_selection(x.q, bounds, {.top_k = top_k});
        REQUIRE((table.heads == s.heads && table.batch == s.batch && table.key_block == page));
        bool same = true;
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h)
            same = same && list_of(table, b, h) == fovea::reference::quest_pages<double>(
                                                       head(x.q, b, h).template cast<double>(),
                                                       head(x.k, b, h * s.kv_heads / s.heads).template cast<double>(),
                                                       page, top_k);
        }
        CHECK(same);
      }
    }
  }
}

TEMPLATE_TEST_CASE("decoding with bounds that grow is attention to the chosen pages", "", float, double) {
  using T = TestType;
  const Sizes s{2, 4, 2, 1, 200, 32, 20};
  PageBounds<T> bounds{.page = 8, .batch = 2, .kv_heads = 2, .dim = 32};
  const auto all = gaussian<T>(s, 3, 2);
  const auto tokens = [&](const Tensor4<T>& a, Index first, Index count) {
    Tensor4<T> part(a.dimension(0), a.dimension(1), count, a.dimension(3));
    for (Index b = 0; b < a.dimension(0); ++b) {
      for (Index h = 0; h < a.dimension(1); ++h)
        std::copy_n(row(a, b, h, first), count * a.dimension(3), row(part, b, h, 0));
    }
    return part;
  };
  bounds.append(tokens(all.k, 0, 183));
  for (Index length = 184; length <= 200; ++length) {
    bounds.append(tokens(all.k, length - 1, 1));
    const Inputs<T> x{gaussian<T>({2, 4, 2, 1, 1, 32, 20}, unsigned(length), 2).q, tokens(all.k, 0, length),
                      tokens(all.v, 0, length)};
    const QuestOptions o{.top_k = 5,
                         .sharing = length % 3 == 0   ? Sharing::none
                                    : length % 3 == 1 ? Sharing::max
                                                      : Sharing::sum};
    const BlockTable table = fovea::quest_selection(x.q, bounds, o);
    CHECK(is_exact(attention(x, bounds, o), x, model_of<T>(table, x.sizes())));
    for (Index h = 0; h < table.heads; ++h) CHECK(list_of(table, 0, h).back() == (length - 1) / 8);
  }
}

TEST_CASE("heads that share their pages take the best by the largest and by the sum of their bounds") {
  const Sizes s{1, 4, 2, 1, 96, 8, 4};
  const auto x = on_a_grid<double>(s);
  const Index page = 8, top_k = 4;
  for (const Sharing sharing : {Sharing::max, Sharing::sum}) {
    const BlockTable table = fovea::quest_selection(x.q, bounds_of(x.k, page), {.top_k = top_k, .sharing = sharing});
    REQUIRE(table.heads == 2);
    for (Index g = 0; g < 2; ++g) {
      std::vector<std::pair<double, Index>> order;
      for (Index p = 0; p < 11; ++p) {
        double shared = sharing == Sharing::max ? -infinity<double> : 0;
        for (Index h = 2 * g; h < 2 * g + 2; ++h) {
          double u = 0;
          for (Index d = 0; d < s.dim; ++d) {
            double most = -infinity<double>;
            for (Index j = p * page; j < (p + 1) * page; ++j) most = std::max(most, x.q(0, h, 0, d) * x.k(0, g, j, d));
            u += most;
          }
          shared = sharing == Sharing::max ? std::max(shared, u) : shared + u;
        }
        order.push_back({-shared, p});
      }
      std::sort(order.begin(), order.end());
      std::vector<Index> wanted{11};
      for (std::size_t n = 0; n < 3; ++n) wanted.push_back(order[n].second);
      std::sort(wanted.begin(), wanted.end());
      CHECK(list_of(table, 0, g) == wanted);
    }
  }
}

TEMPLATE_TEST_CASE("when the pages are all read it is dense attention, bit for bit", "", float, double) {
  using T = TestType;
  const auto x = gaussian<T>({2, 4, 2, 1, 500, 64, 64}, 1, 2);
  auto dense = blank<T>(x.sizes());
  fovea::attend(x.q, x.k, x.v, dense.both(), fovea::softmax());
  CHECK(same_bits(attention(x, bounds_of(x.k, 16), {.top_k = 32, .sharing = Sharing::max}), dense));
  CHECK(is_exact(attention(x, bounds_of(x.k, 16), {.top_k = 32}), x));
}

TEST_CASE("pages of one key are the exact top keys beside the last one") {
  const Sizes s{1, 2, 2, 1, 150, 16, 8};
  const auto x = on_a_grid<double>(s);
  const Index top_k = 20;
  const BlockTable table = fovea::quest_selection(x.q, bounds_of(x.k, 1), {.top_k = top_k});
  for (Index h = 0; h < s.heads; ++h) {
    std::vector<std::pair<double, Index>> order;
    for (Index j = 0; j + 1 < s.keys; ++j) {
      double product = 0;
      for (Index d = 0; d < s.dim; ++d) product += x.q(0, h, 0, d) * x.k(0, h, j, d);
      order.push_back({-product, j});
    }
    std::sort(order.begin(), order.end());
    std::vector<Index> wanted{s.keys - 1};
    for (std::size_t n = 0; n + 1 < std::size_t(top_k); ++n) wanted.push_back(order[n].second);
    std::sort(wanted.begin(), wanted.end());
    CHECK(list_of(table, 0, h) == wanted);
  }
}

TEST_CASE("bounds are copied and pages kept: another layer reads the same ones") {
  const auto x = gaussian<float>({1, 4, 4, 1, 300, 32, 32}, 2, 2);
  const auto bounds = bounds_of(x.k, 16);
  const auto copy = bounds;
  const BlockTable table = fovea::quest_selection(x.q, copy, {.top_k = 6});
  auto got = blank<float>(x.sizes());
  fovea::block_sparse(x.q, x.k, x.v, got.both(), table);
  CHECK(same_bits(got, attention(x, bounds, {.top_k = 6})));
}

TEST_CASE("quest is the same on any number of threads") {
  const auto x = gaussian<float>({2, 8, 2, 1, 700, 32, 32}, 2, 2);
  const auto bounds = bounds_of(x.k, 16);
  const auto serial = attention(x, bounds, {.top_k = 12});
  for (const Index threads : {2, 3, 8})
    CHECK(same_bits(attention(x, bounds, {.top_k = 12}, fovea::exec::Pool(threads)), serial));
}

TEST_CASE("a page with a NaN key loses, and the last page is read in any case") {
  auto x = gaussian<float>({1, 1, 1, 1, 64, 8, 8});
  const auto clean = attention(x, bounds_of(x.k, 8), {.top_k = 3});
  const auto pages = list_of(fovea::quest_selection(x.q, bounds_of(x.k, 8), {.top_k = 3}), 0, 0);
  Index unread = 0;
  while (std::binary_search(pages.begin(), pages.end(), unread)) ++unread;
  auto y = x;
  row(y.k, 0, 0, unread * 8 + 3)[2] = not_a_number<float>;
  CHECK(same_bits(attention(y, bounds_of(y.k, 8), {.top_k = 3}), clean));
  row(y.k, 0, 0, 63)[0] = not_a_number<float>;
  CHECK(all_nan(attention(y, bounds_of(y.k, 8), {.top_k = 3}).out.data(), 8));
}

TEST_CASE("without keys or without a query there is nothing to read") {
  const auto none = gaussian<float>({1, 2, 1, 1, 0, 8, 8});
  const auto got = attention(none, bounds_of(none.k, 8), {.top_k = 3});
  CHECK(all_zero(got.out.data(), got.out.size()));
  const auto idle = gaussian<float>({1, 2, 1, 0, 20, 8, 8});
  CHECK(attention(idle, bounds_of(idle.k, 8), {.top_k = 3}).out.size() == 0);
}

TEST_CASE("quest refuses bounds of other keys, the output untouched") {
  const auto x = gaussian<float>({1, 2, 1, 1, 40, 8, 8});
  const auto bounds = bounds_of(x.k, 8);
  const auto refuses = [&](const PageBounds<float>& b, const QuestOptions& o) {
    auto out = x.q;
    out.setConstant(7);
    try {
      fovea::quest(x.q, x.k, x.v, out, b, o);
    } catch (const fovea::ArgumentError& error) {
      return error.function() == "fovea::quest" &&
             std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; });
    }
    return false;
  };
  CHECK_FALSE(refuses(bounds, {.top_k = 2}));
  CHECK(refuses(bounds, {}));
  CHECK(refuses(bounds, {.top_k = -1}));
  CHECK(refuses(bounds, {.top_k = 2, .scale = not_a_number<double>}));
  CHECK(refuses(bounds_of(gaussian<float>({1, 2, 1, 1, 39, 8, 8}).k, 8), {.top_k = 2}));
  CHECK(refuses(bounds_of(gaussian<float>({1, 2, 1, 1, 41, 8, 8}).k, 8), {.top_k = 2}));
  CHECK(refuses(bounds_of(gaussian<float>({1, 2, 2, 1, 40, 8, 8}).k, 8), {.top_k = 2}));
  CHECK(refuses(bounds_of(gaussian<float>({2, 2, 1, 1, 40, 8, 8}).k, 8), {.top_k = 2}));
  CHECK(refuses(bounds_of(gaussian<float>({1, 2, 1, 1, 40, 9, 8}).k, 8), {.top_k = 2}));
  auto cut = bounds;
  cut.rows.pop_back();
  CHECK(refuses(cut, {.top_k = 2}));
  auto two = gaussian<float>({1, 2, 1, 2, 40, 8, 8});
  auto out = two.q;
  CHECK_THROWS_AS(fovea::quest(two.q, two.k, two.v, out, bounds_of(two.k, 8), {.top_k = 2}), fovea::ArgumentError);
}
