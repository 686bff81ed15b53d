// Score modifiers, several in any order, and sink logits: legal or not, with and without causal, few and many queries.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/bias.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "fuzz/support/attention.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

// Modifiers that are chosen at run time.
template <class T>
struct Some {
  using Bound = std::function<void(T*, Row, Span)>;
  std::vector<std::function<Bound(const char*, const Shape&)>> parts{};

  template <class Part>
  void add(const Part& part) {
    parts.push_back(
        [part](const char* where, const Shape& shape) { return Bound(part.template bind<T>(where, shape)); });
  }
  template <class U>
  auto bind(const char* where, const Shape& shape) const {
    std::vector<Bound> all;
    for (const auto& part : parts) all.push_back(part(where, shape));
    return [all](T* scores, Row row, Span keys) {
      for (const auto& part : all) part(scores, row, keys);
    };
  }
};

// What they are by definition, one after the other.
template <class T>
using Rule = std::function<Changed<Exact<T>>(Changed<Exact<T>>, const Site&)>;

template <class T>
Changed<Exact<T>> plus(const Changed<Exact<T>>& x, Exact<T> more) {
  return {x.score + more, x.size + double(std::fabs(more))};
}

// The numbers of a table; some are -infinity.
template <class T>
Array<T> table_of(Input& in, const Extents& extents) {
  auto table = array_of<T>(in, extents);
  if (in.one_in(4)) {
    Random random(in.between(0, 255));
    table.each([&](T& x) {
      if (random.below(4) == 0) x = -infinity<T>;
    });
  }
  return table;
}

template <class T>
struct Modifiers {
  Some<T> some{};
  std::vector<Rule<T>> rules{};
  std::vector<Array<T>> tables{};  // what some of them read
  bool legal = true;

  void add(Input& in, const Shape& shape) {
    using Real = Exact<T>;
    const Alignment alignment = in.flag() ? Alignment::top_left : Alignment::bottom_right;
    const Index offset = alignment == Alignment::bottom_right ? shape.keys - shape.queries : 0;
    const bool wrong = in.one_in(12);
    switch (in.between(0, 4)) {
      case 0: {
        std::vector<double> slopes;
        for (Index h = 0; h < shape.heads + (wrong ? 1 : 0); ++h) slopes.push_back(double(in.between(0, 16)) / 8);
        some.add(score::alibi(slopes, alignment));
        rules.push_back([=](const auto& x, const Site& at) {
          const Index distance = std::abs(at.query + offset - at.key);
          return plus<T>(x, -Real(slopes[std::size_t(at.head)]) * Real(distance));
        });
        legal = legal && !wrong;
        break;
      }
      case 1: {
        const double cap = in.one_of(std::array{50.0, 1.0, 0.125, 30.0});
        some.add(score::soft_cap(wrong ? -cap : cap));
        rules.push_back([=](const auto& x, const Site&) {
          return Changed<Real>{Real(cap) * std::tanh(x.score / Real(cap)), x.size};
        });
        legal = legal && !wrong;
        break;
      }
      case 2: {
        const auto one_or = [&](Index n) { return in.flag() ? n : 1; };
        const Extents extents{one_or(shape.batch), one_or(shape.heads), one_or(shape.queries),
                              shape.keys + (wrong ? 1 : 0)};
        tables.push_back(table_of<T>(in, extents));
        const View<const T> table = tables.back().view;
        some.add(score::bias(table));
        rules.push_back([table](const auto& x, const Site& at) {
          const auto of = [](Index i, Index extent) { return extent == 1 ? 0 : i; };
          const T* const row =
              table.row(of(at.batch, table.batch), of(at.head, table.heads), of(at.query, table.length));
          return plus<T>(x, Real(row[at.key]));
        });
        legal = legal && !wrong;
        break;
      }
      case 3: {
        tables.push_back(table_of<T>(in, {1, 1, shape.batch, shape.keys + (wrong ? 1 : 0)}));
        const View<const T> table = tables.back().view;
        some.add(score::key_bias(table));
        rules.push_back([table](const auto& x, const Site& at) {
          return plus<T>(x, Real(table.row(0, 0, table.length == 1 ? 0 : at.batch)[at.key]));
        });
        legal = legal && !wrong;
        break;
      }
      default: {
        const Index reach = in.between(0, 20), width = 2 * reach + (wrong ? 2 : 1);
        tables.push_back(table_of<T>(in, {1, 1, in.flag() ? shape.heads : 1, width}));
        const View<const T> table = tables.back().view;
        some.add(score::relative_bias(table, alignment));
        rules.push_back([=](const auto& x, const Site& at) {
          const Index entry = std::clamp<Index>(at.query + offset - at.key + reach, 0, 2 * reach);
          return plus<T>(x, Real(table.row(0, 0, table.length == 1 ? 0 : at.head)[entry]));
        });
        legal = legal && !wrong;
      }
    }
  }
};

