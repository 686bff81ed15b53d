// Caches that grow, are cut back, forked, moved, cleared, saved and loaded, in any order, against lists of tokens; and
// attention over them.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/cache/rolling_cache.hpp>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <optional>
#include <sstream>

#include "fuzz/support/attention.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

// A token as it was given: keys of all heads, then values.
using Token = std::vector<double>;
using List = std::vector<Token>;

struct Widths {
  Index heads, key_dim, value_dim;
};

struct Given {
  Array<float> k, v;
};

Given tokens(Input& in, const Widths& w, Index count) {
  Given x{array_of<float>(in, {1, w.heads, count, w.key_dim}), array_of<float>(in, {1, w.heads, count, w.value_dim})};
  return x;
}

template <class S>
double stored(float x) {
  if constexpr (kv::PlainTag<S>) {
    return double(static_cast<S>(x));
  } else {
    return double(x);
  }
}

template <class K, class V>
void append_to(List& list, const Given& x) {
  for (Index t = 0; t < x.k.view.length; ++t) {
    Token token;
    for (Index h = 0; h < x.k.view.heads; ++h) {
      for (Index d = 0; d < x.k.view.dim; ++d) token.push_back(stored<K>(x.k.view.row(0, h, t)[d]));
    }
    for (Index h = 0; h < x.v.view.heads; ++h) {
      for (Index d = 0; d < x.v.view.dim; ++d) token.push_back(stored<V>(x.v.view.row(0, h, t)[d]));
    }
    list.push_back(token);
  }
}

// How far a number may be from what was given: codes in groups of `group`, minimum and scale as halfs. Tokens that
// were brought back into full precision as rounded are rounded once more, so twice.
template <class S>
double rounding(double largest) {
  if constexpr (kv::PlainTag<S>) {
    return 0;
  } else {
    const double codes = std::is_same_v<S, kv::Int8> ? 255 : 15;
    return largest * 0.01 + 2 * 1.02 * largest / codes;
  }
}

template <class K, class V>
void check_tokens(const Tokens& got, const List& wanted, double largest, const Widths& w) {
  require(got.length == Index(wanted.size()), "a length is ", got.length, ", wanted ", wanted.size());
  const double of_keys = rounding<K>(largest), of_values = rounding<V>(largest);
  for (Index t = 0; t < got.length; ++t) {
    const double* x = wanted[std::size_t(t)].data();
    for (Index h = 0; h < w.heads; ++h) {
      for (Index d = 0; d < w.key_dim; ++d, ++x)
        require(std::fabs(got.key(h, t)[d] - *x) <= of_keys, "key ", t, " of ", got.length, " channel ", d, " is ",
                got.key(h, t)[d], ", wanted ", *x);
    }
    for (Index h = 0; h < w.heads; ++h) {
      for (Index d = 0; d < w.value_dim; ++d, ++x)
        require(std::fabs(got.value(h, t)[d] - *x) <= of_values, "value ", t, " of ", got.length, " channel ", d,
                " is ", got.value(h, t)[d], ", wanted ", *x);
    }
  }
}

template <class Source>
void check_attended(Input& in, const Source& source, const Widths& w, bool coded) {
  const Index queries = in.between(0, in.one_in(4) ? 20 : 3), heads = w.heads * in.between(1, 2);
  const auto q = array_of<float>(in, {1, heads, queries, w.key_dim});
  auto out = blank_array<float>(in, {1, heads, queries, w.value_dim});
  auto log_sum = blank_array<float>(in, {1, heads, queries, 1});
  attend(q.view, source, with_log_sum(out.view, log_sum.view), softmax(1.0).mask(mask::causal()), workers(in));
  const Tokens x = tokens_of(source, 0);
  check_attention<float>(
      {q.view, out.view, log_sum.view, 1.0, coded}, [&](Index) -> const Tokens& { return x; },
      [&](const Site& at) { return at.key <= at.query + x.length - queries; });
}

// A sequence in pages and the same in one piece: they must hold the same bits, and what the list says.
template <class K, class V>
struct Sequence {
  cache::Paged<K, V> paged;
  cache::Contiguous<K, V> whole;
  List list{};
  double largest = 0;  // of all numbers that tokens of the list may have been rounded beside
};

