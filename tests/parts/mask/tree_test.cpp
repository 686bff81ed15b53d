#include <fovea/parts/mask/tree.hpp>

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <random>
#include <vector>

#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
using fovea::softmax;
namespace mask = fovea::mask;
using Parents = std::vector<Index>;

namespace {

// A parent drawn for each node: the one before it in half of the cases, else any, or none.
Parents random_parents(unsigned seed, Index nodes) {
  std::mt19937 random(seed);
  Parents parents;
  for (Index i = 0; i < nodes; ++i)
    parents.push_back(random() % 2 == 0 ? i - 1 : Index(random() % std::uint32_t(i + 1)) - 1);
  return parents;
}

bool is_ancestor(const Parents& parents, Index node, Index of) {
  while (of >= 0 && of != node) of = parents[std::size_t(of)];
  return of == node;
}

// The definition. Keys stand M - N behind the nodes of the same number.
auto rule(const Parents& parents, const Shape& shape) {
  return [=](Site s) {
    const Index node = s.key - (shape.keys - shape.queries);
    return node < 0 || is_ancestor(parents, node, s.query);
  };
}

}  // namespace

TEST_CASE("a query sees the keys before the tree, its ancestors and itself", "[parts][mask][tree]") {
  for (const Index nodes : {1, 2, 5, 9}) {
    for (unsigned seed = 0; seed < 4; ++seed) {
      const Parents parents = random_parents(seed, nodes);
      for (const Index keys : {Index{0}, nodes - 1, nodes, nodes + 1, nodes + 6}) {
        const Shape shape{1, 2, 1, nodes, keys};
        CAPTURE(nodes, seed, keys);
        CHECK(support::mask_difference(mask::tree(parents), shape, rule(parents, shape), true) == "");
      }
    }
  }
}

TEST_CASE("trees of more nodes than a word has bits", "[parts][mask][tree]") {
  for (const Index nodes : {64, 65, 150}) {
    const Parents parents = random_parents(7, nodes);
    const Shape shape{1, 1, 1, nodes, nodes + 70};
    CHECK(support::long_mask_difference(mask::tree(parents), shape, rule(parents, shape)) == "");
  }
  // Node 149 hangs on node 0 alone: the keys in between are none of its.
  Parents star(150, 0);
  star[0] = -1;
  const auto bound = mask::tree(star).bind("test", {1, 1, 1, 150, 400});
  CHECK(bound.cover({0, {0, 1}, {100, 150}, {0, 251}}) == mask::Cover::full);
  CHECK(bound.cover({0, {0, 1}, {100, 150}, {251, 350}}) == mask::Cover::none);
  CHECK(bound.cover({0, {0, 1}, {100, 150}, {251, 351}}) == mask::Cover::part);
  CHECK(bound.cover({0, {0, 1}, {149, 150}, {399, 400}}) == mask::Cover::full);
}

TEST_CASE("every sequence may have a tree of its own", "[parts][mask][tree]") {
  Eigen::MatrixXi parents(2, 5);
  parents << -1, 0, 1, 0, 3, -1, -1, 0, 1, 1;
  const Shape shape{2, 1, 1, 5, 9};
  const auto sees = [&](Site s) {
    Parents own;
    for (Index i = 0; i < 5; ++i) own.push_back(parents(s.batch, i));
    return rule(own, shape)(s);
  };
  CHECK(support::mask_difference(mask::tree(parents), shape, sees, true) == "");
}

TEST_CASE("depths and paths of a tree", "[parts][mask][tree]") {
  const Parents parents{-1, 0, 0, 1, 3, -1, 5, 2};
  const auto tree = mask::tree(parents);
  CHECK(tree.depths() == std::vector<Index>{0, 1, 1, 2, 3, 0, 1, 2});
  CHECK(tree.path(4) == std::vector<Index>{0, 1, 3, 4});
  CHECK(tree.path(5) == std::vector<Index>{5});
  Eigen::Matrix<Index, 2, 3, Eigen::RowMajor> two;
  two << -1, 0, 1, -1, -1, 0;
  CHECK(mask::tree(two).depths() == std::vector<Index>{0, 1, 2, 0, 0, 1});
  CHECK(mask::tree(two).path(2, 1) == std::vector<Index>{0, 2});
  CHECK(support::refusal([&] { tree.path(8); }) == "fovea::mask::Tree::path: the node must be one of 8, got 8");
  CHECK(support::refusal([&] { tree.path(0, 1); }) == "fovea::mask::Tree::path: the tree must be one of 1, got 1");
}

TEMPLATE_TEST_CASE("a tree that is a chain is causal, bit for bit", "[parts][mask][tree]", float, double) {
  for (const Index nodes : {1, 2, 8, 75}) {
    Parents chain;
    for (Index i = 0; i < nodes; ++i) chain.push_back(i - 1);
    const auto x = gaussian<TestType>({2, 4, 2, nodes, 600, 16, 8});
    CHECK(same_bits(attention(x, softmax().mask(mask::tree(chain))), attention(x, softmax().mask(mask::causal()))));
  }
}

