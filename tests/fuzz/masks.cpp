// Masks: random expressions of the masks there are, legal or not. What they show must be what their sentences say, in
// seen(), cover() and each_span(), and in attention over them.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/band.hpp>
#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/by_head.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/frame_bands.hpp>
#include <fovea/parts/mask/grid_neighborhood.hpp>
#include <fovea/parts/mask/neighborhood.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/spans.hpp>
#include <fovea/parts/mask/tree.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <functional>
#include <memory>
#include <numeric>

#include "fuzz/support/attention.hpp"

using namespace fovea;
using namespace fovea::fuzz;
using mask::Cover;
using mask::operator&, mask::operator|, mask::operator!;
using mask::Region;

namespace {

// A bound mask, and a mask, of any type, so that expressions are made at run time.
struct AnyBound {
  std::function<std::uint64_t(Row, Span)> seen_;
  std::function<Cover(const Region&)> cover_;
  mask::Grain grain_;

  std::uint64_t seen(Row row, Span keys) const { return seen_(row, keys); }
  Cover cover(const Region& region) const { return cover_(region); }
  mask::Grain grain() const { return grain_; }
};

using EachSpan = std::function<void(const Region&, const std::function<void(Span, bool)>&)>;

// The same of masks with lists.
struct AnyLists : AnyBound {
  EachSpan each_span_;

  template <class F>
  void each_span(const Region& region, F&& f) const {
    each_span_(region, std::ref(f));
  }
};

template <class M>
AnyBound any_bound(M bound) {
  const auto it = std::make_shared<M>(std::move(bound));
  return {[it](Row row, Span keys) { return it->seen(row, keys); },
          [it](const Region& region) { return it->cover(region); }, mask::grain_of(*it)};
}

struct AnyMask {
  std::function<AnyBound(const char*, const Shape&)> bind_;

  AnyBound bind(const char* where, const Shape& shape) const { return bind_(where, shape); }
};
template <class M>
AnyMask any(M of) {
  return {[of](const char* where, const Shape& shape) { return any_bound(of.bind(where, shape)); }};
}

struct AnyListsMask {
  std::function<AnyLists(const char*, const Shape&)> bind_;

