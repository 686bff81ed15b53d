// Attention over a tree of tokens: the tokens of a group attend to each other one by one, and to what lies outside the
// group as the other members of the families above do, by means over whole groups.
//
// Of the row-stochastic weights that are equal on every pair of sibling groups, those closest to softmax are found from
// the leaves up and given out from the root down. With mean queries and keys, s_BC = scale q_B . k_C of siblings,
//
//   F(leaf) = -mean of its tokens' log-sums       ln D_B = ln( exp(-F(B)) + sum_C |C| exp(s_BC) )
//   F(A)    = -sum_B |B| / |A| ln D_B
//   m(root) = 1, u(root) = 0                      m(B) = m(A) exp(-F(B)) / D_B
//   u(B)    = u(A) + m(A) / D_B sum_C exp(s_BC) (sum of the values of C)
//   o_i     = u(leaf of i) + m(leaf of i) (attention of i within its leaf)
//
// B and C run over the children of A, C not B. The two sums are attention with mean values, a bias ln |C| and the
// diagonal hidden; so both levels run on attend().
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/band.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/permute/token_tree.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// What joins the scores of siblings.
struct TreeScores {
  std::optional<double> scale = {};                       // 1 / sqrt(D) when empty
  bool gaussian = false;                                  // scores are -scale / 2 times squared distances
  std::function<double(Index from, Index to)> bias = {};  // added for siblings of the tree, a token and itself too
};

namespace detail {

// A number for each key, and the bias of two nodes of one family.
template <class U>
struct FamilyScores {
  View<const U> key_bias;  // [B or 1, H or 1, 1, M], or null
  const std::function<double(Index, Index)>* bias;
  const permute::TokenTree* tree;
  const Index* ids;  // [M] in the tree

  template <class T>
  auto bind(const char*, const Shape&) const {
    static_assert(std::is_same_v<T, U>);
    return [self = *this](T* scores, Row row, Span keys) {
      if (self.key_bias.data != nullptr) {
        const Index b = self.key_bias.batch == 1 ? 0 : row.batch, h = self.key_bias.heads == 1 ? 0 : row.head;
        simd::add(scores, self.key_bias.row(b, h, 0) + keys.first, keys.size());
      }
      if (!*self.bias) return;
      const Index from = self.ids[row.query], family = self.tree->parent[std::size_t(from)];
      for (Index j = keys.first; j < keys.last; ++j) {
        const Index to = self.ids[j];
        if (self.tree->parent[std::size_t(to)] == family) scores[j - keys.first] += T((*self.bias)(from, to));
      }
    };
  }
};

}  // namespace detail

template <class T>
class TreeAttention {
 public:
  // Self-attention: as many queries as keys, and as tokens in the tree.
  TreeAttention(const Problem<T>& problem, const permute::TokenTree& tree, const TreeScores& scores)
      : problem_(problem),
        tree_(tree),
        scores_(scores),
        families_(problem.where, tree, problem.q.length),
        scale_(scores.scale.value_or(1 / std::sqrt(double(problem.q.dim)))) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = problem_.q;
    if (q.batch == 0 || q.heads == 0 || q.length == 0) return;
    if (families_.nodes.size() == 1 && !modified()) return attend_leaves(problem_, executor);

