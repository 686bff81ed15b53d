// The last keys are a tree of speculative tokens: a query sees what came before the tree, its ancestors and itself.
// Miao et al., "SpecInfer", ASPLOS 2024, arXiv:2305.09781.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

namespace detail {

// Some trees of n nodes each. Row i of a tree has the bits of node i and of its ancestors, in words.
struct Ancestors {
  Index trees = 0, nodes = 0, words = 0;
  std::vector<Index> parents{};       // [trees x nodes]
  std::vector<std::uint64_t> bits{};  // [trees x nodes x words], and a word behind the last

  const std::uint64_t* row(Index tree, Index node) const { return &bits[std::size_t((tree * nodes + node) * words)]; }
};

}  // namespace detail

// The keys from `begin` on are the nodes; there may be fewer keys than nodes, then begin is negative.
class BoundTree {
 public:
  BoundTree(std::shared_ptr<const detail::Ancestors> trees, Index begin) : trees_(std::move(trees)), begin_(begin) {}

  std::uint64_t seen(Row row, Span keys) const {
    const std::uint64_t before = bits_of({0, begin_}, keys);
    const Span nodes = nodes_of(keys);
    if (nodes.empty()) return before;
    return before | nodes_seen(row.batch, row.query, nodes) << (nodes.first + begin_ - keys.first);
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    const Span nodes = nodes_of(region.keys);
    bool some = region.keys.first < begin_, all = region.keys.last <= begin_ + nodes.last;
    if (nodes.empty()) return some && all ? Cover::full : some ? Cover::part : Cover::none;
    // Nodes behind the last query are seen by none, and its own by none before it.
    all = all && nodes.last <= region.queries.first + 1;
    const Index last = std::min(nodes.last, region.queries.last);
    for (Index i = region.queries.first; i < region.queries.last && (all || !some); ++i) {
      for (Index first = nodes.first; first < last && (all || !some); first += word) {
        const Span part{first, std::min(first + word, last)};
        const std::uint64_t bits = nodes_seen(region.batch, i, part);
        some = some || bits != 0;
        all = all && bits == low_bits(part.size());
      }
    }
    return !some ? Cover::none : all ? Cover::full : Cover::part;
  }

 private:
  Span nodes_of(Span keys) const { return intersect({0, trees_->nodes}, {keys.first - begin_, keys.last - begin_}); }

  // The bits of at most a word of nodes.
  std::uint64_t nodes_seen(Index batch, Index query, Span nodes) const {
    const std::uint64_t* const at = trees_->row(trees_->trees == 1 ? 0 : batch, query) + nodes.first / word;
    const Index shift = nodes.first % word;
    const std::uint64_t bits = shift == 0 ? at[0] : at[0] >> shift | at[1] << (word - shift);
    return bits & low_bits(nodes.size());
  }

  std::shared_ptr<const detail::Ancestors> trees_;
  Index begin_;
};

// Trees of speculative tokens; made once, kept and copied.
class Tree {
 public:
  // parents[t * nodes + i] < i is the parent of node i of tree t; -1: a child of the last token before the tree.
  Tree(Index trees, Index nodes, std::vector<Index> parents) {
    constexpr auto where = "fovea::mask::tree";
    check(trees >= 0 && nodes >= 0 && Index(parents.size()) == trees * nodes, where,
          "there must be a parent for each node, wanted ", trees * nodes, ", got ", parents.size());
    const Index words = (nodes + word - 1) / word;
    detail::Ancestors made{trees, nodes, words, std::move(parents), {}};
    made.bits.assign(std::size_t(trees * nodes * words + 1), 0);
    for (Index n = 0; n < trees * nodes; ++n) {
      const Index node = n % nodes, parent = made.parents[std::size_t(n)];
      check(parent >= -1 && parent < node, where, "the parent of node ", node, " must be a node before it, or -1, got ",
            parent);
      std::uint64_t* const row = &made.bits[std::size_t(n * words)];
      if (parent >= 0) std::copy_n(made.row(n / nodes, parent), words, row);
      row[node / word] |= std::uint64_t{1} << node % word;
    }
    trees_ = std::make_shared<const detail::Ancestors>(std::move(made));
  }

  Index trees() const { return trees_->trees; }
  Index nodes() const { return trees_->nodes; }  // of each

  // How many ancestors each node has, tree by tree: node i stands at position M - N + depths()[i].
  std::vector<Index> depths() const {
    std::vector<Index> depths(trees_->parents.size(), 0);
    for (Index n = 0; n < Index(depths.size()); ++n) {
      const Index node = n % nodes(), parent = trees_->parents[std::size_t(n)];
      if (parent >= 0) depths[std::size_t(n)] = depths[std::size_t(n - node + parent)] + 1;
    }
    return depths;
  }

  // The ancestors of a node and the node itself, from the top: the tokens that stay when it is accepted.
  std::vector<Index> path(Index node, Index tree = 0) const {
    constexpr auto where = "fovea::mask::Tree::path";
    check(tree >= 0 && tree < trees(), where, "the tree must be one of ", trees(), ", got ", tree);
    check(node >= 0 && node < nodes(), where, "the node must be one of ", nodes(), ", got ", node);
    std::vector<Index> path;
    for (Index i = node; i >= 0; i = trees_->parents[std::size_t(tree * nodes() + i)]) path.push_back(i);
    std::reverse(path.begin(), path.end());
    return path;
  }

  BoundTree bind(const char* where, const Shape& shape) const {
    check(nodes() == shape.queries, where, "a tree must have a node for each query, wanted ", shape.queries, ", got ",
          nodes());
    check(trees() == 1 || trees() == shape.batch, where, "there must be one tree, or one for each sequence, wanted ",
          shape.batch, ", got ", trees());
    return {trees_, shape.keys - shape.queries};
  }

 private:
  std::shared_ptr<const detail::Ancestors> trees_;
};

// The N queries of a call, which are the last N of its keys, are the nodes of a tree. Query i sees every key before
// them, its ancestors and itself. parents holds the parent of each node, which stands before it, or -1 for children of
// the last key before the tree: [N], one tree for all sequences, or a matrix [B x N] with one for each. Copied.
template <class Parents>
Tree tree(const Parents& parents) {
  if constexpr (requires { parents.rows(); }) {
    const bool vector = int(Parents::ColsAtCompileTime) == 1;
    const Index trees = vector ? 1 : Index(parents.rows()), nodes = vector ? Index(parents.rows()) : parents.cols();
    std::vector<Index> copy;
    copy.reserve(std::size_t(trees * nodes));
    for (Index t = 0; t < Index(parents.rows()); ++t) {
      for (Index i = 0; i < Index(parents.cols()); ++i) copy.push_back(Index(parents(t, i)));
    }
    return {trees, nodes, std::move(copy)};
  } else {
    return {1, Index(parents.size()), std::vector<Index>(parents.begin(), parents.end())};
  }
}

}  // namespace fovea::inline FOVEA_ISA::mask
