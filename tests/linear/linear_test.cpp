#include "linear/linear.hpp"

#include <fovea/exec/eigen_device.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/linear/linear.hpp>
#include <fovea/parts/feature/each.hpp>
#include <fovea/parts/feature/exp.hpp>
#include <fovea/parts/feature/relu.hpp>
#include <fovea/parts/feature/softmax.hpp>
#include <fovea/parts/feature/squared_relu.hpp>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "support/kernelised.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::LinearNormalizer;
using fovea::LinearOptions;
namespace feature = fovea::feature;
namespace reference = fovea::reference;

namespace {

// The three forms as calls, so that each is compiled once for a scalar and a map.
enum class Form { full, chunk, recurrent };

template <class Phi = feature::EluPlusOne>
auto form(Form which, const Phi& phi = {}, const LinearOptions& options = {},
          Index chunk = fovea::engine::default_chunk) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    if (which == Form::full) {
      fovea::linear(q, k, v, out, phi, options);
    } else if (which == Form::chunk) {
      fovea::chunk_linear(q, k, v, out, phi, {options.normalizer, options.epsilon, options.scale, chunk});
    } else {
      fovea::recurrent_linear(q, k, v, out, phi, options);
    }
  };
}

// What `which` should give with a map phi(row).
template <class Phi>
auto plain(Form which, const Phi& phi, double epsilon = 1e-6, reference::Divisor divisor = reference::Divisor::sum_eps,
           double scale = 1) {
  return [=](const auto& q, const auto& k, const auto& v, Index, Index) {
    using Real = typename std::decay_t<decltype(q)>::Scalar;
    return reference::kernelised<Real>(
        q, k, v, phi, phi,
        {.causal = which != Form::full, .divisor = divisor, .epsilon = Real(epsilon), .scale = Real(scale)});
  };
}

auto exponential(Form which) {
  return [=](const auto& q, const auto& k, const auto& v, Index, Index) {
    using Real = typename std::decay_t<decltype(q)>::Scalar;
    const auto y = [](const auto& x) { return x; };
    return reference::kernelised_exponential<Real>(q, k, v, y, y, Real(1), Real(0), {.causal = which != Form::full});
  };
}

const auto elu = [](const auto& x) { return reference::elu_plus_one(x); };
constexpr Form forms[] = {Form::full, Form::chunk, Form::recurrent};

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1},     {1, 1, 1, 5, 5, 3, 2},     {2, 4, 2, 70, 70, 33, 15}, {1, 2, 1, 200, 200, 64, 64},
    {1, 3, 3, 17, 90, 24, 40}, {1, 2, 2, 40, 11, 16, 16}, {1, 2, 1, 1, 130, 32, 32},
};

}  // namespace

TEST_CASE("linear attention of four tokens") {
  const auto x = golden_tokens();
  const std::vector<double> full = {2.364885303618, 2.554307399267, 2.463762515605, 2.248736843250},
                            causal = {1.000000000000, 1.555555555556, 2.100000000000, 2.248736843250};
  for (const Form which : forms)
    CHECK(is_golden(output_of(x, form(which, feature::elu_plus_one(), {.epsilon = 0}, 3)),
                    which == Form::full ? full : causal));
}

TEMPLATE_TEST_CASE("linear attention with elu + 1 equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Form which : forms) {
      INFO(s << " form " << int(which));
      CHECK(is_near(output_of(x, form(which, feature::elu_plus_one(), {}, 16)), x, plain(which, elu)));
    }
  }
}

TEST_CASE("linear attention over many keys equals its reference") {
  const auto x = gaussian<float>({1, 2, 1, 30, 1500, 16, 8});
  CHECK(is_near(output_of(x, form(Form::full)), x, plain(Form::full, elu)));
}

TEST_CASE(
    "linear attention with exponential features equals its reference, with exponents beyond the range of e^x too") {
  for (const Sizes& s : shapes) {
    for (const double sharpness : {1.0, 5.0}) {
      auto x = gaussian<float>(s);
      for (Index n = 0; n < x.q.size(); ++n) x.q.data()[n] *= float(sharpness);
      for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] = float(sharpness) * x.k.data()[n] + 200;
      for (const Form which : forms) {
        INFO(s << " form " << int(which) << " sharpness " << sharpness);
        CHECK(is_near(output_of(x, form(which, feature::exp(), {}, 16)), x, exponential(which)));
      }
    }
  }
}

