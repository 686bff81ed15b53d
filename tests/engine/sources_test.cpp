// Keys and values that do not lie in plain arrays of the type of the queries: narrower storage, lengths of their own.
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
namespace mask = fovea::mask;

namespace {

// x stored as S, and the numbers that are then there.
template <class S, class T>
std::pair<Tensor4<S>, Tensor4<T>> stored(const Tensor4<T>& x) {
  Tensor4<S> narrow(x.dimensions());
  Tensor4<T> rounded(x.dimensions());
  for (Index i = 0; i < x.size(); ++i) {
    narrow.data()[i] = S(x.data()[i]);
    rounded.data()[i] = static_cast<T>(narrow.data()[i]);
  }
  return {narrow, rounded};
}

const std::vector<Sizes> shapes = {{2, 2, 2, 1, 300, 64, 64},
                                   {2, 8, 2, 1, 700, 40, 24},
                                   {1, 4, 2, 3, 90, 15, 33},
                                   {2, 4, 2, 40, 150, 64, 32},
                                   {1, 3, 1, 70, 70, 17, 48}};

template <class K, class V, class T>
void compare_stored() {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<T>(s);
    const auto k = stored<K>(x.k);
    const auto v = stored<V>(x.v);
    auto got = blank<T>(s);
    fovea::attend(x.q, fovea::kv::contiguous(k.first, v.first), got.both(), fovea::softmax().mask(mask::causal()));
    // Widening is exact; what is computed from there on may add up in another order.
    const Inputs<T> wide{x.q, k.second, v.second};
    Model<T> model;
    model.visible = [&](fovea::Site at) { return at.key <= at.query + s.keys - s.queries; };
    CHECK(is_exact(got, wide, model));
  }
}

// The first `keys` keys of sequence `batch`, alone.
template <class T>
Inputs<T> sequence(const Inputs<T>& x, Index batch, Index keys) {
  const auto cut = [&](const Tensor4<T>& from, Index length) {
    auto first = Eigen::array<Index, 4>{batch, 0, 0, 0};
    auto extents = from.dimensions();
    extents[0] = 1;
    extents[2] = length;
    return Tensor4<T>(from.slice(first, extents));
  };
  return {cut(x.q, x.q.dimension(2)), cut(x.k, keys), cut(x.v, keys)};
}

template <class T>
bool same_rows(const Result<T>& all, Index batch, const Result<T>& one) {
  const Index size = one.out.size(), sums = one.log_sum.size();
  return std::equal(one.out.data(), one.out.data() + size, all.out.data() + batch * size) &&
         std::equal(one.log_sum.data(), one.log_sum.data() + sums, all.log_sum.data() + batch * sums);
}

}  // namespace

TEST_CASE("narrower keys and values give the result of the numbers they stand for") {
  compare_stored<Eigen::bfloat16, Eigen::bfloat16, float>();
  compare_stored<Eigen::half, Eigen::bfloat16, float>();
  compare_stored<float, Eigen::half, double>();
}

TEST_CASE("every number of sixteen bits is widened to what it is") {
  const auto check_all = [](auto zero) {
    using S = decltype(zero);
    std::vector<S> all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = Eigen::numext::bit_cast<S>(std::uint16_t(i));
    std::vector<float> wide(all.size(), 7.0f);
    fovea::simd::copy_as(wide.data(), all.data(), Index(all.size()));
    Index wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const float expected = static_cast<float>(all[i]);
      const bool same = std::isnan(expected) ? std::isnan(wide[i]) : expected == wide[i];
      wrong += same && std::signbit(expected) == std::signbit(wide[i]) ? 0 : 1;
    }
    CHECK(wrong == 0);
  };
  check_all(Eigen::half());
  check_all(Eigen::bfloat16());
}

