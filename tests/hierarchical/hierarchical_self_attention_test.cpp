// Hierarchical self-attention against its reference, its golden numbers, its exact limits, and what it refuses.
#include <fovea/exec/pool.hpp>
#include <fovea/hierarchical/hierarchical_self_attention.hpp>

#include "hierarchical/hierarchical_self_attention.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
using fovea::TokenTree;
using Options = fovea::HierarchicalSelfAttentionOptions;

namespace {

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const TokenTree& tree, const Options& options = {}, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::hierarchical_self_attention(x.q, x.k, x.v, got.both(), tree, options, executor);
  return got;
}

// The reference over batch and heads, in `Real`; log-sums from the weights a token gives to itself.
template <class Real, class T>
Result<Real> reference(const Inputs<T>& x, const TokenTree& tree, const Options& options = {}) {
  const Sizes s = x.sizes();
  const Real scale = options.scale ? Real(*options.scale) : 1 / std::sqrt(Real(s.dim));
  auto result = blank<Real>(s);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const Matrix<Real> q = head(x.q, b, h).template cast<Real>(), k = head(x.k, b, g).template cast<Real>();
      const auto one = fovea::reference::hierarchical_self_attention<Real>(
          q, k, head(x.v, b, g).template cast<Real>(), scale, tree.parent, options.gaussian, options.bias);
      std::copy_n(one.out.data(), one.out.size(), row(result.out, b, h, 0));
      for (Index i = 0; i < s.queries; ++i) {
        Real own = 0;
        for (Index d = 0; d < s.dim; ++d) {
          own += q(i, d) * k(i, d);
          if (options.gaussian) own -= k(i, d) * k(i, d) / 2;
        }
        own *= scale;
        if (options.bias) own += Real(options.bias(i, i));
        result.log_sum(b, h, i) = own - std::log(one.theta(i, i));
      }
    }
  }
  return result;
}

// Within 8 epsilons, or twice the error of the reference's own loops in the low precision.
template <class T>
bool is_exact(const Result<T>& got, const Inputs<T>& x, const TokenTree& tree, const Options& options = {}) {
  const auto wanted = reference<Exact<T>>(x, tree, options);
  const double distance = distance_in_epsilons(got, wanted);
  const double most = std::max(8.0, 2 * distance_in_epsilons(reference<T>(x, tree, options), wanted));
  if (distance < most) return true;
  UNSCOPED_INFO("distance " << distance << " epsilons, budget " << most);
  return false;
}

// Groups of 1 to 9 tokens, groups of 1 to 4 of these, and so on; shuffled when wanted, some tokens moved up when mixed.
TokenTree random_tree(unsigned seed, Index tokens, bool shuffled, bool mixed) {
  std::mt19937 random(seed);
  std::vector<std::vector<Index>> levels;
  Index below = tokens;
  while (below > 3) {
    std::vector<Index> level(static_cast<std::size_t>(below), 0);
    Index group = 0, room = 1 + Index(random() % (levels.empty() ? 9 : 4));
    for (Index n = 0; n < below; ++n) {
      level[std::size_t(n)] = group;
      if (--room == 0 && n + 1 < below) {
        ++group;
        room = 1 + Index(random() % (levels.empty() ? 9 : 4));
      }
    }
    if (shuffled) std::shuffle(level.begin(), level.end(), random);
    levels.push_back(level);
    below = group + 1;
    if (levels.size() == 4) break;
  }
  auto tree = TokenTree::from_levels(tokens, levels);
  for (Index i = 0; mixed && i < tokens; i += 5) {
    const Index group = tree.parent[std::size_t(i)];
    const bool another = std::count(tree.parent.begin(), tree.parent.end(), group) > 1;
    if (another && tree.parent[std::size_t(group)] >= 0) tree.parent[std::size_t(i)] = tree.parent[std::size_t(group)];
  }
  return tree;
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 70, 70, 17, 15}, {1, 2, 2, 150, 150, 32, 32}, {1, 2, 1, 13, 13, 8, 33}};

}  // namespace

