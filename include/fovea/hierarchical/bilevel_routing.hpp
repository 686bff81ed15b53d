// Bi-level routing attention: regions of an image choose the regions they read, by their means; tokens attend to the
// tokens of those.
// Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023, arXiv:2303.08810.
//
//   A_ab = mean(Q_a) . mean(K_b)   over the channels of all heads;   I_a = the top_k regions b with the largest A_ab
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : region(j) in I_region(i) },   plus LCE(v)_i
//
// Regions are S x S rectangles of the grid, as many rows and columns of tokens in each; one choice serves all heads. As
// in the released models scale is 1 / sqrt(H D), of the channels of all heads and not of one. LCE, "local context
// enhancement", is a depthwise convolution of the values. A region is not bound to choose itself. soft_routing
// multiplies the keys and values of region b by w_ab = softmax_b(scale A_ab) over the chosen ones; the models do not
// use it.
//
// A grid that the regions do not divide is filled up at its lower and right edges. What fills is in no mean; masked, no
// query sees it; zeros, queries see keys and values of zero there, as the later of the published kernels has it. (The
// earlier one fills the image before q, k and v are projected: do so, and call with the larger grid.)
//
// Approximate; exact on the chosen regions, and dense attention when they are all or when there is one. Cost
// O(T (D + E) + S^4 D) and O(T top_k T / S^2 (D + E)) for each head, and a copy of queries, keys, values and results of
// a few heads at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/depthwise.hpp>
#include <fovea/parts/mask/spans.hpp>
#include <fovea/parts/permute/grid.hpp>
#include <fovea/parts/permute/regions.hpp>
#include <fovea/parts/permute/weighted_blocks.hpp>
#include <fovea/parts/select/pool_regions.hpp>
#include <fovea/parts/select/rank_blocks.hpp>

namespace fovea::inline FOVEA_ISA {

enum class RegionPadding { masked, zeros };

struct BilevelRoutingOptions {
  Index height = 0;   // rows of tokens; required
  Index width = 0;    // tokens of a row; required, height width = T
  Index regions = 7;  // S, along each axis
  Index top_k = 0;    // regions that a region reads, at most S^2; required
  RegionPadding padding = RegionPadding::masked;
  bool soft_routing = false;
  combine::DepthwiseKernel local_enhancement = {};  // of v, [H E, size, size]; none when empty
  std::optional<double> scale = {};                 // 1 / sqrt(H D) when empty
};

// What was chosen: for each region, row by row, the regions it reads. Blocks of the table are regions in that order, of
// ceil(height / S) ceil(width / S) places each. A plain object: keep it, copy it, pass it again.
struct RegionRoutes {
  mask::BlockTable table{};
  std::vector<double> weights{};  // w_ab for each entry of the table; empty without soft_routing
};

namespace detail {

// The regions of a call, checked.
inline permute::Regions regions_for(const char* where, const BilevelRoutingOptions& o, const Extents& q,
                                    const Extents& k) {
  const permute::Regions regions{o.height, o.width, o.regions};
  check(k.length == q.length, where, "k must have the length of q, wanted ", q.length, ", got ", k.length);
  check(k.heads == q.heads, where, "k must have the heads of q, wanted ", q.heads, ", got ", k.heads);
  check(o.height > 0 && o.width > 0, where, "height and width must be positive, got ", o.height, " and ", o.width);
  check(q.length % o.width == 0 && q.length / o.width == o.height, where, "the grid must hold the tokens, wanted ",
        q.length, ", got ", o.height, " times ", o.width);
  check(o.regions > 0 && o.regions <= std::min(o.height, o.width), where,
        "regions must be between 1 and the shorter side, ", std::min(o.height, o.width), ", got ", o.regions);
  check(o.top_k > 0 && o.top_k <= regions.count(), where, "top_k must be between 1 and the number of regions, ",
        regions.count(), ", got ", o.top_k);
  return regions;
}

// softmax_b(scale A_ab) over the entries of a list.
template <class T>
void append_weights(const T* mean, const T* key_means, Index channels, double scale, std::span<const Index> regions,
                    std::vector<double>& weights) {
  std::vector<double> scores;
  double most = -HUGE_VAL, total = 0;
  for (const Index region : regions) {
    double sum = 0;
    for (Index c = 0; c < channels; ++c) sum += double(mean[c]) * double(key_means[region * channels + c]);
    scores.push_back(sum == sum ? scale * sum : -HUGE_VAL);
    most = std::max(most, scores.back());
  }
  for (double& score : scores) {
    score = score == -HUGE_VAL ? 0 : std::exp(score - most);
    total += score;
  }
  for (const double score : scores) weights.push_back(total > 0 ? score / total : 0);
}

// The softmax of a call: its scale is that of the channels of all heads.
inline Recipe<> region_softmax(const char* where, const BilevelRoutingOptions& options, const Extents& q) {
  const auto recipe = softmax(options.scale.value_or(1 / std::sqrt(double(q.heads * q.dim))));
  recipe.normalizer.check_for(where, {q.batch, q.heads, q.heads, q.length, q.length});
  return recipe;
}

template <class T, exec::Executor Exec>
RegionRoutes choose_regions(const View<const T>& q, const View<const T>& k, const permute::Regions& regions,
                            const BilevelRoutingOptions& options, double scale, const Exec& executor) {
  const Index count = regions.count(), channels = q.heads * q.dim, places = count * regions.places();
  const auto queries = select::pool_regions(q, regions, executor), keys = select::pool_regions(k, regions, executor);
  select::BlockRule rule;
  rule.top_k = options.top_k;
  rule.own_blocks = false;
  RegionRoutes routes;
  routes.table = select::rank_blocks<T>(queries.view(), keys.view(),
                                        {regions.places(), regions.places(), places, places, 0, false}, rule, executor);
  for (Index list = 0; options.soft_routing && list < q.batch * count; ++list) {
    const auto at = std::size_t(list);
    const Span entries{routes.table.begin[at], routes.table.begin[at + 1]};
    append_weights(queries.rows.data() + list * channels, keys.rows.data() + list / count * count * channels, channels,
                   scale, {routes.table.blocks.data() + entries.first, std::size_t(entries.size())}, routes.weights);
  }
  return routes;
}

// Attention of regions in order to the regions that they are routed to.
template <class T, exec::Executor Exec>
class AttendRegions {
 public:
  AttendRegions(const permute::Regions& regions, const RegionRoutes& routes, bool masked, const Recipe<>& recipe,
                const Exec& executor)
      : regions_(regions), routes_(routes), masked_(masked), recipe_(recipe), executor_(executor) {}