double largest_of(const List& list) {
  double most = 0;
  for (const Token& token : list) {
    for (const double x : token) most = std::max(most, std::fabs(x));
  }
  return most;
}

template <class K, class V>
std::string file_of(const auto& cache) {
  std::ostringstream file;
  cache.save(file);
  return file.str();
}

template <class K, class V>
void sequences(Input& in) {
  constexpr bool coded = !kv::PlainTag<K>;
  const Widths w{in.between(1, 2), in.between(1, coded ? 20 : 9), in.between(1, coded ? 20 : 9)};
  const kv::Grouping grouping{16, in.flag() ? 16 : 32};
  const bool may_grow = in.flag();
  const Index page = coded ? 32 * in.between(1, 2) : in.between(1, 9), pages = may_grow ? in.between(0, 4) : 12;
  cache::Pool<K, V> pool({.kv_heads = w.heads,
                          .key_dim = w.key_dim,
                          .value_dim = w.value_dim,
                          .page_tokens = page,
                          .pages = pages,
                          .may_grow = may_grow,
                          .grouping = grouping});
  const auto contiguous = [&] {
    return cache::Contiguous<K, V>(
        {.kv_heads = w.heads, .key_dim = w.key_dim, .value_dim = w.value_dim, .grouping = grouping});
  };
  std::vector<Sequence<K, V>> all;
  all.push_back({cache::Paged<K, V>(pool), contiguous()});
  std::string file;  // of the sequence in file_list
  List file_list;
  double file_largest = 0;

  for (int step = 0; step < 40 && !in.at_end(); ++step) {
    Sequence<K, V>& one = all[std::size_t(in.between(0, Index(all.size()) - 1))];
    const Index length = Index(one.list.size());
    const Index free = pool.free_pages(), count = pool.pages();
    switch (in.between(0, 8)) {
      case 0:
      case 1: {  // append
        Index more = in.between(0, in.one_in(4) ? 70 : 9);
        if (length + more > 300) more = 0;
        const auto x = tokens(in, w, more);
        bool storable = true;
        for (const auto* const side : {&x.k, &x.v})
          side->each([&](float number) { storable = storable && (!coded || std::fabs(number) <= 65504); });
        const bool refusal = refused([&] { one.paged.append(x.k.view, x.v.view); });
        require(refusal || storable, "numbers beyond the format are not refused");
        require(!refusal || !may_grow || !storable, "an append is refused although the pool may grow");
        if (refusal) {
          require(pool.free_pages() == free && pool.pages() == count, "a refused append has taken pages");
        } else {
          one.whole.append(x.k.view, x.v.view);
          append_to<K, V>(one.list, x);
          one.largest = std::max(one.largest, largest_of(one.list));
        }
        break;
      }
      case 2: {  // truncate
        const Index left = in.between(-1, length + 1);
        const bool legal = left >= 0 && left <= length;
        require(refused([&] { one.paged.truncate(left); }) == !legal, "truncate(", left, ") of ", length);
        require(refused([&] { one.whole.truncate(left); }) == !legal, "truncate(", left, ") of ", length);
        if (legal) one.list.resize(std::size_t(left));
        break;
      }
      case 3: {  // fork
        if (all.size() == 4) break;
        const Index left = in.flag() ? length : in.between(0, length);
        auto whole = one.whole.fork();
        whole.truncate(left);
        List list(one.list.begin(), one.list.begin() + left);
        auto paged = one.paged.fork(left);
        all.push_back({std::move(paged), std::move(whole), std::move(list), one.largest});
        break;
      }
      case 4:  // the end of a sequence
        if (all.size() > 1) all.erase(all.begin() + (&one - all.data()));
        break;
      case 5:
        one.paged.clear(), one.whole.clear(), one.list.clear();
        one.largest = 0;
        break;
      case 6: {  // save
        file = file_of<K, V>(one.paged);
        require(file == file_of<K, V>(one.whole), "pages and one piece save different files");
        file_list = one.list;
        file_largest = one.largest;
        break;
      }
      case 7: {  // load
        if (file.empty()) break;
        std::istringstream from(file), again(file);
        try {
          one.paged.load(from);
          one.whole.load(again);
          one.list = file_list;
          one.largest = file_largest;
        } catch (const cache::FormatError&) {
          require(!may_grow, "a file is refused although the pool may grow");
          require(pool.free_pages() == free, "a refused file has taken pages");
        }
        break;
      }
      default:
        check_attended(in, one.paged.source(), w, coded);
    }

    // Every sequence is what it was, and the pool counts right.
    Index used = 0;
    std::vector<Index> references(std::size_t(pool.pages()), 0);
    for (const auto& s : all) {
      const Tokens got = tokens_of(s.paged.source(), 0), whole = tokens_of(s.whole.source(), 0);
      require(got.k == whole.k && got.v == whole.v, "pages and one piece hold different numbers");
      check_tokens<K, V>(got, s.list, s.largest, w);
      for (const Index p : s.paged.pages()) ++references[std::size_t(p)];
    }
    for (Index p = 0; p < pool.pages(); ++p) {
      require(pool.references(p) == references[std::size_t(p)], "page ", p, " has ", pool.references(p),
              " references, wanted ", references[std::size_t(p)]);
      used += references[std::size_t(p)] > 0 ? 1 : 0;
    }
    require(used + pool.free_pages() == pool.pages(), "pages are lost");
  }
  all.clear();
  require(pool.free_pages() == pool.pages(), "pages are not given back");
}

