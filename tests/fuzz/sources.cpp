// Sources of keys and values that a program holds itself: lengths, tables of pages, rings, lists of tokens, legal or
// not, in numbers of two widths. What they hand out, and attention over it.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/parts/kv/gathered.hpp>
#include <fovea/parts/kv/paged.hpp>
#include <fovea/parts/kv/ring.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <functional>
#include <optional>
#include <variant>

#include "fuzz/support/attention.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

using Half = Eigen::bfloat16;
using Plain = kv::Contiguous<float, Half>;
using Pages = kv::Paged<float, Half, int, Index>;
using Rings = kv::Ring<float, Half, Index>;
using Listed = kv::Gathered<Plain, int, Index>;
using ListedPages = kv::Gathered<Pages, int, Index>;

// Any of them: one engine for all.
struct AnySource {
  std::variant<Plain, Pages, Rings, Listed, ListedPages> of;

  template <class F>
  auto ask(F&& f) const {
    return std::visit(f, of);
  }
  Index length(Index b) const {
    return ask([&](const auto& s) { return s.length(b); });
  }
  Index longest() const {
    return ask([](const auto& s) { return s.longest(); });
  }
  Index batch() const {
    return ask([](const auto& s) { return s.batch(); });
  }
  Index kv_heads() const {
    return ask([](const auto& s) { return s.kv_heads(); });
  }
  Index key_dim() const {
    return ask([](const auto& s) { return s.key_dim(); });
  }
  Index value_dim() const {
    return ask([](const auto& s) { return s.value_dim(); });
  }
  template <class F>
  void each_keys(Index b, Index h, Span tokens, F&& f) const {
    ask([&](const auto& s) { s.each_keys(b, h, tokens, f); });
  }
  template <class F>
  void each_values(Index b, Index h, Span tokens, F&& f) const {
    ask([&](const auto& s) { s.each_values(b, h, tokens, f); });
  }
  template <class T>
  Index scratch_size(Index rows) const {
    return ask([&](const auto& s) { return s.template scratch_size<T>(rows); });
  }
};

// Token t of kv head g of sequence b stands at these places of arrays [.., G, length, dim].
struct At {
  Index batch, slot;
};

struct Held {
  std::optional<AnySource> source{};
  bool legal = true;
  std::function<Index(Index b)> length{};
  std::function<At(Index b, Index g, Index t)> at{};
};

template <class I>
std::vector<I> numbers(Input& in, Index count, Index least, Index most) {
  std::vector<I> x(std::size_t(std::max<Index>(count, 0)));
  Random random(in.between(0, 255));
  for (I& n : x) n = I(least + random.below(std::max<Index>(most - least + 1, 1)));
  if (!x.empty() && in.one_in(6)) x[std::size_t(in.between(0, count - 1))] = I(in.between(least - 2, most + 2));
  x.shrink_to_fit();
  return x;
}

template <class I>
bool all_within(const std::vector<I>& x, Index least, Index most) {
  return std::all_of(x.begin(), x.end(), [&](I n) { return Index(n) >= least && Index(n) <= most; });
}

// Memory that sources point to.
struct Memory {
  Array<float> k{};
  Array<Half> v{};
  std::vector<Index> lengths{}, counts{};
  std::vector<int> table{}, list{};
};

Array<Half> halfs(Input& in, const Extents& e) {
  auto array = array_of<float>(in, e);
  Array<Half> x{std::vector<Half>(array.memory.begin(), array.memory.end()), {}};
  const View<float>& f = array.view;
  x.view = {x.memory.data() + (f.data - array.memory.data()),
            f.batch,
            f.heads,
            f.length,
            f.dim,
            f.batch_stride,
            f.head_stride,
            f.length_stride};
  return x;
}

