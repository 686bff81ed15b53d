// A tree over tokens, such as words in paragraphs in pages, and the order in which siblings lie side by side.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// A plain object: make it once, keep it, copy it. Nodes 0, ..., tokens - 1 are the tokens, in the order of the
// sequence; the nodes behind them are groups, in any order. A group may hold tokens and groups, any of them and any
// number but none.
struct TokenTree {
  Index tokens = 0;
  std::vector<Index> parent{};  // [nodes] the group that a node lies in, -1 for the root

  // levels[0][i] is the group of token i, counted from 0; levels[1][g] the group of the next level that group g lies
  // in; and so on. The root holds the groups of the last level.
  static TokenTree from_levels(Index tokens, const std::vector<std::vector<Index>>& levels) {
    constexpr auto where = "fovea::permute::TokenTree::from_levels";
    check(tokens >= 0, where, "the number of tokens must not be negative, got ", tokens);
    TokenTree tree{tokens, {}};
    if (tokens == 0) return tree;
    Index first = tokens, below = tokens;  // of this level's groups; number of the nodes one level down
    for (const auto& level : levels) {
      check(Index(level.size()) == below, where, "a level must name a group for each node below it, wanted ", below,
            ", got ", level.size());
      Index groups = 0;
      for (const Index g : level) {
        check(g >= 0 && g < below, where, "a group must be one of at most ", below, ", got ", g);
        tree.parent.push_back(first + g);
        groups = std::max(groups, g + 1);
      }
      first += groups;
      below = groups;
    }
    tree.parent.insert(tree.parent.end(), std::size_t(below), first);
    tree.parent.push_back(-1);
    return tree;
  }

  // Windows of sizes[0] tokens, windows of sizes[1] of these, and so on; the last of each may be smaller.
  static TokenTree from_windows(Index tokens, const std::vector<Index>& sizes) {
    constexpr auto where = "fovea::permute::TokenTree::from_windows";
    std::vector<std::vector<Index>> levels;
    Index below = tokens;
    for (const Index size : sizes) {
      check(size > 0, where, "a window must hold at least one node, got ", size);
      levels.emplace_back();
      for (Index n = 0; n < below; ++n) levels.back().push_back(n / size);
      below = (below + size - 1) / size;
    }
    return from_levels(tokens, levels);
  }
};

// A tree laid out for work on whole families. The tokens of a group that holds nothing else are a leaf of it, and so is
// each other token.
struct TokenFamilies {
  struct Node {
    Index id;      // in the tree
    Index parent;  // in `nodes`, -1 for the root
    Index leaf;    // which leaf it is, -1 for an inner node
    Index size;    // tokens below it
  };

  std::vector<Index> order{};   // [tokens] the tokens, leaf by leaf
  std::vector<Index> leaves{};  // [leaves + 1] where each begins in `order`
  std::vector<Node> nodes{};    // breadth first: the root, its children, theirs, ...
  std::vector<Index> begin{};   // where the families begin in nodes[1], nodes[2], ..., and their end

  bool in_place() const { return std::is_sorted(order.begin(), order.end()); }

  // The layout of a tree over `tokens` tokens, or an ArgumentError in the name of `where`.
  TokenFamilies(const char* where, const TokenTree& tree, Index tokens) {
    const Index count = Index(tree.parent.size());
    const auto parent = [&](Index x) { return tree.parent[std::size_t(x)]; };
    check(tree.tokens == tokens, where, "the tree must have a leaf for each token, wanted ", tokens, ", got ",
          tree.tokens);
    check(count >= tokens, where, "the tree must name a parent for each token, wanted ", tokens, " at least, got ",
          count);
    leaves = begin = {0};
    if (count == 0) return;
    Index root = -1;
    std::vector<Index> children(std::size_t(count) + 1, 0);
    std::vector<bool> of_tokens(std::size_t(count), true);  // groups without a group in them
    for (Index x = 0; x < count; ++x) {
      if (parent(x) == -1) {
        check(root == -1, where, "the tree must have one root, got nodes ", root, " and ", x);
        root = x;
        continue;
      }
      check(parent(x) >= tokens && parent(x) < count, where, "a parent must be a group, wanted ", tokens, " to ",
            count - 1, ", got ", parent(x), " for node ", x);
      ++children[std::size_t(parent(x))];
      if (x >= tokens) of_tokens[std::size_t(parent(x))] = false;
    }
    check(root != -1, where, "the tree must have a root, a node with parent -1");
    for (Index x = tokens; x < count; ++x)
      check(children[std::size_t(x)] > 0, where, "a group must hold something, got none for node ", x);

    const auto leaf_of = [&](Index i) { return i != root && of_tokens[std::size_t(parent(i))] ? parent(i) : i; };
    std::vector<Index> leaf(std::size_t(count), -1);
    for (Index i = 0; i < tokens; ++i) {
      Index& mine = leaf[std::size_t(leaf_of(i))];
      if (mine < 0) {
        mine = Index(leaves.size()) - 1;
        leaves.push_back(0);
      }
      ++leaves[std::size_t(mine) + 1];
    }
    std::partial_sum(leaves.begin(), leaves.end(), leaves.begin());
    order.resize(std::size_t(tokens));
    auto next = leaves;
    for (Index i = 0; i < tokens; ++i) order[std::size_t(next[std::size_t(leaf[std::size_t(leaf_of(i))])]++)] = i;

    // Children of the inner nodes, node by node.
    const auto counts = [&](Index x) { return x != root && (x >= tokens || leaf[std::size_t(x)] >= 0); };
    std::vector<Index> first(std::size_t(count) + 1, 0);
    for (Index x = 0; x < count; ++x) {
      if (counts(x)) ++first[std::size_t(parent(x)) + 1];
    }
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<Index> child(std::size_t(first.back()));
    next = first;
    for (Index x = 0; x < count; ++x) {
      if (counts(x)) child[std::size_t(next[std::size_t(parent(x))]++)] = x;
    }

    nodes.push_back({root, -1, leaf[std::size_t(root)], 0});
    for (Index n = 0; n < Index(nodes.size()); ++n) {
      const Index id = nodes[std::size_t(n)].id;
      if (nodes[std::size_t(n)].leaf >= 0) continue;
      for (Index c = first[std::size_t(id)]; c < first[std::size_t(id) + 1]; ++c) {
        const Index x = child[std::size_t(c)];
        nodes.push_back({x, n, leaf[std::size_t(x)], 0});
      }
      begin.push_back(Index(nodes.size()) - 1);
    }
    check(nodes.size() == child.size() + 1, where, "every node must lie below the root, got ",
          child.size() + 1 - nodes.size(), " that do not");
    for (std::size_t n = nodes.size(); n-- > 0;) {
      Node& node = nodes[n];
      if (node.leaf >= 0) node.size = leaves[std::size_t(node.leaf) + 1] - leaves[std::size_t(node.leaf)];
      if (n > 0) nodes[std::size_t(node.parent)].size += node.size;
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::permute