  // The batch of a part counts heads too, `heads` for each element of the batch; `first` is the first of them.
  void plain(const Problem<T>& part, Index first, Index heads) const {
    // A smaller region would share its tile of queries with others, which read other regions.
    constexpr Index enough = 48;
    const Index count = regions_.count(), places = regions_.places(), items = part.q.batch;
    const bool apart = places < enough;
    mask::SpanTable seen{places, apart ? count : items, apart ? items : 1, apart ? 1 : count, {0}, {}};
    const auto list = [&](Index n, Index region) {
      for (const Index block : blocks((first + n) / heads, region)) add(seen, block, block * places);
      seen.begin.push_back(seen.entries());
    };
    if (apart) {
      for (Index region = 0; region < count; ++region) {
        for (Index n = 0; n < items; ++n) list(n, region);
      }
    } else {
      for (Index n = 0; n < items; ++n) {
        for (Index region = 0; region < count; ++region) list(n, region);
      }
    }
    engine::attend(apart ? permute::regions_apart(part, regions_) : part, recipe_.mask(mask::spans(std::move(seen))),
                   executor_);
  }

  // With keys and values multiplied by the weights of their regions.
  void soft(const Problem<T>& part, Index first, Index heads) const {
    const Index count = regions_.count(), places = regions_.places();
    Index most = 0;
    const auto list = [&](Index n, Index region) {
      std::vector<permute::WeightedBlock> result;
      const auto chosen = blocks((first + n) / heads, region);
      const Index entry = chosen.data() - routes_.table.blocks.data();
      for (std::size_t e = 0; e < chosen.size(); ++e)
        result.push_back({chosen[e], routes_.weights[std::size_t(entry) + e]});
      return result;
    };
    for (Index n = 0; n < part.q.batch; ++n) {
      for (Index region = 0; region < count; ++region)
        most = std::max(most, Index(blocks((first + n) / heads, region).size()));
    }
    permute::each_weighted(part, places, most, list, executor_, [&](const Problem<T>& apart, Index n) {
      mask::SpanTable seen{places, count, 1, 1, {0}, {}};
      for (Index region = 0; region < count; ++region) {
        Index begin = 0;
        for (const Index block : blocks((first + n) / heads, region)) {
          add(seen, block, begin);
          begin += places;
        }
        seen.begin.push_back(seen.entries());
      }
      engine::attend(apart, recipe_.mask(mask::spans(std::move(seen))), executor_);
    });
  }

 private:
  std::span<const Index> blocks(Index batch, Index region) const {
    const auto& table = routes_.table;
    const Span entries = table.list(table.batch == 1 ? 0 : batch, 0, region);
    return {table.blocks.data() + entries.first, std::size_t(entries.size())};
  }