Held plain(Input& in, Memory& m) {
  const Index slots = m.k.view.length, batch = m.k.view.batch;
  if (in.flag()) m.lengths = numbers<Index>(in, in.one_in(8) ? in.between(0, 3) : batch, 0, slots);
  Held held;
  held.legal = m.lengths.empty() || (Index(m.lengths.size()) == batch && all_within(m.lengths, 0, slots));
  held.length = [&m, slots](Index b) { return m.lengths.empty() ? slots : m.lengths[std::size_t(b)]; };
  held.at = [](Index b, Index, Index t) { return At{b, t}; };
  require(refused([&] { held.source = {kv::contiguous(m.k.view, m.v.view, m.lengths)}; }) == !held.legal,
          "lengths of arrays");
  return held;
}

Held pages(Input& in, Memory& m) {
  const Index page = m.k.view.length, count = m.k.view.batch, sequences = in.between(0, 3);
  const Index columns = in.between(0, 6);
  m.table = numbers<int>(in, sequences * columns + (in.one_in(8) ? in.between(0, 2) : 0), 0, count - 1);
  m.lengths = numbers<Index>(in, sequences, 0, columns * page);
  Held held;
  const auto entries = Index(m.table.size());
  held.legal = page > 0 && (sequences == 0 || entries % sequences == 0);
  for (Index b = 0; b < sequences && held.legal; ++b) {
    const Index length = m.lengths[std::size_t(b)], wanted = (length + page - 1) / page, most = entries / sequences;
    held.legal = length >= 0 && wanted <= most;
    for (Index p = 0; p < wanted && held.legal; ++p) {
      const int number = m.table[std::size_t(b * most + p)];
      held.legal = number >= 0 && number < count;
    }
  }
  held.length = [&m](Index b) { return m.lengths[std::size_t(b)]; };
  held.at = [&m, page, sequences](Index b, Index, Index t) {
    const Index most = Index(m.table.size()) / sequences;
    return At{m.table[std::size_t(b * most + t / page)], t % page};
  };
  require(refused([&] { held.source = {kv::paged(m.k.view, m.v.view, m.table, m.lengths)}; }) == !held.legal,
          "a table of pages");
  return held;
}

Held rings(Input& in, Memory& m) {
  const Index slots = m.k.view.length, batch = m.k.view.batch, pinned = in.between(-1, slots + 1);
  m.lengths = numbers<Index>(in, in.one_in(8) ? in.between(0, 3) : batch, 0, 3 * slots);
  Held held;
  held.legal = pinned >= 0 && pinned < slots && Index(m.lengths.size()) == batch &&
               all_within(m.lengths, 0, std::numeric_limits<Index>::max());
  held.length = [&m, slots](Index b) { return std::min(m.lengths[std::size_t(b)], slots); };
  // The tokens that are left: the pinned ones, and the last ones of those that came after them.
  held.at = [&m, slots, pinned](Index b, Index, Index t) {
    const Index ring = slots - pinned, left_out = std::max<Index>(m.lengths[std::size_t(b)] - slots, 0);
    return At{b, t < pinned ? t : pinned + (t - pinned + left_out) % ring};
  };
  require(refused([&] { held.source = {kv::ring(m.k.view, m.v.view, pinned, m.lengths)}; }) == !held.legal, "a ring");
  return held;
}

