// Neighborhood attention on a sequence, an image or a video: a window around each query, with stride, dilation and
// causality for each axis.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922; "Neighborhood Attention Transformer",
// CVPR 2023, arXiv:2204.07143.
//
//   o_x = sum_y softmax_y(scale q_x . k_y) v_y   over the places y of the grid that x sees on every axis
//
// On one axis, with coordinates x and y: those with y = x mod dilation and lo <= floor(y / dilation) < hi. [lo, hi)
// counts inside the residue class of x. With n = floor(x / dilation), L places in the class and its queries in groups
// of `stride`, all indices rounded down:
//
//   not causal   lo = clamp(c - window / 2, 0, L - window), hi = lo + window,
//                c = min(n / stride * stride + stride / 2, L - 1)
//   causal       lo = max(c - window + 1, 0), hi = n + 1,  c = min(n / stride * stride + stride - 1, L - 1)
//
// Not causal, every query sees exactly `window` places of the axis: at the ends the window is moved inward and not cut,
// other than that of bidirectional_window. An even window has its extra place before the query. Self-attention only,
// N = M = T; keys besides those of the grid are attended to by themselves and merged (combine::merge).
//
// Exact; windows of whole axes, not causal, are dense attention; one causal axis with a stride of one is sliding_window
// or dilated_window. Cost O(T window (D + E)) for each head, `window` the product over axes, and on more than one axis
// a copy of queries, keys, values and results of a few heads at a time.
#pragma once

#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/grid_neighborhood.hpp>
#include <fovea/parts/mask/neighborhood.hpp>
#include <fovea/parts/permute/grid.hpp>
#include <fovea/parts/permute/residue_classes.hpp>
#include <fovea/parts/permute/window_tiles.hpp>

namespace fovea::inline FOVEA_ISA {

struct NeighborhoodOptions {
  std::vector<Index> grid = {};      // extents of one to three axes, the slowest first; one axis of T when empty
  PerAxis<Index> window = 0;         // places a query sees; required, window dilation <= extent
  PerAxis<Index> stride = 1;         // queries that share a window, at most `window`; window of them make blocks
  PerAxis<Index> dilation = 1;       // from one place to the next
  PerAxis<bool> causal = false;      // only places up to the query's
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

// The options by axis, in three axes of which the first may be of extent one.
struct NeighborhoodAxes {
  Place extents{1, 1, 1}, dilation{1, 1, 1};
  mask::Neighborhoods windows{mask::neighborhood(1), mask::neighborhood(1), mask::neighborhood(1)};

  NeighborhoodAxes(const char* where, const NeighborhoodOptions& options, Index tokens) {
    const std::vector<Index> grid = options.grid.empty() ? std::vector<Index>{tokens} : options.grid;
    const Index axes = Index(grid.size());
    check(axes <= 3, where, "a grid has up to three axes, got ", axes);
    const auto count = [&](const char* name, Index got) {
      check(got == 1 || got == axes, where, name, " must be given once or for each axis, wanted 1 or ", axes, ", got ",
            got);
    };
    count("window", options.window.count());
    count("stride", options.stride.count());
    count("dilation", options.dilation.count());
    count("causal", options.causal.count());
    Index room = tokens;  // what the tokens leave for the axes to come, -1 when they do not fit
    for (Index a = 0; a < axes; ++a) {
      const Index extent = grid[std::size_t(a)], window = options.window[a], stride = options.stride[a];
      check(extent >= 0, where, "the extents of a grid must not be negative, got ", extent);
      check(window > 0, where, "window must be positive, got ", window);
      check(stride > 0 && stride <= window, where, "stride must be between 1 and the window, ", window, ", got ",
            stride);
      check(options.dilation[a] > 0, where, "dilation must be positive, got ", options.dilation[a]);
      check(window <= extent / options.dilation[a] || tokens == 0, where,
            "window dilation must not exceed the length, ", extent, ", got ", window, " times ", options.dilation[a]);
      room = extent > 0 && room % extent == 0 ? room / extent : extent == 0 && tokens == 0 ? 0 : -1;
      const auto axis = std::size_t(3 - axes + a);
      extents[axis] = extent;
      dilation[axis] = options.dilation[a];
      windows[axis] = mask::neighborhood(window, stride, options.causal[a]);
    }
    const bool none = extents[0] == 0 || extents[1] == 0 || extents[2] == 0;
    check(tokens == 0 ? none : room == 1, where, "the grid must hold the tokens, wanted ", tokens, ", got the extents ",
          extents[0], " x ", extents[1], " x ", extents[2]);
  }

  // The only axis with more than one place, or -1.
  int only() const {
    const auto others = [&](int a) { return extents[std::size_t((a + 1) % 3)] * extents[std::size_t((a + 2) % 3)]; };
    for (const int a : {2, 1, 0}) {
      if (others(a) == 1) return a;
    }
    return -1;
  }
};

}  // namespace detail

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
// Tokens lie row by row of the grid: neighborhood(q, k, v, out, {.grid = {16, 32, 32}, .window = {4, 8, 8}}).
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void neighborhood(const Q& q, const K& k, const V& v, Out&& out, const NeighborhoodOptions& options,
                  const Exec& executor = {}) {
  constexpr auto where = "fovea::neighborhood";
  const auto problem = make_problem(where, q, k, v, out);
  const Index length = problem.q.length;
  check(problem.k.length == length, where, "k must have the length of q, wanted ", length, ", got ", problem.k.length);
  const detail::NeighborhoodAxes axes(where, options, length);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  if (length == 0) return;

  const int only = axes.only();
  if (only >= 0) {
    const auto axis = std::size_t(only);
    permute::each_residue_class(problem, axes.dilation[axis], [&](const auto& part) {
      engine::attend(part, recipe.mask(axes.windows[axis]), executor);
    });
    return;
  }
  permute::WindowShape shape;
  for (std::size_t a = 0; a < 3; ++a) {
    shape.window[a] = axes.windows[a].window;
    shape.stride[a] = axes.windows[a].stride;
  }
  permute::each_grid_class(
      axes.extents, axes.dilation, [&](const Place& extents, const Place& step, const auto& begins) {
        const TiledGrid queries = permute::query_tiles(extents, shape, problem.group);
        const TiledGrid keys = permute::key_tiles(extents, shape);
        const auto seen = mask::grid_neighborhood(axes.windows, queries, keys);
        permute::in_order(problem, permute::tokens_of(queries, step), permute::tokens_of(keys, step), begins,
                          problem.q.batch * problem.k.heads * Index(begins.size()), executor,
                          [&](const auto& part, Index) { engine::attend(part, recipe.mask(seen), executor); });
      });
}

}  // namespace fovea::inline FOVEA_ISA
