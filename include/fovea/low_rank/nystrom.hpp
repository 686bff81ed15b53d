// Nystroemformer: softmax attention through landmarks, the means of segments of the tokens.
// Xiong et al., "Nystroemformer: A Nystroem-Based Algorithm for Approximating Self-Attention", AAAI 2021,
// arXiv:2102.03902.
//
//   O = F (Z (B V)),   F = softmax(scale Q K~^T),  B = softmax(scale Q~ K^T),  Z ~ A^+,  A = softmax(scale Q~ K~^T)
//
// Q~, K~ [m x D] are the means of m segments; Z comes from a fixed number of iterations (solve/pseudo_inverse.hpp),
// which are part of the definition. A residual convolution of the values along the tokens may be added. Self-attention
// only, N = M, not causal.
//
// Approximates dense attention; exactly it when N <= m. Cost O(N m (D + E) + iterations m^3) for each head. The algebra
// of the small matrices is in double: small singular values of A enlarge its errors.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/parts/combine/token_convolution.hpp>
#include <fovea/parts/resample/mean.hpp>
#include <fovea/parts/solve/pseudo_inverse.hpp>

namespace fovea::inline FOVEA_ISA {

// Where the iterations begin: A^T over the largest column sum of A, or of the matrices of all batches and heads, as the
// published code has it (then a result depends on what else is in the batch).
enum class NystromStart { own, shared };

struct NystromOptions {
  Index landmarks = 64;  // m
  Index iterations = 6;  // of the pseudo-inverse
  NystromStart start = NystromStart::own;
  combine::TokenKernel residual{};   // [H, size]
  std::vector<Index> lengths{};      // [B] or empty: from lengths[b] on tokens are padding. It counts as zeros in the
                                     // means of the segments of all N tokens, no query sees it, and its rows of out
                                     // are left alone
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

// Two small matrices for each (batch, head), A and then Z, and what turns B V into Z B V. All in double.
class NystromMiddle {
 public:
  using Matrix = solve::SmallMatrix<double>;

  NystromMiddle(Index count, Index landmarks)
      : count_(count),
        landmarks_(landmarks),
        size_(engine::whole_lines<double>(Matrix::size(landmarks, landmarks))),
        memory_(engine::allocate_scratch<double>(std::max<Index>(count * size_, 1))) {
    std::fill(memory_.get(), memory_.get() + count * size_, 0.0);
  }

  // A = softmax(scale q~ k~^T): attention of the landmarks over each other with the unit matrix as values.
  template <class T, exec::Executor Exec>
  void attend(const View<T>& q, const View<T>& k, Index group, const Recipe<>& recipe, const char* where,
              const Exec& executor) {
    const auto as_double = [](const View<T>& x, double* to) {
      for (Index b = 0; b < x.batch; ++b) {
        for (Index h = 0; h < x.heads; ++h) {
          for (Index i = 0; i < x.length; ++i) to = std::copy_n(x.row(b, h, i), x.dim, to);
        }
      }
    };
    const Index sizes[] = {q.batch * q.heads * landmarks_ * q.dim, k.batch * k.heads * landmarks_ * k.dim};
    const auto copies =
        engine::allocate_scratch<double>(std::max<Index>(sizes[0] + sizes[1] + landmarks_ * landmarks_, 1));
    double* const unit = copies.get() + sizes[0] + sizes[1];
    as_double(q, copies.get());
    as_double(k, copies.get() + sizes[0]);
    std::fill(unit, unit + landmarks_ * landmarks_, 0.0);
    for (Index i = 0; i < landmarks_; ++i) unit[i * landmarks_ + i] = 1;
    const View<double> values{unit, k.batch, k.heads, landmarks_, landmarks_, 0, 0, landmarks_};
    const Index stride = matrix(0).stride();
    const View<double> out{memory_.get(), q.batch, q.heads, landmarks_, landmarks_, q.heads * size_, size_, stride};
    const Problem<double> problem{
        view(copies.get(), q.extents()), view(copies.get() + sizes[0], k.extents()), values, out, {}, group, where};
    engine::attend(problem, recipe, executor);
  }

  // collected [B,H,m,E] <- Z collected, Z by the iterations.
  template <class T, exec::Executor Exec>
  void apply(const View<T>& collected, NystromStart start, Index iterations, const Exec& executor) {
    double shared = 0;
    for (Index n = 0; n < count_ && start == NystromStart::shared; ++n)
      shared = std::max(shared, solve::largest_column_sum(matrix(n)));
    const Index m = landmarks_, wide = engine::whole_lines<double>(Matrix::size(m, collected.dim));
    const double flops = 2.0 * double(m) * double(m) * double(4 * iterations * m + collected.dim);
    engine::distribute<double>(executor, count_, flops, 4 * size_ + 2 * wide, [&](Index n, double* memory) {
      const Matrix a = matrix(n);
      const auto scratch = [&](Index at) { return Matrix::zero(memory + at * size_, m, m); };
      const double sum = start == NystromStart::shared ? shared : solve::largest_column_sum(a);  // rows sum to one
      const Matrix z = scratch(0);
      solve::pseudo_inverse(a, 1 / sum, iterations, z, scratch(1), scratch(2), scratch(3));
      const Matrix values = Matrix::zero(memory + 4 * size_, m, collected.dim);
      const Matrix product = Matrix::zero(memory + 4 * size_ + wide, m, collected.dim);
      const Index b = n / collected.heads, h = n % collected.heads;
      for (Index i = 0; i < m; ++i) std::copy_n(collected.row(b, h, i), collected.dim, values.row(i));
      solve::multiply(z, values, product);
      for (Index i = 0; i < m; ++i) {
        T* const to = collected.row(b, h, i);
        for (Index e = 0; e < collected.dim; ++e) to[e] = T(product.row(i)[e]);
      }
    });
  }

 private:
  Matrix matrix(Index n) const { return {memory_.get() + n * size_, landmarks_, landmarks_}; }

  Index count_, landmarks_, size_;
  std::unique_ptr<double[], engine::FreeScratch> memory_;
};

// The first tokens of one sequence.
template <class T>
View<T> first_tokens(View<T> x, Index batch, Index tokens) {
  x.data = x.row(batch, 0, 0);
  x.batch = 1;
  x.length = tokens;
  return x;
}

}  // namespace detail

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], out [B,H,N,E], H a multiple of G; or matrices.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void nystrom(const Q& q, const K& k, const V& v, Out&& out, const NystromOptions& options = {},
             const Exec& executor = {}) {
  constexpr auto where = "fovea::nystrom";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const Index batch = problem.q.batch, heads = problem.q.heads, kv_heads = problem.k.heads;
  const Index tokens = problem.q.length, m = options.landmarks, dim = problem.q.dim, value_dim = problem.v.dim;
  check(problem.k.length == tokens, where, "k must have the length of q, wanted ", tokens, ", got ", problem.k.length);
  check(problem.log_sum.data == nullptr, where, "there is no log-sum of a product of three matrices");
  check(m > 0, where, "landmarks must be positive, got ", m);
  check(options.iterations > 0, where, "iterations must be positive, got ", options.iterations);
  options.residual.check_for(where, heads);
  resample::check_lengths(where, options.lengths, batch, tokens);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  if (batch * heads * tokens == 0) return;

  // Calls f(part, first sequence) for all sequences at once, or for one after the other without its padding.
  const auto each = [&](auto&& f) {
    if (options.lengths.empty()) return f(problem, Index{0});
    for (Index b = 0; b < batch; ++b) {
      auto part = problem;
      const Index length = options.lengths[std::size_t(b)];
      part.q = detail::first_tokens(problem.q, b, length);
      part.k = detail::first_tokens(problem.k, b, length);
      part.v = detail::first_tokens(problem.v, b, length);
      part.out = detail::first_tokens(problem.out, b, length);
      f(part, b);
    }
  };
  if (tokens <= m) {
    each([&](const Problem<T>& part, Index) { engine::attend(part, recipe, executor); });
  } else {
    const Index room[] = {batch * heads * m * dim, batch * kv_heads * m * dim, batch * heads * m * value_dim};
    const auto memory = engine::allocate_scratch<T>(2 * room[0] + room[1] + room[2]);
    const View<T> queries = view(memory.get(), {batch, heads, m, dim});
    const View<T> keys = view(memory.get() + room[0], {batch, kv_heads, m, dim});
    const View<T> every_key = view(memory.get() + room[0] + room[1], {batch, heads, m, dim});  // for each query head
    const View<T> collected = view(memory.get() + 2 * room[0] + room[1], {batch, heads, m, value_dim});
    resample::segment_means(problem.q, queries, options.lengths, executor);
    resample::segment_means(problem.k, keys, options.lengths, executor);
    for (Index n = 0; n < batch * heads; ++n)
      std::copy_n(keys.data + n / problem.group * m * dim, m * dim, every_key.data + n * m * dim);
    // The landmarks of the sequences of a part.
    const auto of = [](const View<T>& x, const Problem<T>& part, Index first) {
      View<T> some = x;
      some.data = x.row(first, 0, 0);
      some.batch = part.q.batch;
      return some;
    };

    detail::NystromMiddle middle(batch * heads, m);
    middle.attend(queries, keys, problem.group, recipe, where, executor);
    each([&](const Problem<T>& part, Index first) {
      engine::attend(
          Problem<T>{of(queries, part, first), part.k, part.v, of(collected, part, first), {}, part.group, where},
          recipe, executor);
    });
    middle.apply(collected, options.start, options.iterations, executor);
    each([&](const Problem<T>& part, Index first) {
      engine::attend(Problem<T>{part.q, of(every_key, part, first), of(collected, part, first), part.out, {}, 1, where},
                     recipe, executor);
    });
  }
  if (options.residual.empty()) return;
  each([&](const Problem<T>& part, Index) {
    combine::add_token_convolution(part.v, part.out, options.residual, executor);
  });
}

}  // namespace fovea::inline FOVEA_ISA