  AnyLists bind(const char* where, const Shape& shape) const { return bind_(where, shape); }
};
template <class M>
AnyListsMask any_lists(M of) {
  return {[of](const char* where, const Shape& shape) {
    auto bound = of.bind(where, shape);
    const auto it = std::make_shared<decltype(bound)>(bound);
    return AnyLists{any_bound(bound),
                    [it](const Region& region, const std::function<void(Span, bool)>& f) { it->each_span(region, f); }};
  }};
}

// What a mask means: the keys that it shows for a shape, and whether it is legal for it.
struct Meaning {
  std::function<bool(const Shape&, const Site&)> sees;
  std::function<bool(const Shape&)> legal = [](const Shape&) { return true; };
};

struct Rule {
  AnyMask mask;
  Meaning meaning;
};

Index position(const Shape& s, Index query, Alignment alignment) {
  return alignment == Alignment::bottom_right ? query + s.keys - s.queries : query;
}

mask::Boundaries boundaries(Input& in, Index length, Index documents) {
  mask::Boundaries x{0};
  for (Index d = 1; d < documents; ++d) x.push_back(in.between(x.back(), length));
  x.push_back(in.one_in(12) ? length + in.between(-2, 2) : length);
  return x;
}

bool are_boundaries(const mask::Boundaries& x, Index length) {
  return !x.empty() && x.front() == 0 && x.back() == length && std::is_sorted(x.begin(), x.end());
}

Rule rule(Input& in, const Shape& shape, Index depth);

Rule document(Input& in, const Shape& shape, Index depth) {
  const Index documents = in.between(1, 4);
  const auto q = boundaries(in, shape.queries, documents);
  const auto k = boundaries(in, shape.keys, in.one_in(12) ? documents + 1 : documents);
  // Of the shape of one document or of another; what it does not fit is refused.
  Shape one = shape;
  one.queries = std::max<Index>(q[1], 0), one.keys = std::max<Index>(k[1], 0);
  const Rule inner = rule(in, one, depth - 1);
  const auto local = [q, k](const Shape& s, std::size_t d) {
    Shape own = s;
    own.queries = q[d + 1] - q[d], own.keys = k[d + 1] - k[d];
    return own;
  };
  return {any(mask::document(q, k, inner.mask)),
          {[=](const Shape& s, const Site& at) {
             for (std::size_t d = 0; d + 1 < q.size(); ++d) {
               if (at.query >= q[d] && at.query < q[d + 1])
                 return at.key >= k[d] && at.key < k[d + 1] &&
                        inner.meaning.sees(local(s, d), {at.batch, at.head, at.query - q[d], at.key - k[d]});
             }
             return false;
           },
           [=](const Shape& s) {
             if (!are_boundaries(q, s.queries) || !are_boundaries(k, s.keys) || q.size() != k.size()) return false;
             for (std::size_t d = 0; d + 1 < q.size(); ++d) {
               if (!inner.meaning.legal(local(s, d))) return false;
             }
             return true;
           }}};
}

Rule tree(Input& in, const Shape& shape) {
  const Index nodes = in.one_in(12) ? in.between(0, 6) : shape.queries;
  const Index trees = in.flag() ? 1 : shape.batch;
  Eigen::Matrix<int, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> parents(trees, nodes);
  Random random(in.between(0, 255));
  for (Index t = 0; t < trees; ++t) {
    for (Index i = 0; i < nodes; ++i) parents(t, i) = int(random.below(i + 1)) - 1;
  }
  return {any(mask::tree(parents)),
          {[=](const Shape& s, const Site& at) {
             const Index before = s.keys - s.queries;
             if (at.key < before) return true;
             Index node = at.query;
             while (node > at.key - before) node = parents(trees == 1 ? 0 : at.batch, node);
             return node == at.key - before;
           },
           [=](const Shape& s) { return nodes == s.queries && (trees == 1 || trees == s.batch); }}};
}

Rule neighborhood(Input& in) {
  const Index window = in.between(0, 12), stride = in.between(0, 5);
  const bool causal = in.flag();
  return {any(mask::neighborhood(window, stride, causal)),
          {[=](const Shape& s, const Site& at) {
             const Index group = at.query / stride * stride, last = s.keys - 1;
             if (causal) {
               const Index leader = std::min(group + stride - 1, last);
               return at.key > leader - window && at.key <= at.query;
             }
             Index first = std::min(group + stride / 2, last) - window / 2;
             first = std::max<Index>(std::min(first, s.keys - window), 0);
             return at.key >= first && at.key < first + window;
           },
           [=](const Shape& s) {
             return window > 0 && stride > 0 && stride <= window && s.queries == s.keys &&
                    (window <= s.keys || s.keys == 0);
           }}};
}

Rule frame_bands(Input& in, const Shape& shape) {
  mask::FrameBandsOptions o;
  o.frame = in.between(0, 6);
  o.others = in.between(0, 3);
  o.first_frame = in.flag();
  if (o.frame > 0 && in.flag()) o.others = shape.keys % o.frame;
  for (Index n = in.between(0, 40); n > 0; --n) o.reach.push_back(in.at_end() ? n % 4 : in.between(-1, 6));
  return {any(mask::frame_bands(o)),
          {[=](const Shape& s, const Site& at) {
             const Index tokens = s.keys - o.others;
             if (at.query >= tokens || at.key >= tokens) return true;
             const Index own = at.query / o.frame, other = at.key / o.frame;
             if (o.first_frame && other == 0) return true;
             return std::abs(at.query % o.frame - at.key % o.frame) <= o.reach[std::size_t(std::abs(own - other))];
           },
           [=](const Shape& s) {
             const Index tokens = s.keys - o.others;
             return o.frame > 0 && s.queries == s.keys && tokens >= 0 && tokens % o.frame == 0 &&
                    Index(o.reach.size()) >= tokens / o.frame;
           }}};
}

// A grid whose queries and keys stand row by row, or in tiles.
Rule grid(Input& in, const Shape& shape) {
  const Index rows = in.between(1, 4),
              columns = in.one_in(4) ? in.between(1, 8) : std::max<Index>(shape.keys / rows, 1);
  const Place extents{1, rows, columns};
  const Index tall = in.between(1, 4), wide = in.between(1, 8);
  const auto places = [&](const TiledGrid& order) {
    std::vector<Place> all(std::size_t(order.positions()), Place{0, -1, -1});
    order.each_token([&](Index position, const Place& at) { all[std::size_t(position)] = at; });
    return all;
  };
  const Index pitch = Index(std::bit_ceil(std::uint64_t(tall * wide)));
  const TiledGrid keys(extents, {1, tall, wide}, {1, 1, 1}, pitch),
      queries = in.flag() ? keys : TiledGrid(extents, extents);
  const auto window = [&](Index extent) {
    const Index size = in.between(1, extent), stride = in.between(1, size);
    return mask::neighborhood(size, stride, in.flag());
  };
  const mask::Neighborhoods axes{mask::neighborhood(1), window(rows), window(columns)};
  const auto query_places = places(queries), key_places = places(keys);
  return {
      any(mask::grid_neighborhood(axes, queries, keys)),
      {[=](const Shape&, const Site& at) {
         const Place from = query_places[std::size_t(at.query)], to = key_places[std::size_t(at.key)];
         if (from[1] < 0 || to[1] < 0) return false;
         for (const std::size_t a : {1u, 2u}) {
           const auto bound = axes[a].bind("harness", {1, 1, 1, extents[a], extents[a]});
           if (!mask::sees(bound, {0, 0, from[a], to[a]})) return false;
         }
         return true;
       },
       [=](const Shape& s) { return s.queries == Index(query_places.size()) && s.keys == Index(key_places.size()); }}};
}

Rule leaf(Input& in, const Shape& shape) {
  const Alignment alignment = in.flag() ? Alignment::top_left : Alignment::bottom_right;
  switch (in.between(0, 8)) {
    case 0:
      return {any(mask::causal(alignment)),
              {[=](const Shape& s, const Site& at) { return at.key <= position(s, at.query, alignment); }}};
    case 1: {
      const Index keys = in.one_in(12) ? std::numeric_limits<Index>::max() / 4 : in.between(-1, 40);
      return {any(mask::window(keys, alignment)),
              {[=](const Shape& s, const Site& at) { return position(s, at.query, alignment) - at.key < keys; },
               [=](const Shape&) { return keys > 0; }}};
    }
    case 2: {
      const Index distance = in.one_in(12) ? std::numeric_limits<Index>::max() : in.between(-1, 40);
      return {any(mask::band(distance, alignment)),
              {[=](const Shape& s, const Site& at) {
                 return std::abs(position(s, at.query, alignment) - at.key) <= distance;
               },
               [=](const Shape&) { return distance >= 0; }}};
    }
    case 3: {
      const Index keys = in.between(-1, 80);
      return {any(mask::prefix(keys)),
              {[=](const Shape&, const Site& at) { return at.key < keys; }, [=](const Shape&) { return keys >= 0; }}};
    }
    case 4: {
      const std::uint64_t seed = std::uint64_t(in.between(0, 255)), one_in = std::uint64_t(in.between(1, 5));
      const auto sees = [=](const Site& at) {
        Random random(seed + std::uint64_t(((at.batch * 7 + at.head) * 1009 + at.query) * 1009 + at.key));
        return random.bits() % one_in == 0;
      };
      return {any(mask::where(sees)), {[=](const Shape&, const Site& at) { return sees(at); }}};
    }
    case 5:
      return tree(in, shape);
    case 6:
      return neighborhood(in);
    case 7:
      return frame_bands(in, shape);
    default:
      return grid(in, shape);
  }
}

Rule rule(Input& in, const Shape& shape, Index depth) {
  switch (depth <= 0 ? 0 : in.between(0, 6)) {
    case 1: {
      const Rule a = rule(in, shape, depth - 1), b = rule(in, shape, depth - 1);
      return {any(a.mask & b.mask),
              {[=](const Shape& s, const Site& at) { return a.meaning.sees(s, at) && b.meaning.sees(s, at); },
               [=](const Shape& s) { return a.meaning.legal(s) && b.meaning.legal(s); }}};
    }
    case 2: {
      const Rule a = rule(in, shape, depth - 1), b = rule(in, shape, depth - 1);
      return {any(a.mask | b.mask),
              {[=](const Shape& s, const Site& at) { return a.meaning.sees(s, at) || b.meaning.sees(s, at); },
               [=](const Shape& s) { return a.meaning.legal(s) && b.meaning.legal(s); }}};
    }
    case 3: {
      const Rule a = rule(in, shape, depth - 1);
      return {any(!a.mask), {[=](const Shape& s, const Site& at) { return !a.meaning.sees(s, at); }, a.meaning.legal}};
    }
    case 4: {
      const Rule a = rule(in, shape, depth - 1), b = rule(in, shape, depth - 1);
      std::vector<bool> chosen(std::size_t(in.one_in(12) ? in.between(0, 4) : shape.heads));
      for (std::size_t h = 0; h < chosen.size(); ++h) chosen[h] = in.flag();
      return {
          any(mask::by_head(chosen, a.mask, b.mask)),
          {[=](const Shape& s, const Site& at) { return (chosen[std::size_t(at.head)] ? a : b).meaning.sees(s, at); },
           [=](const Shape& s) {
             return Index(chosen.size()) == s.heads && a.meaning.legal(s) && b.meaning.legal(s);
           }}};
    }
    case 5:
      return document(in, shape, depth);
    default:
      return leaf(in, shape);
  }
}

// Tables of blocks or of spans, joined with an expression, whose lists attention goes along.
struct ListedRule {
  AnyListsMask mask;
  Meaning meaning;
};

ListedRule listed(Input& in, const Shape& shape, const Rule& other) {
  const bool of_spans = in.flag();
  const Index query_block = in.between(0, 20), key_block = in.between(0, 20);
  const Index batch = in.flag() ? 1 : shape.batch;
  const Index heads = in.one_of(std::array{Index{1}, shape.kv_heads, shape.heads, Index{2}});
  const auto count = [](Index length, Index block) { return block > 0 ? (length + block - 1) / block : 1; };
  Index query_blocks = count(shape.queries, query_block);
  if (in.one_in(12)) query_blocks = in.between(0, 4);
  const Index key_blocks = count(shape.keys, key_block);
  Random random(in.between(0, 255));
  const Index density = in.between(0, 4);
  const bool fits = query_block > 0 && query_blocks == count(shape.queries, query_block) && batch > 0 && heads > 0 &&
                    (heads == 1 || heads == shape.kv_heads || heads == shape.heads);

  // What the lists say of each block of queries: keys.
  const auto lists = std::size_t(std::max<Index>(batch * heads * query_blocks, 0));
  std::vector<std::vector<bool>> shown(lists, std::vector<bool>(std::size_t(shape.keys)));
  bool entries_legal = true;
  const auto show = [&](std::vector<bool>& keys, Span span) {
    for (Index j = std::max<Index>(span.first, 0); j < std::min(span.last, shape.keys); ++j)
      keys[std::size_t(j)] = true;
  };
  AnyListsMask table;
  bool legal_table = batch > 0 && heads > 0;
  if (of_spans) {
    std::vector<std::vector<Span>> all(lists);
    for (std::size_t n = 0; n < lists; ++n) {
      for (Index s = random.below(density + 1); s > 0; --s) {
        const Index first = random.below(shape.keys + 1), last = first + random.below(shape.keys - first + 1);
        all[n].push_back({first, last});
        show(shown[n], all[n].back());
      }
    }
    if (in.one_in(12) && lists > 0) {  // one that goes past the keys, or begins before them
      const Span odd{in.between(-2, 2), shape.keys + in.between(-1, 1)};
      all[0].push_back(odd);
      show(shown[0], odd);
      entries_legal = odd.empty() || (odd.first >= 0 && odd.last <= shape.keys);
    }
    require(refused([&] {
              const auto made = mask::SpanTable::from_lists(query_block, query_blocks, all, batch, heads);
              table = any_lists(mask::spans(made) & other.mask);
            }) == !legal_table,
            "lists of spans");
  } else {
    std::vector<std::vector<Index>> all(lists);
    for (std::size_t n = 0; n < lists; ++n) {
      for (Index j = 0; j < key_blocks; ++j) {
        if (random.below(5) < density) all[n].push_back(j);
      }
    }
    if (in.one_in(12) && lists > 0) {
      const Index odd = in.between(-1, key_blocks);
      entries_legal = odd >= 0 && odd < key_blocks && std::count(all[0].begin(), all[0].end(), odd) == 0;
      all[0].push_back(odd);
    }
    for (std::size_t n = 0; n < lists; ++n) {
      for (const Index j : all[n]) show(shown[n], {j * key_block, (j + 1) * key_block});
    }
    entries_legal = entries_legal && key_block > 0;
    require(refused([&] {
              const auto made = mask::BlockTable::from_lists(query_block, key_block, query_blocks, all, batch, heads);
              table = any_lists(mask::blocks(made) & other.mask);
            }) == !legal_table,
            "lists of blocks");
  }
  const bool legal = fits && entries_legal && (batch == 1 || batch == shape.batch);
  return {table,
          {[=](const Shape& s, const Site& at) {
             const Index b = batch == 1 ? 0 : at.batch, h = at.head * heads / s.heads;
             const auto n = std::size_t((b * heads + h) * query_blocks + at.query / query_block);
             return bool(shown[n][std::size_t(at.key)]) && other.meaning.sees(s, at);
           },
           [=](const Shape& s) { return legal_table && legal && other.meaning.legal(s); }}};
}

// seen(), cover() and each_span() of some regions against the meaning.
template <class Bound>
void check_bound(Input& in, const Bound& bound, const Shape& shape, const Meaning& meaning) {
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0 || shape.keys == 0) return;
  Random random(in.between(0, 255));
  const auto span = [&](Index n) {
    const Index first = random.below(n);
    return Span{first, first + 1 + random.below(n - first)};
  };
  for (int n = 0; n < 12; ++n) {
    const Region region{random.below(shape.batch), span(shape.heads), span(shape.queries), span(shape.keys)};
    std::vector<bool> some(std::size_t(region.keys.size())), every(some.size(), true);
    bool none = true, full = true;
    for (Index h = region.heads.first; h < region.heads.last; ++h) {
      for (Index i = region.queries.first; i < region.queries.last; ++i) {
        for (Index first = region.keys.first; first < region.keys.last; first += mask::word) {
          const Span keys{first, std::min(first + mask::word, region.keys.last)};
          const std::uint64_t got = bound.seen({region.batch, h, i}, keys);
          std::uint64_t wanted = 0;
          for (Index j = keys.first; j < keys.last; ++j) {
            const bool sees = meaning.sees(shape, {region.batch, h, i, j});
            const auto at = std::size_t(j - region.keys.first);
            wanted |= std::uint64_t{sees} << (j - keys.first);
            some[at] = some[at] || sees;
            every[at] = every[at] && sees;
            none = none && !sees;
            full = full && sees;
          }
          require(got == wanted, "seen() of query ", i, " head ", h, " keys ", keys.first, " to ", keys.last, ": ", got,
                  ", wanted ", wanted);
        }
      }
    }
    const Cover cover = bound.cover(region);
    require((cover != Cover::none || none) && (cover != Cover::full || full), "cover() is wrong: queries ",
            region.queries.first, " to ", region.queries.last, " keys ", region.keys.first, " to ", region.keys.last);
    if constexpr (mask::Lists<Bound>) {
      Index end = region.keys.first;
      std::vector<bool> listed(some.size());
      bound.each_span(region, [&](Span keys, bool all) {
        require(keys.first >= end && !keys.empty() && keys.last <= region.keys.last, "each_span() does not ascend");
        end = keys.last;
        for (Index j = keys.first; j < keys.last; ++j) {
          const auto at = std::size_t(j - region.keys.first);
          listed[at] = true;
          require(!all || every[at], "each_span() calls full what is not, key ", j);
        }
      });
      for (std::size_t j = 0; j < some.size(); ++j) require(!some[j] || listed[j], "each_span() leaves out key ", j);
    }
  }
}

template <class M>
void check(Input& in, const Shape& shape, Index dim, const M& visible, const Meaning& meaning) {
  const auto q = array_of<float>(in, {shape.batch, shape.heads, shape.queries, dim});
  const auto k = array_of<float>(in, {shape.batch, shape.kv_heads, shape.keys, dim});
  const auto v = array_of<float>(in, {shape.batch, shape.kv_heads, shape.keys, dim});
  auto out = blank_array<float>(in, {shape.batch, shape.heads, shape.queries, dim});
  auto log_sum = blank_array<float>(in, {shape.batch, shape.heads, shape.queries, 1});
  auto recipe = softmax(1.0).mask(visible);
  recipe.tiles_only = in.flag();
  const auto run = [&](const Workers& executor) {
    attend(q.view, k.view, v.view, with_log_sum(out.view, log_sum.view), recipe, executor);
  };
  const bool legal = meaning.legal(shape);
  const bool refusal = refused([&] { run(workers(in)); });
  require(refusal == !legal, legal ? "a legal mask is refused" : "an illegal mask is not refused");
  if (!legal) return require(out.untouched() && log_sum.untouched(), "a refused call has written");
  check_bound(in, visible.bind("harness", shape), shape, meaning);

  const auto first = out.memory, first_sums = log_sum.memory;
  run(workers(in));
  require(same_bits(first, out.memory) && same_bits(first_sums, log_sum.memory), "bits depend on the workers");
  std::vector<Tokens> tokens;
  for (Index b = 0; b < shape.batch; ++b) tokens.push_back(tokens_of(k.view, v.view, b, shape.keys));
  check_attention<float>(
      {q.view, out.view, log_sum.view, 1.0}, [&](Index b) -> const Tokens& { return tokens[std::size_t(b)]; },
      [&](const Site& at) { return meaning.sees(shape, at); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const Index kv_heads = in.between(1, 2), group = in.between(1, 2), batch = in.between(0, 2);
  const Index keys = in.between(0, in.one_in(4) ? 150 : 30);
  const Index queries = in.flag() ? keys : in.between(0, in.one_in(4) ? 150 : 30);
  const Shape shape{batch, kv_heads * group, kv_heads, queries, keys};
  const Index dim = in.between(1, 9);
  const Rule one = rule(in, shape, 3);
  if (in.flag()) {
    const auto both = listed(in, shape, one);
    if (both.mask.bind_) check(in, shape, dim, both.mask, both.meaning);
  } else {
    check(in, shape, dim, one.mask, one.meaning);
  }
  return 0;
}