  // The keys of a region that begin at `begin`.
  void add(mask::SpanTable& seen, Index region, Index begin) const {
    const Index keys = masked_ ? regions_.tokens_of(region) : regions_.places();
    if (keys > 0) seen.spans.push_back({begin, begin + keys});
  }

  const permute::Regions& regions_;
  const RegionRoutes& routes_;
  const bool masked_;
  const Recipe<>& recipe_;
  const Exec& executor_;
};

template <class T, exec::Executor Exec>
void attend_regions(const Problem<T>& problem, const permute::Regions& regions, const RegionRoutes& routes,
                    const BilevelRoutingOptions& options, const Recipe<>& recipe, const Exec& executor) {
  const bool masked =
      options.padding == RegionPadding::masked || regions.count() * regions.places() == problem.q.length;
  const auto& table = routes.table;
  if (masked && !options.soft_routing && table.entries() == table.batch * regions.count() * regions.count()) {
    engine::attend(problem, recipe, executor);  // every region reads all
  } else {
    const Index heads = problem.k.heads, begin = 0;
    const permute::Order order = regions.order();
    const AttendRegions<T, Exec> attend(regions, routes, masked, recipe, executor);
    permute::in_order(problem, order, order, std::span<const Index>(&begin, 1), problem.q.batch * heads, executor,
                      [&](const Problem<T>& part, Index first) {
                        options.soft_routing ? attend.soft(part, first, heads) : attend.plain(part, first, heads);
                      });
  }
  combine::add_depthwise(problem.v, problem.out, options.height, options.width, options.local_enhancement, executor);
}

}  // namespace detail

// The choice that bilevel_routing makes, q and k [B,H,T,D].
template <class Q, class K, exec::Executor Exec = exec::Serial>
RegionRoutes bilevel_routes(const Q& q, const K& k, const BilevelRoutingOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routes";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  check(keys.batch == queries.batch && keys.dim == queries.dim, where,
        "k must have the batch and the width of q, wanted ", queries.batch, " and ", queries.dim, ", got ", keys.batch,
        " and ", keys.dim);
  const auto regions = detail::regions_for(where, options, queries.extents(), keys.extents());
  const double scale = *detail::region_softmax(where, options, queries.extents()).normalizer.scale;
  return detail::choose_regions<T>(queries, keys, regions, options, scale, executor);
}

// q, k [B,H,T,D], v, out [B,H,T,E]; or matrices [T,D], [T,D], [T,E], [T,E] for one head. Tokens lie row by row of the
// grid. Log-sums are those of the attention, without the local enhancement.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bilevel_routing(const Q& q, const K& k, const V& v, Out&& out, const BilevelRoutingOptions& options,
                     const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routing";
  const auto problem = make_problem(where, q, k, v, out);
  const auto regions = detail::regions_for(where, options, problem.q.extents(), problem.k.extents());
  const auto recipe = detail::region_softmax(where, options, problem.q.extents());
  options.local_enhancement.check_for(where, problem.q.heads * problem.v.dim);

  const auto routes =
      detail::choose_regions(problem.q, problem.k, regions, options, *recipe.normalizer.scale, executor);
  detail::attend_regions(problem, regions, routes, options, recipe, executor);
}

// The same with routes that are there: those of bilevel_routes, from another layer or step, or the caller's own, for
// regions of the same places, shared by the batch or for each element.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bilevel_routing(const Q& q, const K& k, const V& v, Out&& out, const RegionRoutes& routes,
                     const BilevelRoutingOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routing";
  const auto problem = make_problem(where, q, k, v, out);
  const auto regions = detail::regions_for(where, options, problem.q.extents(), problem.k.extents());
  const auto recipe = detail::region_softmax(where, options, problem.q.extents());
  options.local_enhancement.check_for(where, problem.q.heads * problem.v.dim);
  const Index places = regions.places(), all = regions.count() * places;
  check(routes.table.query_block == places && routes.table.key_block == places, where,
        "the regions of routes must have the places of these, wanted ", places, ", got ", routes.table.query_block,
        " and ", routes.table.key_block);
  check(routes.table.heads == 1, where, "routes are shared by the heads, got tables for ", routes.table.heads);
  mask::blocks(routes.table).bind(where, {problem.q.batch, 1, 1, all, all});
  check(!options.soft_routing || Index(routes.weights.size()) == routes.table.entries(), where,
        "soft routing needs a weight for each entry of the routes, wanted ", routes.table.entries(), ", got ",
        routes.weights.size());

  detail::attend_regions(problem, regions, routes, options, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA
