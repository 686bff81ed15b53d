// Kernelised linear attention: all keys at once, in chunks or token by token, cut anywhere with the state passed on,
// legal or not, against weights row by row.
#include <fovea/linear/linear.hpp>
#include <fovea/parts/feature/exp.hpp>
#include <fovea/parts/feature/relu.hpp>
#include <type_traits>

#include "fuzz/support/input.hpp"
#include "fuzz/support/matrix.hpp"
#include "linear/linear.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

enum class Form { full, chunk, recurrent };
enum class Map { elu_plus_one, relu, exp };

template <Map map>
auto phi() {
  if constexpr (map == Map::elu_plus_one) {
    return feature::elu_plus_one();
  } else if constexpr (map == Map::relu) {
    return feature::relu();
  } else {
    return feature::exp();
  }
}

// Tokens [first, last) of an array.
template <class T>
View<T> part(View<T> x, Index first, Index last) {
  if (x.batch > 0 && x.heads > 0 && x.dim > 0 && x.length > 0) x.data = x.row(0, 0, std::min(first, x.length - 1));
  x.length = last - first;
  return x;
}

template <Map map, class T>
void kernelised(Input& in) {
  using Real = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  using State = std::conditional_t<map == Map::exp, ShiftedState<T>, MatrixState<T>>;
  const Index batch = in.between(0, 2), kv_heads = in.between(1, 2), heads = kv_heads * in.between(1, 2);
  const Form form = Form(in.between(0, 2));
  const Index queries = in.between(0, in.one_in(4) ? 150 : 20);
  const Index keys = in.flag() ? queries : in.between(0, in.one_in(8) ? 700 : 30);
  const Index dim = in.between(1, in.one_in(4) ? 40 : 9), width = in.between(0, in.one_in(4) ? 40 : 9);

  LinearOptions options;
  options.normalizer = in.one_of(
      std::array{LinearNormalizer::sum_eps, LinearNormalizer::clamp, LinearNormalizer::none, LinearNormalizer::k_norm});
  if (in.flag()) options.epsilon = in.one_of(std::array{0.0, 1e-3, 1.0});
  if (in.flag()) options.scale = in.one_of(std::array{1.0, 0.25, 8.0});
  Index chunk = in.between(1, 90);
  const auto rule = options.normalizer;
  const bool none = rule == LinearNormalizer::none, k_norm = rule == LinearNormalizer::k_norm;
  bool legal = map != Map::exp || !(none || k_norm);
  if (in.one_in(10)) {
    switch (in.between(0, 2)) {
      case 0:
        options.scale = infinity<double>;
        legal = false;
        break;
      case 1:
        options.epsilon = -1.0;
        legal = legal && none;
        break;
      default:
        if (form != Form::chunk) break;
        chunk = in.between(-1, 0);
        legal = false;
    }
  }

  // Exponentials of numbers beyond these would fall out of range.
  const auto array = [&](const Extents& extents) {
    auto x = array_of<T>(in, extents);
    x.each([](T& n) { n = std::clamp(n, T(-12), T(12)); });
    return x;
  };
  const auto q = array({batch, heads, queries, dim}), k = array({batch, kv_heads, keys, dim});
  const auto v = array({batch, kv_heads, keys, width});
  auto out = blank_array<T>(in, {batch, heads, queries, width});

  // Two calls: of equally many first queries and keys, then of what is left; for full calls the first has all queries
  // that see its keys alone.
  const Index cut = queries == keys && form != Form::full ? in.between(0, queries) : 0;
  const auto call = [&](Index first, Index last, State& state, Form how, const Workers& executor) {
    const bool all = cut == 0;
    const auto a = part<const T>(q.view, first, last);
    const auto b = all ? View<const T>(k.view) : part<const T>(k.view, first, last);
    const auto c = all ? View<const T>(v.view) : part<const T>(v.view, first, last);
    auto rows = part<T>(out.view, first, last);
    auto with = with_state(rows, state);
    if (how == Form::full) {
      linear(a, b, c, with, phi<map>(), options, executor);
    } else if (how == Form::chunk) {
      chunk_linear(a, b, c, with, phi<map>(), {options.normalizer, options.epsilon, options.scale, chunk}, executor);
    } else {
      recurrent_linear(a, b, c, with, phi<map>(), options, executor);
    }
  };
  const Form second = in.flag() && legal && form != Form::full ? Form::recurrent : form;
  const auto run = [&](const Workers& executor) {
    State state;
    if (cut > 0) call(0, cut, state, form, executor);
    if (cut == 0 || cut < queries) call(cut, queries, state, cut > 0 ? second : form, executor);
  };
  const bool refusal = refused([&] { run(workers(in)); });
  require(refusal == !legal, legal ? "a legal call is refused" : "an illegal call is not refused");
  if (!legal) return require(out.untouched(), "a refused call has written");
  require(out.untouched_between_rows(), "a call has written between rows");
  const auto before = out.memory;
  run(workers(in));
  require(same_bits(before, out.memory), "bits depend on the workers");

  const bool exponential = map == Map::exp;
  const double u = double(std::numeric_limits<T>::epsilon()) / 2;
  const double epsilon = options.epsilon.value_or(exponential ? 0.0 : 1e-6);
  reference::KernelisedOptions<Real> wanted;
  wanted.causal = form != Form::full;
  wanted.divisor = rule == LinearNormalizer::sum_eps ? reference::Divisor::sum_eps
                   : rule == LinearNormalizer::clamp ? reference::Divisor::clamp
                                                     : reference::Divisor::none;
  // Epsilon as a number of T.
  wanted.epsilon = Real(T(epsilon));
  wanted.scale = Real(T(options.scale.value_or(none || k_norm ? 1 / std::sqrt(double(dim)) : 1)));
  const auto map_row = [&](const reference::RowVector<Real>& x) {
    reference::RowVector<Real> y = map == Map::relu  ? reference::relu<Real>(x)
                                   : map == Map::exp ? x
                                                     : reference::elu_plus_one<Real>(x);
    const Real sum = y.sum() + Real(T(options.epsilon.value_or(1e-4)));
    if (k_norm && sum != 0) y /= sum;
    return y;
  };
  // Features are not negative, so that weights are right up to a relative error: of a feature e^x (x up to 12 from its
  // shift, and that of the keys, and every decay between shifts), of the division of k_norm, and of the chains of sums
  // over features and keys. A value is thus weighed right up to twice that, of the sums and the divisor.
  const double feature = u * (2 * 48 + 8 + (k_norm ? double(dim) + 4 : 0) + (exponential ? 2.0 * double(keys) : 0));
  const double error = 2 * feature + u * (double(dim) + 2 * double(keys) + 16);
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      const Index g = h * kv_heads / heads;
      const auto a = head<Real>(q.view, b, h), c = head<Real>(k.view, b, g), d = head<Real>(v.view, b, g);
      const auto exact_of = [&](const reference::Matrix<Real>& values) {
        return exponential ? reference::kernelised_exponential<Real>(a, c, values, map_row, map_row, 1, 0, wanted)
                           : reference::kernelised<Real>(a, c, values, map_row, map_row, wanted);
      };
      const auto exact = exact_of(d), sizes = exact_of(d.cwiseAbs());
      for (Index i = 0; i < queries; ++i) {
        for (Index e = 0; e < width; ++e) {
          const double got = double(out.view.row(b, h, i)[e]);
          const double allowed = 2.2 * error * double(sizes(i, e)) + 1e-30;
          require(std::fabs(got - double(exact(i, e))) <= allowed, "an output is ", got, ", wanted ",
                  double(exact(i, e)), ", bound ", allowed, ": query ", i, " of ", queries, ", keys ", keys, " head ",
                  h, " channel ", e);
        }
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.between(0, 3)) {
    case 0:
      kernelised<Map::elu_plus_one, double>(in);
      break;
    case 1:
      kernelised<Map::elu_plus_one, float>(in);
      break;
    case 2:
      kernelised<Map::relu, float>(in);
      break;
    default:
      kernelised<Map::exp, float>(in);
  }
  return 0;
}
