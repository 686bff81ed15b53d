// Hierarchically pruned attention against its reference, at its exact limits, and what it refuses.
#include <fovea/exec/pool.hpp>
#include <fovea/hierarchical/hip.hpp>
#include <numeric>

#include "hierarchical/hip.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::HipOptions;
using fovea::HipSearch;
using fovea::Index;
using fovea::Site;

namespace {

// q and k are multiples of 1/8 up to 4, so that scores are exact in any order and selections can be compared.
template <class T>
Inputs<T> grid(const Sizes& s, unsigned seed = 1) {
  auto x = gaussian<T>(s, seed);
  std::mt19937 random(seed);
  for (auto* tensor : {&x.q, &x.k}) {
    for (Index n = 0; n < tensor->size(); ++n) tensor->data()[n] = T(int(random() % 65) - 32) / 8;
  }
  return x;
}

fovea::reference::Hip reference_options(const HipOptions& o) {
  const auto up = [](double x) { return Index(std::ceil(x)); };
  return {o.top_k,
          o.query_block,
          o.key_block,
          o.window,
          o.sink_tokens,
          o.causal,
          o.search == HipSearch::compat_v1,
          o.scale_up,
          o.grid.value_or(up(double(o.top_k) * o.scale_up)),
          o.patches.value_or(up(double(o.top_k) / o.scale_up))};
}

using Kept = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>;

// What the reference keeps, head by head.
template <class T>
std::vector<Kept> reference_selection(const Inputs<T>& x, const HipOptions& options) {
  std::vector<Kept> kept;
  const Sizes s = x.sizes();
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      kept.push_back(fovea::reference::hip_selection<double>(
          head(x.q, b, h).template cast<double>(), head(x.k, b, h * s.kv_heads / s.heads).template cast<double>(),
          reference_options(options)));
    }
  }
  return kept;
}

std::vector<Kept> kept_by(const fovea::mask::SpanTable& table, const Sizes& s) {
  std::vector<Kept> kept;
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      Kept one(table.query_blocks, s.keys);
      one.setConstant(false);
      for (Index a = 0; a < table.query_blocks; ++a) {
        const auto list = table.list(b, h, a);
        for (Index n = list.first; n < list.last; ++n) {
          for (Index j = table.keys(n).first; j < table.keys(n).last; ++j) one(a, j) = true;
        }
      }
      kept.push_back(one);
    }
  }
  return kept;
}

template <class T>
Model<T> model(const Inputs<T>& x, const HipOptions& options) {
  const Sizes s = x.sizes();
  return {.visible = [kept = reference_selection(x, options), s, options](Site at) {
    return kept[std::size_t(at.batch * s.heads + at.head)](at.query / options.query_block, at.key) &&
           (!options.causal || at.key <= at.query + s.keys - s.queries);
  }};
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const HipOptions& options, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::hip(x.q, x.k, x.v, got.both(), options, executor);
  return got;
}

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 1, 1},       {1, 2, 1, 1, 301, 20, 20},   {2, 4, 2, 70, 70, 17, 15},
                                   {1, 2, 2, 45, 333, 64, 33},  {1, 1, 1, 301, 301, 16, 16}, {1, 2, 1, 90, 60, 8, 8},
                                   {1, 1, 1, 100, 1000, 16, 16}};

const std::vector<HipOptions> settings = {
    {.top_k = 32, .query_block = 16, .key_block = 2, .window = 16, .sink_tokens = 4},
    {.top_k = 21, .query_block = 7, .key_block = 3, .window = 5, .sink_tokens = 0},
    {.top_k = 16, .query_block = 1, .key_block = 1, .window = 0, .sink_tokens = 0},
    {.top_k = 64, .query_block = 64, .key_block = 32, .window = 100, .sink_tokens = 40},
    {.top_k = 24, .query_block = 16, .key_block = 4, .window = 16, .sink_tokens = 4, .causal = false}};

}  // namespace

TEMPLATE_TEST_CASE("hip keeps the keys its reference keeps, and is exact over them", "", float, double) {
  using T = TestType;
  for (const Sizes& s : shapes) {
    const auto x = grid<T>(s);
    for (HipOptions options : settings) {
      for (const HipSearch search : {HipSearch::integer_tree, HipSearch::compat_v1}) {
        options.search = search;
        INFO(s << " top_k " << options.top_k << " causal " << options.causal << " compat "
               << (search == HipSearch::compat_v1));
        CHECK(kept_by(fovea::hip_selection(x.q, x.k, options), s) == reference_selection(x, options));
        CHECK(is_exact(attention(x, options), x, model(x, options)));
      }
    }
  }
}