TEST_CASE("linear attention with the other maps equals its reference") {
  const auto x = gaussian<float>({1, 2, 1, 50, 70, 19, 24});
  const auto full = [&](const auto& phi, const auto& model) {
    const auto got = output_of(
        x, [&](const auto& q, const auto& k, const auto& v, auto&& out) { fovea::linear(q, k, v, out, phi); });
    return is_near(got, x, plain(Form::full, model));
  };
  CHECK(full(feature::relu(0.25), [](const auto& r) {
    auto y = reference::relu(r);
    for (auto& t : y) t += typename std::decay_t<decltype(y)>::Scalar(0.25);
    return y;
  }));
  CHECK(full(feature::squared_relu(), [](const auto& r) {
    auto y = reference::relu(r);
    for (auto& t : y) t *= t;
    return y;
  }));
  CHECK(full(feature::softmax(), [](const auto& r) { return reference::softmax_features(r); }));
  CHECK(full(feature::each([](float t) { return t * t + 1; }), [](const auto& r) {
    auto y = r;
    for (auto& t : y) t = t * t + 1;
    return y;
  }));
  CHECK(full(feature::map(2,
                          [](std::span<const float> r, std::span<float> to) {
                            to[0] = r[0] * r[0];
                            to[1] = r[18] * r[18] + 1;
                          }),
             [](const auto& r) {
               auto y = r;
               y.conservativeResize(2);
               y[1] = r[18] * r[18] + 1;
               y[0] = r[0] * r[0];
               return y;
             }));
}

TEST_CASE("every normalizer divides as it says, and scales as it says") {
  using reference::Divisor;
  const auto x = gaussian<float>({1, 4, 2, 60, 60, 16, 16});
  const auto identity = [](const auto& r) { return r; };
  const auto normalized = [](const auto& r) {
    auto y = reference::elu_plus_one(r);
    const auto sum = y.sum() + typename std::decay_t<decltype(y)>::Scalar(1e-4);
    for (auto& t : y) t /= sum;
    return y;
  };
  for (const Form which : forms) {
    INFO(int(which));
    const auto got = [&](const auto& phi, const LinearOptions& options) {
      return output_of(x, form(which, phi, options, 16));
    };
    const auto phi = feature::elu_plus_one();
    CHECK(is_near(got(phi, {.epsilon = 30.0, .scale = 0.5}), x, plain(which, elu, 30, Divisor::sum_eps, 0.5)));
    CHECK(is_near(got(phi, {LinearNormalizer::clamp, 900.0, {}}), x, plain(which, elu, 900, Divisor::clamp)));
    CHECK(is_near(got(phi, {LinearNormalizer::none, {}, {}}), x, plain(which, elu, 0, Divisor::none, 0.25)));
  }
  CHECK(is_near(output_of(x,
                          [](const auto& q, const auto& k, const auto& v, auto&& out) {
                            fovea::linear(q, k, v, out, feature::identity(), {LinearNormalizer::none, {}, {}});
                          }),
                x, plain(Form::full, identity, 0, Divisor::none, 0.25)));
  CHECK(is_near(output_of(x, form(Form::full, feature::elu_plus_one(), {LinearNormalizer::k_norm, {}, {}})), x,
                plain(Form::full, normalized, 0, Divisor::none, 0.25)));
}

TEST_CASE("constant values stay constant") {
  auto x = gaussian<float>({1, 2, 1, 90, 90, 16, 16});
  x.v.setConstant(3);
  for (const Form which : forms) {
    const auto got = output_of(x, form(which, feature::elu_plus_one(), {.epsilon = 0}));
    for (Index n = 0; n < got.size(); ++n) CHECK(std::abs(got.data()[n] - 3) < 3 * 8 * epsilon<float>);
  }
}

TEST_CASE("the order of the keys does not matter where all are seen") {
  const auto x = gaussian<float>({1, 2, 1, 20, 70, 16, 16});
  auto turned = x;
  for (Index j = 0; j < 70; ++j) {
    std::copy_n(row(x.k, 0, 0, j), 16, row(turned.k, 0, 0, 69 - j));
    std::copy_n(row(x.v, 0, 0, j), 16, row(turned.v, 0, 0, 69 - j));
  }
  CHECK(is_near(output_of(x, form(Form::full)), output_of(turned, form(Form::full)), 16));
}