TEMPLATE_TEST_CASE("hierarchical_self_attention is its reference on any tree", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const bool shuffled : {false, true}) {
      for (const bool mixed : {false, true}) {
        INFO(s << " shuffled " << shuffled << " mixed " << mixed);
        CHECK(is_exact(attention(x, random_tree(4, s.keys, shuffled, mixed)), x,
                       random_tree(4, s.keys, shuffled, mixed)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("scores by distance, with a bias for siblings, at any scale", "", float, double) {
  const Sizes s{2, 4, 2, 60, 60, 16, 16};
  const auto x = gaussian<TestType>(s);
  const auto bias = [](Index from, Index to) { return 0.25 * double((3 * from + 5 * to) % 7) - 0.5; };
  for (const bool mixed : {false, true}) {
    const auto tree = random_tree(9, 60, mixed, mixed);
    for (const Options& options : {Options{.scale = 0.1}, Options{.gaussian = true}, Options{.bias = bias},
                                   Options{.scale = 0.5, .gaussian = true, .bias = bias}})
      CHECK(is_exact(attention(x, tree, options), x, tree, options));
  }
}

TEST_CASE("the numbers of two pairs") {
  const auto value = [](int s, int a, int b) { return (((7 * s + 5 * a + 3 * b + 2 * a * b) % 13) - 6) / 4.0; };
  Inputs<double> x{Tensor4<double>(1, 1, 4, 3), Tensor4<double>(1, 1, 4, 3), Tensor4<double>(1, 1, 4, 4)};
  for (int i = 0; i < 4; ++i) {
    for (int d = 0; d < 3; ++d) {
      x.q(0, 0, i, d) = value(1, i, d);
      x.k(0, 0, i, d) = value(2, i, d);
    }
    for (int j = 0; j < 4; ++j) x.v(0, 0, i, j) = i == j;
  }
  const auto tree = TokenTree::from_levels(4, {{0, 0, 1, 1}});
  const auto got = attention(x, tree);
  const double theta[4][4] = {{0.057295, 0.448106, 0.247299, 0.247299},
                              {0.234495, 0.270906, 0.247299, 0.247299},
                              {0.272711, 0.272711, 0.054924, 0.399653},
                              {0.272711, 0.272711, 0.271814, 0.182763}};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) CHECK(std::abs(got.out(0, 0, i, j) - theta[i][j]) < 5.1e-7);
  }
  double energy = 0, divergence = 0;
  const auto flat = expected<double>(x);
  for (int i = 0; i < 4; ++i) {
    energy -= got.log_sum(0, 0, i) / 4;
    divergence += double(flat.log_sum(0, 0, i)) - got.log_sum(0, 0, i);
  }
  CHECK(std::abs(energy + 1.433948833) < 5.1e-10);
  CHECK(std::abs(divergence - 1.194571964) < 2e-9);

  auto y = x;
  y.v = Tensor4<double>(1, 1, 4, 2);
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 2; ++e) y.v(0, 0, i, e) = value(3, i, e);
  }
  const double out[4][2] = {{-0.458037, 0.330542}, {-0.103637, 0.596341}, {0.113210, 0.355098}, {-0.157902, 0.680433}};
  const auto rows = attention(y, tree);
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 2; ++e) CHECK(std::abs(rows.out(0, 0, i, e) - out[i][e]) < 5.1e-7);
  }
}

TEMPLATE_TEST_CASE("a tree of one level is softmax attention, and chains of one child change nothing", "", float,
                   double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    const auto flat = attention(x, TokenTree::from_levels(s.keys, {}));
    CHECK(fovea::test::is_exact(flat, x));
    const std::vector<Index> one(std::size_t(s.keys), 0);
    CHECK(distance_in_epsilons(attention(x, TokenTree::from_levels(s.keys, {one, {0}, {0}})), expected(x)) < 8);
    const auto tree = TokenTree::from_windows(s.keys, {4});
    const auto wanted = reference<Exact<TestType>>(x, tree);
    CHECK(distance_in_epsilons(attention(x, TokenTree::from_windows(s.keys, {1, 4, 1})), wanted) < 8);
  }
}

TEMPLATE_TEST_CASE("groups of one size, and a smaller one at the end", "", float, double) {
  for (const Index tokens : {60, 64, 65, 71}) {
    const Sizes s{2, 4, 2, tokens, tokens, 16, 24};
    const auto x = gaussian<TestType>(s);
    for (const auto& tree : {TokenTree::from_windows(tokens, {8, 3}), TokenTree::from_windows(tokens, {1, 5})})
      CHECK(is_exact(attention(x, tree), x, tree));
  }
}