TEST_CASE("grids of the released form that do not double") {
  const Sizes s{1, 1, 1, 200, 700, 8, 8};
  const auto x = grid<float>(s);
  HipOptions options{.top_k = 32, .query_block = 8, .key_block = 2, .window = 20, .sink_tokens = 4};
  options.search = HipSearch::compat_v1;
  for (const double scale_up : {1.5, 3.0, 4.0}) {
    options.scale_up = scale_up;
    options.grid = 50;
    options.patches = 20;
    CHECK(kept_by(fovea::hip_selection(x.q, x.k, options), s) == reference_selection(x, options));
  }
}

TEST_CASE("the hand cases, one query over keys of width one") {
  const auto kept = [](const std::vector<double>& keys, HipOptions options) {
    Matrix<double> k(Index(keys.size()), 1);
    std::copy(keys.begin(), keys.end(), k.data());
    options.query_block = options.key_block = 1;
    options.window = options.sink_tokens = 0;
    const auto table = fovea::hip_selection(Matrix<double>(Matrix<double>::Ones(1, 1)), k, options);
    std::vector<Index> found;
    for (const auto& span : table.spans) {
      for (Index j = span.first; j < span.last; ++j) found.push_back(j);
    }
    return found;
  };
  using List = std::vector<Index>;
  CHECK(kept({5, 0, 0, 0, 0, 0, 9, 0}, {.top_k = 2}) == List{0, 6});
  CHECK(kept({1, 0, 0, 9, 1, 0, 0, 0}, {.top_k = 2}) == List{0, 4});
  CHECK(kept({3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, {.top_k = 3}) == List{4, 5, 8});
  std::vector<double> sevens;
  for (int i = 0; i < 16; ++i) sevens.push_back(7 * i % 16);
  CHECK(kept(sevens, {.top_k = 4}) == List{2, 4, 6, 9});
  HipOptions released{.top_k = 4};
  released.search = HipSearch::compat_v1;
  released.grid = 4;
  released.patches = 2;
  CHECK(kept(sevens, released) == List{4, 5, 6, 7});
}

TEMPLATE_TEST_CASE("with top_k and window reaching all keys it is dense attention", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const bool causal : {false, true}) {
      INFO(s << " causal " << causal);
      const HipOptions options{
          .top_k = std::max<Index>(s.keys - 20, 1), .window = 20, .sink_tokens = 0, .causal = causal};
      CHECK(is_exact(attention(x, options), x,
                     {.visible = [s, causal](Site at) { return !causal || at.key <= at.query + s.keys - s.queries; }}));
    }
  }
}

TEST_CASE("the mass that is kept bounds the error, and the log-sums tell it") {
  const Sizes s{1, 2, 2, 100, 600, 16, 16};
  const auto x = gaussian<double>(s, 3, 2);
  const auto dense = expected<double>(x, {.visible = [&](Site at) { return at.key <= at.query + 500; }});
  double largest = 0;
  for (Index n = 0; n < s.heads * s.keys; ++n) {
    const double* const v = x.v.data() + n * 16;
    largest = std::max(largest, std::sqrt(std::inner_product(v, v + 16, v, 0.0)));
  }
  const auto got = attention(x, {.top_k = 64, .query_block = 8, .window = 32, .sink_tokens = 4});
  for (Index h = 0; h < s.heads; ++h) {
    for (Index i = 0; i < s.queries; ++i) {
      const double kept = double(std::exp(got.log_sum(0, h, i) - dense.log_sum(0, h, i)));
      CHECK(kept > 0);
      CHECK(kept < 1 + 1e-12);
      long double error = 0;
      for (Index e = 0; e < 16; ++e) error += std::pow(got.out(0, h, i, e) - dense.out(0, h, i, e), 2);
      CHECK(double(std::sqrt(error)) <= 2 * (1 - kept) * largest + 1e-12);
    }
  }
}

TEST_CASE("a step of one token is the last row of a block of one") {
  const Sizes s{1, 4, 2, 40, 400, 16, 16};
  const auto x = grid<float>(s);
  const HipOptions options{.top_k = 48, .query_block = 1, .window = 16, .sink_tokens = 4};
  const auto all = attention(x, options);
  auto last = grid<float>({1, 4, 2, 1, 400, 16, 16});
  last.k = x.k;
  last.v = x.v;
  for (Index h = 0; h < 4; ++h) std::copy_n(row(x.q, 0, h, 39), 16, row(last.q, 0, h, 0));
  const auto step = attention(last, options);
  auto wanted = step.out;
  for (Index h = 0; h < 4; ++h) std::copy_n(row(all.out, 0, h, 39), 16, row(wanted, 0, h, 0));
  CHECK(relative_rms(step.out, wanted) < 8 * double(epsilon<float>));
}