TEST_CASE("the chunk does not matter, and chunks equal the recurrence") {
  const auto x = gaussian<float>({1, 4, 2, 50, 50, 16, 24});
  const auto token_by_token = output_of(x, form(Form::recurrent));
  const auto exponential_by_token = output_of(x, form(Form::recurrent, feature::exp()));
  for (const Index chunk : {1, 2, 3, 50, 55}) {
    INFO(chunk);
    CHECK(is_near(output_of(x, form(Form::chunk, feature::elu_plus_one(), {}, chunk)), token_by_token, 16));
    CHECK(is_near(output_of(x, form(Form::chunk, feature::exp(), {}, chunk)), exponential_by_token, 16));
  }
}

TEST_CASE("later tokens do not change a bit of earlier rows") {
  const auto x = gaussian<float>({1, 4, 2, 100, 100, 16, 16});
  const auto both = [&](const auto& phi) {
    const auto all = output_of(x, form(Form::chunk, phi)), by_token = output_of(x, form(Form::recurrent, phi));
    for (const Index n : {1, 40, 64, 99}) {
      INFO(n);
      CHECK(same_bits(output_of(tokens(x, 0, n), form(Form::chunk, phi)), tokens(all, 0, n)));
      CHECK(same_bits(output_of(tokens(x, 0, n), form(Form::recurrent, phi)), tokens(by_token, 0, n)));
    }
  };
  both(feature::elu_plus_one());
  both(feature::exp());
}

namespace {

template <class State, class Phi>
void check_streaming(const Phi& phi) {
  const auto x = gaussian<float>({2, 4, 2, 60, 60, 16, 16});
  const auto all = output_of(x, form(Form::chunk, phi, {}, 16));
  State state;
  auto out = all;
  out.setConstant(not_a_number<float>);
  const auto run = [&](Index first, Index last, Form which) {
    const auto part = tokens(x, first, last);
    const auto got = output_of(part, [&](const auto& q, const auto& k, const auto& v, auto&& o) {
      form(which, phi, {}, 16)(q, k, v, fovea::with_state(o, state));
    });
    for (Index b = 0; b < 2; ++b) {
      for (Index h = 0; h < 4; ++h) std::copy_n(row(got, b, h, 0), (last - first) * 16, row(out, b, h, first));
    }
  };
  run(0, 37, Form::chunk);
  const State kept = state;
  run(37, 38, Form::recurrent);
  run(38, 60, Form::chunk);
  CHECK(is_near(out, all, 16));

  // The state of all tokens, read by a call without keys.
  const auto last = tokens(x, 59, 60);
  const auto got = output_of(last, [&](const auto& q, const auto& k, const auto& v, auto&& o) {
    form(Form::full, phi)(q, tokens(k, 0, 0), tokens(v, 0, 0), fovea::with_state(o, state));
  });
  CHECK(is_near(got, tokens(all, 59, 60), 16));

  // A copy goes on from where it was made.
  state = kept;
  run(37, 60, Form::recurrent);
  CHECK(is_near(out, all, 16));

  // Keys of a state and keys of the call are one set.
  State early;
  const auto begin = tokens(x, 0, 25), end = tokens(x, 25, 60);
  output_of(begin, [&](const auto& q, const auto& k, const auto& v, auto&& o) {
    form(Form::full, phi)(q, k, v, fovea::with_state(o, early));
  });
  const auto rest = output_of(end, [&](const auto& q, const auto& k, const auto& v, auto&& o) {
    form(Form::full, phi)(q, k, v, fovea::with_state(o, early));
  });
  CHECK(is_near(rest, tokens(output_of(x, form(Form::full, phi)), 25, 60), 16));

  // Queries before the first key see the state alone.
  State once = kept, twice = kept;
  const auto longer = output_of(Inputs<float>{x.q, tokens(x.k, 40, 60), tokens(x.v, 40, 60)},
                                [&](const auto& q, const auto& k, const auto& v, auto&& o) {
                                  form(Form::chunk, phi, {}, 16)(q, k, v, fovea::with_state(o, once));
                                });
  const auto before = output_of(Inputs<float>{tokens(x.q, 0, 40), tokens(x.k, 0, 0), tokens(x.v, 0, 0)},
                                [&](const auto& q, const auto& k, const auto& v, auto&& o) {
                                  form(Form::full, phi)(q, k, v, fovea::with_state(o, twice));
                                });
  CHECK(is_near(tokens(longer, 0, 40), before, 16));
}

}  // namespace