TEST_CASE("groups of equal tokens attend as softmax does") {
  const Sizes s{1, 2, 1, 48, 48, 16, 16};
  auto x = gaussian<double>(s);
  for (auto* tensor : {&x.q, &x.k}) {
    for (Index h = 0; h < tensor->dimension(1); ++h) {
      for (Index i = 0; i < 48; ++i) std::copy_n(row(*tensor, 0, h, i / 6 * 6), 16, row(*tensor, 0, h, i));
    }
  }
  const auto wanted = expected(x);
  CHECK(distance_in_epsilons(attention(x, TokenTree::from_windows(48, {6})), wanted) < 8);
}

TEST_CASE("weights sum to one: constant values stay constant") {
  auto x = gaussian<double>({1, 2, 1, 90, 90, 8, 3}, 2, 4);
  x.v.setConstant(1);
  const auto got = attention(x, random_tree(1, 90, true, true));
  for (Index n = 0; n < got.out.size(); ++n) CHECK(std::abs(got.out.data()[n] - 1) < 1e-13);
}

TEST_CASE("far scores neither overflow nor vanish") {
  auto x = gaussian<float>({1, 1, 1, 64, 64, 8, 8});
  for (const float size : {3e4f, -3e4f}) {
    for (Index i = 0; i < 64; ++i) x.q(0, 0, i, 0) = size;
    for (Index j = 0; j < 64; ++j) x.k(0, 0, j, 0) = 1;
    const auto got = attention(x, TokenTree::from_windows(64, {4, 4}));
    CHECK(std::all_of(got.out.data(), got.out.data() + got.out.size(), [](float o) { return std::isfinite(o); }));
  }
}

TEST_CASE("NaN in one key or value spoils its head, which sees it in every row, and no other") {
  const auto x = gaussian<float>({2, 2, 2, 40, 40, 8, 8});
  const auto tree = TokenTree::from_windows(40, {4, 3});
  const auto clean = attention(x, tree);
  auto y = x;
  y.k(1, 0, 7, 3) = not_a_number<float>;
  const auto got = attention(y, tree);
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 2; ++h) {
      for (Index i = 0; i < 40; ++i)
        CHECK((b == 1 && h == 0 ? all_nan(row(got.out, b, h, i), 8) : same_row(got, clean, b, h, i)));
    }
  }
}

TEST_CASE("hierarchical_self_attention is the same on any number of threads, and on strided arrays") {
  const Sizes s{2, 4, 2, 200, 200, 16, 16};
  const auto x = gaussian<float>(s);
  for (const bool mixed : {false, true}) {
    const auto tree = random_tree(5, 200, mixed, mixed);
    const auto serial = attention(x, tree);
    for (const Index threads : {2, 3, 8}) CHECK(same_bits(attention(x, tree, {}, fovea::exec::Pool(threads)), serial));
    CHECK(same_bits(serial, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::hierarchical_self_attention(q, k, v, out, tree);
                    })));
  }
}

TEST_CASE("hierarchical_self_attention refuses what is no tree over its tokens, the output untouched") {
  const auto x = gaussian<float>({1, 1, 1, 4, 4, 4, 4});
  const auto call = [](const auto& in, const TokenTree& tree) {
    return refusal_of(in,
                      [&](const auto& y, auto&& out) { fovea::hierarchical_self_attention(y.q, y.k, y.v, out, tree); });
  };
  const std::string where = "fovea::hierarchical_self_attention: ";
  CHECK(call(x, TokenTree::from_levels(4, {})) == "accepted");
  CHECK(call(x, TokenTree::from_levels(5, {})).rfind(where, 0) == 0);
  CHECK(call(x, {4, {4, 4, 4, 4}}).rfind(where, 0) == 0);
  CHECK(call(x, {4, {4, 4, 4, 4, -1, -1}}).rfind(where, 0) == 0);
  CHECK(call(x, {4, {4, 4, 4, 4, -1, 4}}).rfind(where, 0) == 0);
  CHECK(call(gaussian<float>({1, 1, 1, 4, 5, 4, 4}), TokenTree::from_levels(4, {})).rfind(where + "k must", 0) == 0);
  const auto none = gaussian<float>({1, 1, 1, 0, 0, 4, 4});
  CHECK(call(none, {0, {}}) == "accepted");
}