TEST_CASE("a selection that was kept gives the same attention") {
  const Sizes s{2, 4, 2, 100, 300, 16, 16};
  const auto x = gaussian<float>(s);
  const HipOptions options{.top_k = 32, .query_block = 16, .window = 16, .sink_tokens = 4};
  const auto kept = fovea::hip_selection(x.q, x.k, options);
  const auto copy = kept;
  auto got = blank<float>(s);
  fovea::attend(x.q, x.k, x.v, got.both(), fovea::softmax().mask(fovea::mask::spans(copy) & fovea::mask::causal()));
  CHECK(same_bits(got, attention(x, options)));
}

TEST_CASE("keys behind a block of queries change nothing, not even as NaN") {
  const Sizes s{1, 1, 1, 64, 600, 16, 16};
  auto x = grid<float>(s);
  for (const HipSearch search : {HipSearch::integer_tree, HipSearch::compat_v1}) {
    const HipOptions options{
        .top_k = 32, .query_block = 16, .window = 0, .sink_tokens = 0, .causal = true, .search = search};
    const auto before = attention(x, options);
    auto y = x;
    for (Index j = 600 - 48; j < 600; ++j) {
      std::fill_n(row(y.k, 0, 0, j), 16, not_a_number<float>);
      std::fill_n(row(y.v, 0, 0, j), 16, not_a_number<float>);
    }
    const auto after = attention(y, options);
    for (Index i = 0; i < 16; ++i) CHECK(same_row(before, after, 0, 0, i));
  }
}

TEST_CASE("hip is the same on any number of threads, and on strided arrays") {
  const Sizes s{2, 4, 2, 130, 300, 16, 16};
  const auto x = gaussian<float>(s);
  const HipOptions options{.top_k = 32, .query_block = 16, .window = 16, .sink_tokens = 4};
  const auto serial = attention(x, options);
  for (const Index threads : {2, 3, 8}) CHECK(same_bits(attention(x, options, fovea::exec::Pool(threads)), serial));
  CHECK(same_bits(serial, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                    fovea::hip(q, k, v, out, options);
                  })));
}

TEST_CASE("sizes beyond everything there is are all of it") {
  const Index huge = std::numeric_limits<Index>::max();
  const auto x = gaussian<float>({1, 1, 1, 30, 50, 8, 8});
  for (const HipSearch search : {HipSearch::integer_tree, HipSearch::compat_v1}) {
    HipOptions options{.top_k = huge, .query_block = huge, .key_block = huge, .window = huge, .sink_tokens = huge};
    options.search = search;
    CHECK(is_exact(attention(x, options), x, {.visible = [](Site at) { return at.key <= at.query + 20; }}));
    options.window = options.sink_tokens = 0;
    options.grid = options.patches = huge;
    CHECK(is_exact(attention(x, options), x, {.visible = [](Site at) { return at.key <= at.query + 20; }}));
  }
}

TEST_CASE("no queries, no keys, and queries before the first key") {
  for (const Sizes& s : {Sizes{1, 2, 1, 0, 10, 4, 4}, Sizes{0, 2, 1, 3, 10, 4, 4}, Sizes{1, 2, 1, 40, 0, 4, 4}}) {
    const auto x = gaussian<float>(s);
    const auto got = attention(x, {.top_k = 4, .query_block = 4});
    CHECK(all_zero(got.out.data(), got.out.size()));
  }
}

TEST_CASE("hip refuses sizes of zero and grids that do not widen, the output untouched") {
  const auto x = gaussian<float>({1, 1, 1, 8, 8, 4, 4});
  const auto released = [](auto set) {
    HipOptions options;
    options.search = HipSearch::compat_v1;
    set(options);
    return options;
  };
  for (const HipOptions& options :
       {HipOptions{.top_k = 0}, HipOptions{.query_block = 0}, HipOptions{.key_block = -1}, HipOptions{.window = -1},
        HipOptions{.sink_tokens = -1}, released([](HipOptions& o) { o.scale_up = 1; }),
        released([](HipOptions& o) { o.scale_up = not_a_number<double>; }), released([](HipOptions& o) { o.grid = 0; }),
        released([](HipOptions& o) { o.patches = 0; }), released([](HipOptions& o) {
          o.scale_up = 1.1;
          o.grid = 3;
        })}) {
    auto out = x.q;
    out.setConstant(7);
    CHECK(support::refusal([&] { fovea::hip(x.q, x.k, x.v, out, options); }).rfind("fovea::hip: ", 0) == 0);
    CHECK(support::refusal([&] { fovea::hip_selection(x.q, x.k, options); }).rfind("fovea::hip_selection: ", 0) == 0);
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; }));
  }
  const auto other = gaussian<float>({1, 3, 2, 8, 8, 5, 4});
  CHECK(support::refusal([&] { fovea::hip_selection(x.q, other.k); }).rfind("fovea::hip_selection: k", 0) == 0);
}