TEST_CASE("a state goes on where the last call ended") {
  check_streaming<fovea::MatrixState<float>>(feature::elu_plus_one());
}
TEST_CASE("a state with a shift goes on where the last call ended") {
  check_streaming<fovea::ShiftedState<float>>(feature::exp());
}

TEST_CASE("queries that see no weight get zeros") {
  auto x = gaussian<float>({1, 2, 1, 20, 12, 8, 8});
  for (const Form which : {Form::chunk, Form::recurrent}) {
    for (const auto& got : {output_of(x, form(which, feature::elu_plus_one(), {.epsilon = 0})),
                            output_of(x, form(which, feature::exp()))}) {
      CHECK(all_zero(row(got, 0, 1, 0), 8 * 8));  // eight queries before the first key
      CHECK(got(0, 1, 8, 0) != 0);
    }
  }
  const Inputs<float> no_keys{x.q, tokens(x.k, 0, 0), tokens(x.v, 0, 0)};
  for (const Form which : forms) {
    const auto got = output_of(no_keys, form(which, feature::elu_plus_one(), {.epsilon = 0}));
    CHECK(all_zero(got.data(), got.size()));
    const auto shifted = output_of(no_keys, form(which, feature::exp()));
    CHECK(all_zero(shifted.data(), shifted.size()));
  }
  x.q.setConstant(-1);
  const auto blind = output_of(x, [](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::linear(q, k, v, out, feature::relu(), {.epsilon = 0});
  });
  CHECK(all_zero(blind.data(), blind.size()));
}

TEST_CASE("NaN and infinity spoil the rows that see them and no other") {
  const auto clean = gaussian<float>({2, 4, 2, 70, 70, 16, 16});
  const auto check_form = [&](const auto& phi, Form which, float bad) {
    INFO("form " << int(which) << " " << bad);
    const auto before = output_of(clean, form(which, phi, {}, 16));
    auto x = clean;
    row(x.k, 1, 0, 23)[5] = bad;
    const auto got = output_of(x, form(which, phi, {}, 16));
    for (Index b = 0; b < 2; ++b) {
      for (Index h = 0; h < 4; ++h) {
        for (Index i = 0; i < 70; ++i) {
          const bool sees = b == 1 && h < 2 && (which == Form::full || i >= 23);
          if (sees) {
            CHECK(std::isnan(row(got, b, h, i)[0]));
          } else {
            CHECK(std::memcmp(row(got, b, h, i), row(before, b, h, i), 16 * sizeof(float)) == 0);
          }
        }
      }
    }
    x = clean;
    row(x.q, 0, 1, 23)[0] = not_a_number<float>;
    const auto query = output_of(x, form(which, phi, {}, 16));
    CHECK(all_nan(row(query, 0, 1, 23), 16));
    CHECK(std::memcmp(row(query, 0, 1, 22), row(before, 0, 1, 22), 16 * sizeof(float)) == 0);
    CHECK(std::memcmp(row(query, 0, 1, 24), row(before, 0, 1, 24), 16 * sizeof(float)) == 0);
  };
  for (const Form which : forms) {
    check_form(feature::elu_plus_one(), which, not_a_number<float>);
    check_form(feature::elu_plus_one(), which, infinity<float>);
    check_form(feature::exp(), which, not_a_number<float>);
    check_form(feature::exp(), which, infinity<float>);
  }
}

TEST_CASE("arrays with other strides give the same bits") {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<float>(s);
    for (const Form which : forms) CHECK(same_bits(output_of(x, form(which)), output_of_bthd(x, form(which))));
  }
}

TEST_CASE("every executor gives the bits of one thread") {
  Eigen::ThreadPool threads(3);
  const Eigen::ThreadPoolDevice device(&threads, 3);
  for (const Sizes& s : {Sizes{1, 2, 1, 300, 300, 33, 20}, Sizes{2, 4, 2, 70, 1500, 16, 16}}) {
    const auto x = gaussian<float>(s);
    const auto check = [&](const auto& executor) {
      INFO(s);
      CHECK(same_bits(output_of(x, form(Form::full)),
                      output_of(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                        fovea::linear(q, k, v, out, feature::elu_plus_one(), {}, executor);
                      })));
      CHECK(same_bits(output_of(x, form(Form::full, feature::exp())),
                      output_of(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                        fovea::linear(q, k, v, out, feature::exp(), {}, executor);
                      })));
      CHECK(same_bits(output_of(x, form(Form::chunk)),
                      output_of(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                        fovea::chunk_linear(q, k, v, out, feature::elu_plus_one(), {}, executor);
                      })));
    };
    check(fovea::exec::Pool(2));
    check(fovea::exec::on(device));
  }
}

