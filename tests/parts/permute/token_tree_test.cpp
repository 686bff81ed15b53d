// Trees over tokens: made from levels, laid out by families, refused when they are none.
#include <fovea/parts/permute/token_tree.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::permute::TokenFamilies;
using fovea::permute::TokenTree;
using List = std::vector<Index>;

namespace {

// What the families must be for any tree, by the definition. "" when they are.
std::string difference(const TokenTree& tree, const TokenFamilies& f) {
  const auto parent = [&](Index x) { return tree.parent[std::size_t(x)]; };
  List seen(std::size_t(tree.tokens), 0);
  for (const Index i : f.order) ++seen[std::size_t(i)];
  if (seen != List(std::size_t(tree.tokens), 1)) return "order is no permutation";
  if (f.leaves.front() != 0 || f.leaves.back() != tree.tokens) return "leaves do not cover the tokens";
  List leaf_nodes(f.leaves.size() - 1, 0);
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    const auto& node = f.nodes[n];
    if (n == 0 ? parent(node.id) != -1 : f.nodes[std::size_t(node.parent)].id != parent(node.id)) return "parent";
    if (n > 0 && node.parent >= Index(n)) return "not breadth first";
    Index below = 0;
    for (Index i = 0; i < tree.tokens; ++i) {
      Index x = i;
      while (x != node.id && x != -1) x = parent(x);
      below += x == node.id ? 1 : 0;
    }
    if (below != node.size) return "size";
    if (node.leaf < 0) continue;
    ++leaf_nodes[std::size_t(node.leaf)];
    for (Index n2 = f.leaves[std::size_t(node.leaf)]; n2 < f.leaves[std::size_t(node.leaf) + 1]; ++n2) {
      const Index token = f.order[std::size_t(n2)];
      if (token != node.id && parent(token) != node.id) return "a token of another leaf";
    }
  }
  if (leaf_nodes != List(f.leaves.size() - 1, 1)) return "leaves and nodes";
  std::size_t n = 1;
  for (std::size_t family = 0; family + 1 < f.begin.size(); ++family) {
    for (const Index first = f.nodes[n].parent; Index(n) <= f.begin[family + 1]; ++n) {
      if (f.nodes[n].parent != first) return "a family of two parents";
    }
  }
  return n == f.nodes.size() ? "" : "nodes without a family";
}

std::string refused(const TokenTree& tree, Index tokens) {
  return support::refusal([&] { TokenFamilies("f", tree, tokens); });
}

}  // namespace

TEST_CASE("trees from levels and from windows") {
  CHECK(TokenTree::from_levels(3, {}).parent == List{3, 3, 3, -1});
  CHECK(TokenTree::from_levels(4, {{0, 0, 1, 1}}).parent == List{4, 4, 5, 5, 6, 6, -1});
  CHECK(TokenTree::from_windows(5, {2, 2}).parent == List{5, 5, 6, 6, 7, 8, 8, 9, 10, 10, -1});
  CHECK(TokenTree::from_levels(0, {}).parent == List{});
  const auto where = "fovea::permute::TokenTree::from_levels: ";
  CHECK(support::refusal([] { TokenTree::from_levels(3, {{0, 0}}); }).rfind(where, 0) == 0);
  CHECK(support::refusal([] { TokenTree::from_levels(2, {{0, -1}}); }).rfind(where, 0) == 0);
  CHECK(support::refusal([] { TokenTree::from_levels(2, {{0, 2}}); }).rfind(where, 0) == 0);
  CHECK(support::refusal([] { TokenTree::from_windows(2, {0}); }).rfind("fovea::permute", 0) == 0);
}

TEST_CASE("groups of tokens are leaves, and families lie side by side") {
  const auto tree = TokenTree::from_levels(6, {{0, 0, 1, 1, 2, 2}, {0, 0, 1}});
  const TokenFamilies f("f", tree, 6);
  CHECK(f.leaves == List{0, 2, 4, 6});
  CHECK(f.in_place());
  CHECK(f.nodes.size() == 6);
  CHECK(f.begin == List{0, 2, 4, 5});
  CHECK(difference(tree, f) == "");
  const TokenFamilies one("f", TokenTree::from_levels(3, {}), 3);
  CHECK(one.nodes.size() == 1);
  CHECK(one.nodes[0].leaf == 0);
  const TokenFamilies root("f", {1, {-1}}, 1);
  CHECK(root.nodes.size() == 1);
  CHECK(TokenFamilies("f", {0, {}}, 0).nodes.empty());
}

TEST_CASE("any tree is laid out") {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    const Index tokens = 1 + Index(random() % 20), groups = 1 + Index(random() % 8), count = tokens + groups;
    // The last node is the root, groups lie in later ones, and the first token sees to it that none is empty.
    TokenTree tree{tokens, List(std::size_t(count), -1)};
    for (Index x = 0; x + 1 < count; ++x) {
      const Index first = std::max(tokens, x + 1);
      tree.parent[std::size_t(x)] = x >= tokens ? x + 1 : first + Index(random()) % (count - first);
    }
    tree.parent[0] = tokens;
    if (round % 2) {
      for (Index x = tokens; x + 1 < count; ++x) {
        if (tree.parent[std::size_t(random() % std::size_t(tokens))] == x + 1) tree.parent[std::size_t(x)] = count - 1;
      }
    }
    const auto text = refused(tree, tokens);
    if (text != "accepted") {
      CHECK(text.find("must hold something") != std::string::npos);
    } else {
      CHECK(difference(tree, TokenFamilies("f", tree, tokens)) == "");
    }
  }
}

TEST_CASE("what is no tree is refused") {
  CHECK(refused({2, {2, 2, -1}}, 2) == "accepted");
  CHECK(refused({2, {2, 2, -1}}, 3).find("a leaf for each token, wanted 3, got 2") != std::string::npos);
  CHECK(refused({2, {2}}, 2).find("a parent for each token") != std::string::npos);
  CHECK(refused({2, {2, 2, 2}}, 2).find("a root") != std::string::npos);
  CHECK(refused({2, {2, -1, -1}}, 2).find("one root, got nodes 1 and 2") != std::string::npos);
  CHECK(refused({2, {1, 2, -1}}, 2).find("a parent must be a group") != std::string::npos);
  CHECK(refused({2, {2, 3, -1}}, 2).find("a parent must be a group") != std::string::npos);
  CHECK(refused({2, {2, -2, -1}}, 2).find("a parent must be a group") != std::string::npos);
  CHECK(refused({2, {2, 2, -1, 2}}, 2).find("must hold something, got none for node 3") != std::string::npos);
  CHECK(refused({2, {2, 2, -1, 4, 3}}, 2).find("below the root, got 2 that do not") != std::string::npos);
}