TEST_CASE("sequences of different lengths in one call get the bits of calls of their own") {
  const auto recipe = fovea::softmax().mask(mask::causal() & mask::window(600));
  const fovea::exec::Pool pool(3);
  for (const Index queries : {Index{1}, Index{33}}) {
    const Sizes s{4, 4, 2, queries, 1300, 32, 48};
    const auto x = gaussian<float>(s);
    const std::vector<Index> lengths = {1300, 0, 517, 40};
    auto all = blank<float>(s), shared = blank<float>(s);
    fovea::attend(x.q, fovea::kv::contiguous(x.k, x.v, lengths), all.both(), recipe);
    fovea::attend(x.q, fovea::kv::contiguous(x.k, x.v, lengths), shared.both(), recipe, pool);
    for (Index b = 0; b < s.batch; ++b) {
      INFO("queries " << queries << ", sequence " << b);
      const auto one = attention(sequence(x, b, lengths[std::size_t(b)]), recipe);
      CHECK(same_rows(all, b, one));
      CHECK(same_rows(shared, b, one));
    }
  }
}

TEST_CASE("a prompt gets the same bits however it is cut into pieces") {
  const Sizes s{1, 4, 2, 150, 150, 32, 32};
  const auto x = gaussian<float>(s);
  const auto recipe = fovea::softmax().mask(mask::causal()).as_prefill();
  const auto whole = attention(x, recipe);
  for (const Index piece : {Index{1}, Index{2}, Index{7}, Index{64}}) {
    Index wrong = 0;
    for (Index first = 0; first < s.queries; first += piece) {
      const Index last = std::min(first + piece, s.queries);
      Tensor4<float> q(1, s.heads, last - first, s.dim), out(1, s.heads, last - first, s.value_dim);
      for (Index h = 0; h < s.heads; ++h) std::copy_n(row(x.q, 0, h, first), q.dimension(2) * s.dim, row(q, 0, h, 0));
      const std::vector<Index> length = {last};
      fovea::attend(q, fovea::kv::contiguous(x.k, x.v, length), out, recipe);
      for (Index h = 0; h < s.heads; ++h)
        wrong += std::equal(row(out, 0, h, 0), row(out, 0, h, 0) + out.dimension(2) * s.value_dim,
                            row(whole.out, 0, h, first))
                     ? 0
                     : 1;
    }
    INFO("pieces of " << piece);
    CHECK(wrong == 0);
  }
}

TEST_CASE("a spoiled value is met by the rows that see it alone, in any storage") {
  const Sizes s{1, 2, 1, 20, 100, 32, 32};
  const auto x = gaussian<float>(s);
  const auto k = stored<Eigen::half>(x.k);
  auto v = stored<Eigen::bfloat16>(x.v);
  const auto recipe = fovea::softmax().mask(mask::causal());
  auto clean = blank<float>(s), got = blank<float>(s);
  fovea::attend(x.q, fovea::kv::contiguous(k.first, v.first), clean.both(), recipe);
  v.first(0, 0, 90, 3) = Eigen::bfloat16(not_a_number<float>);  // query 10 is the first that sees key 90
  fovea::attend(x.q, fovea::kv::contiguous(k.first, v.first), got.both(), recipe);
  for (Index h = 0; h < s.heads; ++h) {
    CHECK(std::equal(row(got.out, 0, h, 0), row(got.out, 0, h, 10), row(clean.out, 0, h, 0)));
    for (Index i = 10; i < s.queries; ++i) CHECK(std::isnan(got.out(0, h, i, 3)));
  }
}

TEST_CASE("arrays and lengths that do not fit are refused") {
  const auto x = gaussian<float>({2, 2, 2, 1, 20, 8, 8});
  const Tensor4<float> shorter(2, 2, 19, 8);
  const std::vector<Index> one = {3}, long_ones = {3, 21}, negative = {-1, 3};
  CHECK_THROWS_AS(fovea::kv::contiguous(x.k, shorter), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::kv::contiguous(x.k, x.v, one), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::kv::contiguous(x.k, x.v, long_ones), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::kv::contiguous(x.k, x.v, negative), fovea::ArgumentError);
  auto got = blank<float>({2, 2, 2, 1, 20, 8, 8});
  const auto other = gaussian<float>({2, 2, 2, 1, 20, 9, 8});
  CHECK_THROWS_AS(fovea::attend(other.q, fovea::kv::contiguous(x.k, x.v), got.both(), fovea::softmax()),
                  fovea::ArgumentError);
  CHECK(std::isnan(got.out(0, 0, 0, 0)));
}