// Lists of tokens of one of the others, the same for all sequences and heads.
Held listed(Input& in, Memory& m, const Held& from) {
  const Index batch = from.source->batch();
  Index most = 60;
  for (Index b = 0; b < batch; ++b) most = std::min(most, from.length(b));
  const Index count = in.between(0, in.one_in(4) ? 200 : 20);
  if (in.flag()) {  // neighbours
    const Index first = in.between(0, std::max<Index>(most - 1, 0));
    for (Index j = 0; j < count; ++j) m.list.push_back(int(first + j));
  } else {
    m.list = numbers<int>(in, count, 0, most - 1);
    if (in.flag()) std::sort(m.list.begin(), m.list.end());
  }
  m.list.shrink_to_fit();
  m.counts = numbers<Index>(in, in.one_in(8) ? in.between(0, 3) : batch, 0, count);
  Held held;
  held.legal = Index(m.counts.size()) == batch && all_within(m.counts, 0, Index(m.list.size()));
  for (Index b = 0; b < batch && held.legal; ++b) {
    for (Index j = 0; j < m.counts[std::size_t(b)]; ++j)
      held.legal = held.legal && m.list[std::size_t(j)] >= 0 && m.list[std::size_t(j)] < from.length(b);
  }
  held.length = [&m](Index b) { return m.counts[std::size_t(b)]; };
  held.at = [&m, from](Index b, Index g, Index t) { return from.at(b, g, m.list[std::size_t(t)]); };
  const bool refusal = refused([&] {
    if (const auto* arrays = std::get_if<Plain>(&from.source->of)) {
      held.source = {kv::gathered(*arrays, m.list, m.counts)};
    } else if (const auto* paged = std::get_if<Pages>(&from.source->of)) {
      held.source = {kv::gathered(*paged, m.list, m.counts)};
    }
  });
  require(refusal == !held.legal, "lists of tokens");
  return held;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const Index kv_heads = in.between(1, 2), group = in.between(1, 2);
  const Index outer = in.between(0, 5), slots = in.between(0, in.one_in(4) ? 90 : 20);
  const Index dim = in.between(1, in.one_in(4) ? 40 : 9), width = in.between(0, in.one_in(4) ? 40 : 9);
  Memory m;
  m.k = array_of<float>(in, {outer, kv_heads, slots, dim});
  const bool fits = !in.one_in(12);
  m.v = halfs(in, fits ? Extents{outer, kv_heads, slots, width} : Extents{outer, kv_heads, slots + 1, width});
  if (!fits) {
    std::vector<Index> none;
    require(refused([&] { kv::contiguous(m.k.view, m.v.view); }) &&
                refused([&] { kv::paged(m.k.view, m.v.view, m.table, none); }) &&
                refused([&] { kv::ring(m.k.view, m.v.view, 0, Index{0}); }),
            "values that do not fit the keys");
    return 0;
  }

  const Index which = in.between(0, 2);
  Held held = which == 0 ? plain(in, m) : which == 1 ? pages(in, m) : rings(in, m);
  if (!held.source) return 0;
  if (which < 2 && in.flag()) held = listed(in, m, held);
  if (!held.source) return 0;
  const AnySource& source = *held.source;
  static_assert(kv::Source<AnySource>);

  // What it hands out.
  std::vector<Tokens> tokens;
  for (Index b = 0; b < source.batch(); ++b) {
    require(source.length(b) == held.length(b), "a length is ", source.length(b), ", wanted ", held.length(b));
    tokens.push_back(tokens_of(source, b));
    for (Index g = 0; g < kv_heads; ++g) {
      for (Index t = 0; t < held.length(b); ++t) {
        const At at = held.at(b, g, t);
        for (Index d = 0; d < dim; ++d)
          require(tokens.back().key(g, t)[d] == double(m.k.view.row(at.batch, g, at.slot)[d]), "a key of token ", t);
        for (Index e = 0; e < width; ++e)
          require(tokens.back().value(g, t)[e] == double(m.v.view.row(at.batch, g, at.slot)[e]), "a value of token ",
                  t);
      }
    }
  }

  const Index queries = in.between(0, in.one_in(4) ? 40 : 9), heads = kv_heads * group;
  const auto q = array_of<float>(in, {source.batch(), heads, queries, dim});
  auto out = blank_array<float>(in, {source.batch(), heads, queries, width});
  auto log_sum = blank_array<float>(in, {source.batch(), heads, queries, 1});
  auto recipe = softmax(1.0).mask(mask::causal());
  recipe.tiles_only = in.flag();
  const auto run = [&](const Workers& executor) {
    attend(q.view, source, with_log_sum(out.view, log_sum.view), recipe, executor);
  };
  require(!refused([&] { run(workers(in)); }), "a legal source is refused");
  const auto first = out.memory, first_sums = log_sum.memory;
  run(workers(in));
  require(same_bits(first, out.memory) && same_bits(first_sums, log_sum.memory), "bits depend on the workers");
  check_attention<float>(
      {q.view, out.view, log_sum.view, 1.0}, [&](Index b) -> const Tokens& { return tokens[std::size_t(b)]; },
      [&](const Site& at) { return at.key <= at.query + held.length(at.batch) - queries; });
  return 0;
}