TEST_CASE("query heads of a key head equal the same keys repeated, bit for bit") {
  const auto x = gaussian<float>({2, 6, 2, 100, 100, 16, 16});
  Inputs<float> repeated{x.q, Tensor4<float>(2, 6, 100, 16), Tensor4<float>(2, 6, 100, 16)};
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 6; ++h) {
      std::copy_n(row(x.k, b, h / 3, 0), 1600, row(repeated.k, b, h, 0));
      std::copy_n(row(x.v, b, h / 3, 0), 1600, row(repeated.v, b, h, 0));
    }
  }
  for (const Form which : forms) CHECK(same_bits(output_of(x, form(which)), output_of(repeated, form(which))));
}

TEST_CASE("nothing to do is no error") {
  for (const Sizes& s : {Sizes{0, 2, 1, 5, 5, 4, 4}, Sizes{1, 2, 1, 0, 0, 4, 4}, Sizes{1, 2, 1, 0, 7, 4, 4}}) {
    for (const Form which : forms) {
      CHECK_NOTHROW(output_of(gaussian<float>(s), form(which)));
      CHECK_NOTHROW(output_of(gaussian<float>(s), form(which, feature::exp())));
    }
  }
}

TEST_CASE("what is refused, and that output and state are left as they were") {
  const auto x = gaussian<float>({1, 2, 1, 5, 5, 8, 8});
  const auto refusal_of = [&](Form which, const auto& phi, auto& state, const LinearOptions& options = {},
                              Index chunk = 64) {
    const auto kept = state;
    Tensor4<float> out(1, 2, 5, 8);
    out.setConstant(7);
    const std::string text =
        support::refusal([&] { form(which, phi, options, chunk)(x.q, x.k, x.v, fovea::with_state(out, state)); });
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float t) { return t == 7; }));
    if constexpr (requires { state.matrix; }) {
      CHECK(same_state(state.matrix, kept.matrix));
      CHECK(state.shift == kept.shift);
    } else {
      CHECK(same_state(state, kept));
    }
    return text;
  };
  for (const Form which : forms) {
    const std::string name = which == Form::full    ? "fovea::linear: "
                             : which == Form::chunk ? "fovea::chunk_linear: "
                                                    : "fovea::recurrent_linear: ";
    fovea::MatrixState<float> none, wrong(1, 1, 7, 8, true), unsummed(1, 1, 8, 8);
    const auto phi = feature::elu_plus_one();
    CHECK(refusal_of(which, phi, none, {.epsilon = -1}).rfind(name, 0) == 0);
    CHECK(refusal_of(which, phi, none, {.scale = infinity<double>}) == name + "scale must be finite");
    CHECK(refusal_of(which, phi, wrong) ==
          name + "the state must have the shape of the call, wanted [1, 1, 8, 8], got [1, 1, 7, 8]");
    CHECK(refusal_of(which, phi, unsummed) == name + "the state must have a column of sums");
    fovea::ShiftedState<float> shifted, odd;
    odd.shift = {1, 2, 3};
    odd.matrix = fovea::MatrixState<float>(1, 1, 8, 8, true);
    CHECK(refusal_of(which, feature::exp(), shifted, {LinearNormalizer::none, {}, {}}) ==
          name + "exponential features are known up to a factor only: the normalizer must be sum_eps or clamp");
    CHECK(refusal_of(which, feature::exp(), shifted, {LinearNormalizer::k_norm, {}, {}}).rfind(name, 0) == 0);
    CHECK(refusal_of(which, feature::exp(), odd) ==
          name + "the state must have one shift for each batch and head of k, wanted 1, got 3");
  }
  Tensor4<float> out(1, 2, 5, 8);
  CHECK(support::refusal([&] { fovea::linear(x.q, x.k, x.v, out, feature::identity()); }) ==
        "fovea::linear: features that may be negative have no sum to divide by: the normalizer must be none");
  fovea::MatrixState<float> none;
  CHECK(refusal_of(Form::chunk, feature::elu_plus_one(), none, {}, 0) ==
        "fovea::chunk_linear: chunk must be positive, got 0");
}