TEMPLATE_TEST_CASE("attention over a tree equals the reference", "[parts][mask][tree]", float, double) {
  for (const Index nodes : {3, 7, 75}) {
    const auto x = gaussian<TestType>({1, 4, 2, nodes, 300, 16, 8});
    const Parents parents = random_parents(5, nodes);
    Model<TestType> model;
    model.visible = rule(parents, Shape{1, 4, 2, nodes, 300});
    CHECK(is_exact(attention(x, softmax().mask(mask::tree(parents))), x, model));
  }
}

TEST_CASE("the path to a leaf is that path decoded alone", "[parts][mask][tree]") {
  const Index nodes = 12, before = 100;
  const auto x = gaussian<double>({1, 2, 1, nodes, before + nodes, 16, 8});
  const Parents parents = random_parents(3, nodes);
  const auto tree = mask::tree(parents);
  const auto all = attention(x, softmax().mask(tree));
  for (Index leaf = 0; leaf < nodes; ++leaf) {
    const auto path = tree.path(leaf);
    const Index own = Index(path.size());
    Inputs<double> alone{Tensor4<double>(1, 2, own, 16), Tensor4<double>(1, 1, before + own, 16),
                         Tensor4<double>(1, 1, before + own, 8)};
    std::copy_n(row(x.k, 0, 0, 0), before * 16, row(alone.k, 0, 0, 0));
    std::copy_n(row(x.v, 0, 0, 0), before * 8, row(alone.v, 0, 0, 0));
    for (Index n = 0; n < own; ++n) {
      std::copy_n(row(x.k, 0, 0, before + path[std::size_t(n)]), 16, row(alone.k, 0, 0, before + n));
      std::copy_n(row(x.v, 0, 0, before + path[std::size_t(n)]), 8, row(alone.v, 0, 0, before + n));
      for (Index h = 0; h < 2; ++h) std::copy_n(row(x.q, 0, h, path[std::size_t(n)]), 16, row(alone.q, 0, h, n));
    }
    const auto wanted = attention(alone, softmax().mask(mask::causal()));
    for (Index h = 0; h < 2; ++h) {
      for (Index e = 0; e < 8; ++e)
        CHECK(std::abs(row(all.out, 0, h, leaf)[e] - row(wanted.out, 0, h, own - 1)[e]) < 64 * epsilon<double>);
    }
  }
}

TEST_CASE("a tree joins other masks", "[parts][mask][tree]") {
  const Parents parents = random_parents(2, 6);
  const Shape shape{1, 1, 1, 6, 14};
  const auto sees = [&](Site s) { return rule(parents, shape)(s) && s.query + 8 - s.key < 5; };
  CHECK(support::mask_difference(mask::tree(parents) & mask::window(5), shape, sees, false) == "");
}

TEST_CASE("no nodes and no keys are legal under a tree", "[parts][mask][tree]") {
  const auto none = attention(gaussian<float>({1, 2, 1, 0, 5, 8, 4}), softmax().mask(mask::tree(Parents{})));
  CHECK(none.out.size() == 0);
  const auto blind = attention(gaussian<float>({1, 2, 1, 2, 0, 8, 4}), softmax().mask(mask::tree(Parents{-1, 0})));
  CHECK(all_zero(blind.out.data(), blind.out.size()));
}

TEST_CASE("a tree refuses parents that stand behind, and calls it was not made for", "[parts][mask][tree]") {
  const auto made = [](const Parents& parents) { return support::refusal([&] { mask::tree(parents); }); };
  CHECK(made({-1, 1}) == "fovea::mask::tree: the parent of node 1 must be a node before it, or -1, got 1");
  CHECK(made({0}) == "fovea::mask::tree: the parent of node 0 must be a node before it, or -1, got 0");
  CHECK(made({-1, -2}) == "fovea::mask::tree: the parent of node 1 must be a node before it, or -1, got -2");
  CHECK(support::refusal([] {
          mask::Tree(2, 2, {-1, 0, -1});
        }) == "fovea::mask::tree: there must be a parent for each node, wanted 4, got 3");
  const auto x = gaussian<float>({3, 2, 1, 4, 9, 8, 4});
  auto got = blank<float>(x.sizes());
  const auto said = [&](const mask::Tree& tree) {
    return support::refusal([&] { fovea::attend(x.q, x.k, x.v, got.both(), softmax().mask(tree)); });
  };
  CHECK(said(mask::tree(Parents{-1, 0, 1})) ==
        "fovea::attend: a tree must have a node for each query, wanted 4, got 3");
  CHECK(said(mask::Tree(2, 4, {-1, 0, 1, 2, -1, 0, 0, 0})) ==
        "fovea::attend: there must be one tree, or one for each sequence, wanted 3, got 2");
  CHECK(all_nan(got.out.data(), got.out.size()));
}