    Leaves leaves(problem_, families_.in_place());
    if (!families_.in_place()) gather(leaves, executor);
    attend_leaves(leaves.problem, executor);
    Groups groups(problem_, Index(families_.nodes.size()) - 1);
    if (groups.count > 0) {
      pool(leaves.problem, groups, executor);
      attend_groups(groups, executor);
      sweep(leaves.problem, groups, executor);
    }
    finish(leaves.problem, groups, executor);
  }

 private:
  using Node = permute::TokenFamilies::Node;

  // Tokens leaf by leaf: the arrays of the call where they lie so, else copies.
  struct Leaves {
    std::vector<T> q, k, v, out, log_sum;
    Problem<T> problem;

    Leaves(const Problem<T>& of, bool in_place) : problem(of) {
      log_sum.resize(std::size_t(of.q.batch * of.q.heads * of.q.length));
      problem.log_sum = view(log_sum.data(), {of.q.batch, of.q.heads, of.q.length, 1});
      if (in_place) return;
      const auto copy = [](std::vector<T>& to, const auto& x) {
        to.resize(std::size_t(x.batch * x.heads * x.length * x.dim));
        return view(to.data(), x.extents());
      };
      problem.q = copy(q, of.q);
      problem.k = copy(k, of.k);
      problem.v = copy(v, of.v);
      problem.out = copy(out, of.out);
    }
  };

  // The nodes below the root, in their order: means, and what they see of their siblings.
  struct Groups {
    Index count;
    std::vector<T> q, k, v, out, log_sum;  // [B,H,count,D], [B,G,count,D], [B,G,count,E], [B,H,count,E], [B,H,count]
    std::vector<double> log_mass;          // [B,H,count] ln m
    Problem<T> problem;

    Groups(const Problem<T>& of, Index nodes) : count(nodes), problem(of) {
      const auto make = [&](std::vector<T>& to, const auto& x, Index dim) {
        to.resize(std::size_t(x.batch * x.heads * count * dim));
        return view(to.data(), {x.batch, x.heads, count, dim});
      };
      problem.q = make(q, of.q, of.q.dim);
      problem.k = make(k, of.k, of.k.dim);
      problem.v = make(v, of.v, of.v.dim);
      problem.out = make(out, of.q, of.v.dim);
      problem.log_sum = make(log_sum, of.q, 1);
      log_mass.resize(log_sum.size());
    }
  };

  bool modified() const { return scores_.gaussian || scores_.bias; }
  Index leaf_count() const { return Index(families_.leaves.size()) - 1; }
  Span leaf(Index n) const { return {families_.leaves[std::size_t(n)], families_.leaves[std::size_t(n) + 1]}; }
  const Node& node(Index n) const { return families_.nodes[std::size_t(n)]; }

  // Calls f(batch, head, first, last) for pieces [first, last) of `count` things of each head.
  template <class Exec, class F>
  static void each_piece(const Exec& executor, Index batch, Index heads, Index count, double flops, F&& f) {
    const Index pieces = std::min<Index>(count, 16);
    distribute<T>(executor, batch * heads * pieces, flops / double(pieces), 0, [&](Index item, T*) {
      const Index piece = item % pieces, head = item / pieces % heads;
      f(item / pieces / heads, head, count * piece / pieces, count * (piece + 1) / pieces);
    });
  }

  template <class Exec>
  void gather(Leaves& leaves, const Exec& executor) const {
    const auto take = [&](const View<const T>& from, T* to) {
      each_piece(executor, from.batch, from.heads, from.length, double(from.length * from.dim),
                 [&](Index b, Index h, Index first, Index last) {
                   T* const rows = to + (b * from.heads + h) * from.length * from.dim;
                   for (Index i = first; i < last; ++i)
                     simd::copy(rows + i * from.dim, from.row(b, h, families_.order[std::size_t(i)]), from.dim);
                 });
    };
    take(problem_.q, leaves.q.data());
    take(problem_.k, leaves.k.data());
    take(problem_.v, leaves.v.data());
  }

  template <class Exec>
  void attend_leaves(const Problem<T>& problem, const Exec& executor) const {
    const auto recipe = softmax(scale_).mask(mask::document(families_.leaves));
    if (!modified()) {
      const Index alike = leaves_alike();
      if (alike < leaf_count() - 1 || leaf_count() == 1) return attend(problem, recipe, executor);
      for (Index b = 0; b < problem.q.batch; ++b) {
        attend(as_batch(problem, b, 0, alike), softmax(scale_), executor);
        if (alike < leaf_count()) attend(as_batch(problem, b, alike, 1), softmax(scale_), executor);
      }
      return;
    }
    std::vector<T> squares;
    detail::FamilyScores<T> scores{{}, &scores_.bias, &tree_, families_.order.data()};
    if (scores_.gaussian) {
      squares.resize(std::size_t(problem.q.batch * problem.q.heads * problem.q.length));
      const auto table = view(squares.data(), {problem.q.batch, problem.q.heads, 1, problem.q.length});
      each_head(problem, [&](Index b, Index h, Index g) {
        for (Index j = 0; j < problem.k.length; ++j) table.row(b, h, 0)[j] = T(square_bias(problem.k.row(b, g, j)));
      });
      scores.key_bias = table;
    }
    attend(problem, recipe.score(scores), executor);
  }

  // How many leaves, from the first on, have its size.
  Index leaves_alike() const {
    Index n = 1;
    while (n < leaf_count() && leaf(n).size() == leaf(0).size()) ++n;
    return n;
  }

  // `count` leaves of equal size as a batch of short sequences: quicker than as documents when they are short.
  Problem<T> as_batch(const Problem<T>& problem, Index batch, Index first, Index count) const {
    Problem<T> part = problem;
    const Span tokens = leaf(first);
    const auto cut = [&](auto& x) {
      x.data = x.row(batch, 0, tokens.first);
      x.batch = count;
      x.length = tokens.size();
      x.batch_stride = tokens.size() * x.length_stride;
    };
    cut(part.q);
    cut(part.k);
    cut(part.v);
    cut(part.out);
    cut(part.log_sum);
    return part;
  }

  template <class F>
  void each_head(const Problem<T>& problem, F&& f) const {
    for (Index b = 0; b < problem.q.batch; ++b) {
      for (Index h = 0; h < problem.q.heads; ++h) f(b, h, h / problem.group);
    }
  }

  double square_bias(const T* k) const {
    double sum = 0;
    for (Index d = 0; d < problem_.k.dim; ++d) sum += double(k[d]) * double(k[d]);
    return -scale_ / 2 * sum;
  }

  // Means over all tokens below each node.
  template <class Exec>
  void pool(const Problem<T>& leaves, Groups& groups, const Exec& executor) const {
    const auto pool_one = [&](const View<const T>& x, T* means) {
      const auto row = [&](Index b, Index h, Index n) {
        return means + ((b * x.heads + h) * groups.count + n - 1) * x.dim;
      };
      std::fill(means, means + x.batch * x.heads * groups.count * x.dim, T(0));
      each_piece(executor, x.batch, x.heads, groups.count, double(x.length * x.dim),
                 [&](Index b, Index h, Index first, Index last) {
                   for (Index n = first + 1; n <= last; ++n) {
                     if (node(n).leaf < 0) continue;
                     const Span tokens = leaf(node(n).leaf);
                     for (Index i = tokens.first; i < tokens.last; ++i) simd::add(row(b, h, n), x.row(b, h, i), x.dim);
                   }
                 });
      distribute<T>(executor, x.batch * x.heads, double(groups.count * x.dim), 0, [&](Index item, T*) {
        const Index b = item / x.heads, h = item % x.heads;
        for (Index n = groups.count; n > 0; --n) {
          if (node(n).parent > 0) simd::add(row(b, h, node(n).parent), row(b, h, n), x.dim);
          simd::scale(row(b, h, n), x.dim, T(1) / T(node(n).size));
        }
      });
    };
    pool_one(leaves.q, groups.q.data());
    pool_one(leaves.k, groups.k.data());
    pool_one(leaves.v, groups.v.data());
  }

  template <class Exec>
  void attend_groups(const Groups& groups, const Exec& executor) const {
    std::vector<Index> ids;
    for (Index n = 1; n <= groups.count; ++n) ids.push_back(node(n).id);
    const Index batch = scores_.gaussian ? problem_.q.batch : 1, heads = scores_.gaussian ? problem_.q.heads : 1;
    std::vector<T> bias(std::size_t(batch * heads * groups.count));
    const auto table = view(bias.data(), {batch, heads, 1, groups.count});
    for (Index b = 0; b < batch; ++b) {
      for (Index h = 0; h < heads; ++h) {
        for (Index n = 0; n < groups.count; ++n) table.row(b, h, 0)[n] = T(std::log(double(node(n + 1).size)));
        if (scores_.gaussian) add_mean_squares(b, h, groups.count, table.row(b, h, 0));
      }
    }
    const auto recipe = softmax(scale_).mask(mask::document(families_.begin) & !mask::band(0));
    attend(groups.problem, recipe.score(detail::FamilyScores<T>{table, &scores_.bias, &tree_, ids.data()}), executor);
  }

  void add_mean_squares(Index b, Index h, Index count, T* bias) const {
    std::vector<double> sums(std::size_t(count) + 1, 0.0);
    for (Index n = count; n > 0; --n) {
      double& sum = sums[std::size_t(n)];
      if (node(n).leaf >= 0) {
        const Span tokens = leaf(node(n).leaf);
        for (Index i = tokens.first; i < tokens.last; ++i)
          sum += square_bias(problem_.k.row(b, h / problem_.group, families_.order[std::size_t(i)]));
      }
      sums[std::size_t(node(n).parent)] += sum;
      bias[n - 1] += T(sum / double(node(n).size));
    }
  }

  // From the leaves up, then from the root down: the log-mass of each node, and u in place of what it sees.
  template <class Exec>
  void sweep(const Problem<T>& leaves, Groups& groups, const Exec& executor) const {
    const Index heads = problem_.q.heads, count = groups.count, dim = problem_.v.dim;
    std::vector<double> work(std::size_t(problem_.q.batch * heads * 2 * (count + 1)));
    distribute<T>(executor, problem_.q.batch * heads, double(count * dim + problem_.q.length), 0, [&](Index item, T*) {
      const T* const log_sums = leaves.log_sum.row(item / heads, item % heads, 0);
      const T* const seen = groups.log_sum.data() + item * count - 1;  // of node n at n
      double* const log_mass = groups.log_mass.data() + item * count - 1;
      double* const energy = work.data() + item * 2 * (count + 1);
      double* const log_total = energy + count + 1;
      std::fill(energy, energy + count + 1, 0.0);
      for (Index n = count; n >= 0; --n) {
        if (node(n).leaf >= 0) {
          const Span tokens = leaf(node(n).leaf);
          for (Index i = tokens.first; i < tokens.last; ++i) energy[n] -= double(log_sums[i]);
        }
        energy[n] /= double(node(n).size);
        if (n == 0) break;
        const double own = -energy[n], others = double(seen[n]);
        const double more = std::max(own, others), less = std::min(own, others);
        log_total[n] = more + std::log1p(std::exp(less - more));
        energy[node(n).parent] -= double(node(n).size) * log_total[n];
      }
      T* const out = groups.out.data() + (item * count - 1) * dim;
      for (Index n = 1; n <= count; ++n) {
        const Index parent = node(n).parent;
        const double above = parent == 0 ? 0.0 : log_mass[parent];
        log_mass[n] = above - energy[n] - log_total[n];
        simd::scale(out + n * dim, dim, T(std::exp(above + double(seen[n]) - log_total[n])));
        if (parent > 0) simd::add(out + n * dim, out + parent * dim, dim);
      }
    });
  }

  // Writes the rows of the tokens, each where it belongs.
  template <class Exec>
  void finish(const Problem<T>& leaves, const Groups& groups, const Exec& executor) const {
    const auto& q = problem_.q;
    const Index dim = problem_.v.dim, count = groups.count;
    each_piece(executor, q.batch, q.heads, std::max<Index>(count, 1), double(2 * q.length * dim),
               [&](Index b, Index h, Index first, Index last) {
                 for (Index n = first + (count > 0 ? 1 : 0); n < last + (count > 0 ? 1 : 0); ++n) {
                   if (node(n).leaf < 0) continue;
                   const Index at = (b * q.heads + h) * count + n - 1;
                   const T* const seen = count > 0 ? groups.out.data() + at * dim : nullptr;
                   const double log_mass = count > 0 ? groups.log_mass[std::size_t(at)] : 0.0;
                   const T mass = T(std::exp(log_mass));
                   const Span tokens = leaf(node(n).leaf);
                   for (Index i = tokens.first; i < tokens.last; ++i) {
                     const Index token = families_.order[std::size_t(i)];
                     T* const out = problem_.out.row(b, h, token);
                     simd::copy_scaled(out, leaves.out.row(b, h, i), dim, mass);
                     if (seen != nullptr) simd::add(out, seen, dim);
                     if (problem_.log_sum.data != nullptr)
                       *problem_.log_sum.row(b, h, token) = T(double(*leaves.log_sum.row(b, h, i)) - log_mass);
                   }
                 }
               });
  }

  const Problem<T>& problem_;
  const permute::TokenTree& tree_;
  const TreeScores& scores_;
  const permute::TokenFamilies families_;
  const double scale_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