template <class T>
void scores(Input& in) {
  const Index group = in.between(1, 3), kv_heads = in.between(1, 2), heads = kv_heads * group;
  const Index batch = in.between(1, 2);
  const auto extent = [&](Index usual, Index rare) { return in.between(1, in.one_in(8) ? rare : usual); };
  const Index queries = extent(12, 70), keys = extent(40, 600), dim = extent(20, 70), width = extent(8, 20);
  const Shape shape = {.batch = batch, .heads = heads, .kv_heads = kv_heads, .queries = queries, .keys = keys};

  Modifiers<T> modifiers;
  for (Index n = in.between(0, 3); n > 0; --n) modifiers.add(in, shape);
  bool legal = modifiers.legal;
  auto recipe =
      softmax(in.one_of(std::array{1.0, 0.3, -1.5, 0.0, 8.0})).score(modifiers.some).mask(mask::causal_if(in.flag()));
  std::vector<double> logits;
  if (in.flag()) {
    for (Index h = in.one_in(12) ? 1 : 0; h < heads; ++h)
      logits.push_back(in.one_of(std::array{0.0, 2.5, -7.0, 1000.0, -infinity<double>}));
    if (in.one_in(12)) logits.assign(std::size_t(heads), infinity<double>);
    recipe = recipe.sink_logits(logits);
    legal = legal && (logits.empty() || (Index(logits.size()) == heads && logits[0] < infinity<double>));
  }
  if (in.flag()) recipe = recipe.as_prefill();

  const auto x = array_of<T>(in, {batch, heads, queries, dim}), y = array_of<T>(in, {batch, kv_heads, keys, dim});
  const auto z = array_of<T>(in, {batch, kv_heads, keys, width});
  auto out = blank_array<T>(in, {batch, heads, queries, width}), sums = blank_array<T>(in, {batch, heads, queries, 1});
  const auto run = [&](const Workers& executor) {
    attend(x.view, y.view, z.view, with_log_sum(out.view, sums.view), recipe, executor);
  };
  const bool refusal = refused([&] { run(workers(in)); });
  require(refusal == !legal, legal ? "a legal call is refused" : "an illegal call is not refused");
  if (!legal) return require(out.untouched() && sums.untouched(), "a refused call has written");
  require(out.untouched_between_rows() && sums.untouched_between_rows(), "a call has written between rows");
  const auto first = out.memory, first_sums = sums.memory;
  run(workers(in));
  require(same_bits(first, out.memory) && same_bits(first_sums, sums.memory), "bits depend on the workers");

  std::vector<Tokens> tokens;
  for (Index b = 0; b < batch; ++b) tokens.push_back(tokens_of(y.view, z.view, b, keys));
  Asked<T> asked{x.view, out.view, sums.view, *recipe.normalizer.scale};
  asked.sink_logits = logits;
  asked.modify = [&](Changed<Exact<T>> s, const Site& at) {
    for (const auto& rule : modifiers.rules) s = rule(s, at);
    return s;
  };
  const bool causal = recipe.visible.hides;
  check_attention<T>(
      asked, [&](Index b) -> const Tokens& { return tokens[std::size_t(b)]; },
      [&](const Site& at) { return !causal || at.key <= at.query + keys - queries; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  if (in.flag()) {
    scores<double>(in);
  } else {
    scores<float>(in);
  }
  return 0;
}