void rolling(Input& in) {
  const Widths w{in.between(1, 2), in.between(1, 9), in.between(1, 9)};
  const cache::RollingOptions options{.kv_heads = w.heads,
                                      .key_dim = w.key_dim,
                                      .value_dim = w.value_dim,
                                      .window = in.between(0, 9),
                                      .sink_tokens = in.between(-1, 4),
                                      .spare = in.between(-1, 5)};
  std::optional<cache::Rolling<float>> made;
  const bool legal = options.window > 0 && options.sink_tokens >= 0 && options.spare >= 0;
  require(refused([&] { made.emplace(options); }) == !legal, "options of a rolling cache");
  if (!legal) return;
  cache::Rolling<float> cache(std::move(*made));
  List list;       // all that came
  Index most = 0;  // as many had come before some were taken back
  const Index ring = options.window + options.spare;
  for (int step = 0; step < 40 && !in.at_end(); ++step) {
    const Index length = Index(list.size());
    switch (in.between(0, 5)) {
      case 0:
      case 1: {
        const auto x = tokens(in, w, in.between(0, in.one_in(4) ? 40 : 5));
        cache.append(x.k.view, x.v.view);
        append_to<float, float>(list, x);
        most = std::max(most, Index(list.size()));
        break;
      }
      case 2: {
        const Index left = in.between(-1, length + 1);
        // What comes back must still be there: the first token of the window that would end with `left`.
        const bool there = left <= options.sink_tokens || std::max(options.sink_tokens, left - options.window) >=
                                                              std::max(options.sink_tokens, most - ring);
        const bool fits = left >= 0 && left <= length && there;
        require(refused([&] { cache.truncate(left); }) == !fits, "truncate(", left, ") of ", length, ", at most ",
                most);
        if (!fits) break;
        list.resize(std::size_t(left));
        if (left <= options.sink_tokens) most = left;
        break;
      }
      case 3:
        cache = cache.fork();
        break;
      case 4: {
        auto moved = std::move(cache);
        cache = std::move(moved);
        break;
      }
      default:
        check_attended(in, cache.source(), w, false);
    }
    List left;
    const Index seen = Index(list.size());
    for (Index t = 0; t < seen; ++t) {
      if (t < options.sink_tokens || t >= seen - options.window) left.push_back(list[std::size_t(t)]);
    }
    check_tokens<float, float>(tokens_of(cache.source(), 0), left, largest_of(left), w);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.between(0, 2)) {
    case 0:
      sequences<float, Eigen::bfloat16>(in);
      break;
    case 1:
      sequences<kv::Int8, kv::Int4>(in);
      break;
    default:
      rolling(in);
  }
  return 0;
}
