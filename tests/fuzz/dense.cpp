// Dense attention: shapes, legal or not, layouts, causal or not, scales, log-sums, special numbers.
#include <fovea/dense/scaled_dot_product.hpp>

#include "fuzz/support/attention.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

template <class T>
void dense(Input& in) {
  const Index group = in.between(1, 3), kv_heads = in.between(0, 2), heads = kv_heads * group;
  const Index batch = in.between(0, 2);
  const auto extent = [&](Index usual, Index rare) { return in.between(0, in.one_in(8) ? rare : usual); };
  const Index queries = extent(12, 70), keys = extent(40, 600), dim = extent(20, 70), width = extent(20, 70);
  const bool sums = in.flag(), special = in.flag();

  Extents q{batch, heads, queries, dim}, k{batch, kv_heads, keys, dim}, v{batch, kv_heads, keys, width};
  Extents o{batch, heads, queries, width}, s{batch, heads, queries, 1};
  if (in.one_in(6)) {  // one extent of one array is another
    Extents& of = *std::array{&q, &k, &v, &o, &s}[std::size_t(in.between(0, 4))];
    Index& one = *std::array{&of.batch, &of.heads, &of.length, &of.dim}[std::size_t(in.between(0, 3))];
    one = in.between(0, 4);
  }
  const auto same_rows = [](const Extents& a, const Extents& b) {
    return a.batch == b.batch && a.heads == b.heads && a.length == b.length;
  };
  ScaledDotProductOptions options;
  options.causal = in.flag();
  options.alignment = in.flag() ? Alignment::top_left : Alignment::bottom_right;
  if (in.flag()) options.scale = in.one_of(std::array{1.0, 0.3, -1.5, 0.0, 40.0, 1e-3, 1e20, infinity<double>});
  const bool legal = k.batch == q.batch && same_rows(k, v) && q.dim > 0 && k.dim == q.dim && same_rows(o, q) &&
                     o.dim == v.dim && (!sums || (same_rows(s, q) && s.dim == 1)) &&
                     (k.heads == 0 ? q.heads == 0 : q.heads % k.heads == 0) && std::isfinite(options.scale.value_or(1));

  const auto x = array_of<T>(in, q, special), y = array_of<T>(in, k, special), z = array_of<T>(in, v, special);
  auto out = blank_array<T>(in, o), log_sum = blank_array<T>(in, s);
  const auto run = [&](const Workers& executor) {
    if (sums) {
      scaled_dot_product(x.view, y.view, z.view, with_log_sum(out.view, log_sum.view), options, executor);
    } else {
      scaled_dot_product(x.view, y.view, z.view, out.view, options, executor);
    }
  };
  const bool refusal = refused([&] { run(workers(in)); });
  require(refusal == !legal, legal ? "a legal call is refused" : "an illegal call is not refused");
  if (!legal) return require(out.untouched() && log_sum.untouched(), "a refused call has written");
  require(out.untouched_between_rows() && log_sum.untouched_between_rows(), "a call has written between rows");
  if (!sums) require(log_sum.untouched(), "log-sums are written that were not asked for");

  // Other workers, the same bits.
  const auto first = out.memory, first_sums = log_sum.memory;
  run(workers(in));
  require(same_bits(first, out.memory) && same_bits(first_sums, log_sum.memory), "bits depend on the workers");

  std::vector<Tokens> tokens;
  for (Index b = 0; b < q.batch; ++b) tokens.push_back(tokens_of(y.view, z.view, b, k.length));
  const Index offset = options.alignment == Alignment::bottom_right ? k.length - q.length : 0;
  check_attention<T>(
      {x.view, out.view, sums ? View<const T>(log_sum.view) : View<const T>{}, scale_of(options.scale, q.dim)},
      [&](Index b) -> const Tokens& { return tokens[std::size_t(b)]; },
      [&](const Site& at) { return !options.causal || at.key <= at.query + offset; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  if (in.flag()) {
    dense<double>(in);
  } else {
    dense<float>(in);
  }
  return 0;
}
