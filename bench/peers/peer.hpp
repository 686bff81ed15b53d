// What every peer program shares: the case on the command line, the inputs, the check, the clock, the line printed.
//
//   peer_NAME MODE:B,H,G,N,M,D THREADS SECONDS
//
// MODE is full, causal (query i sees the keys j <= i + M - N) or decode (N = 1, all keys), float throughout; decodef16,
// decodebf16, decodeq8 or decodeq4, where keys and values are stored as halfs, as bfloat16 or in codes of 8 or 4 bits
// of each library's own making; windowW, causal with the W latest keys only, its own included; or a rule of linear
// attention with N = M: linear, delta, gated and gdelta (gated delta) with a gate for each token, gatedk and gdeltak
// with one for each channel of the keys. Those go on from a state of zeros. Each variant that can do the case prints
// one JSON line. Its first call is checked, the others are timed.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace peer {

using Index = std::int64_t;

struct Case {
  char mode[12] = {};
  long long B = 0, H = 0, G = 0, N = 0, M = 0, D = 0;  // batch, heads, kv heads, queries, keys, head width
  int threads = 1;
  double seconds = 0.3;

  Index window() const { return mode[0] == 'w' ? std::atoll(mode + 6) : 0; }
  bool causal() const { return mode[0] == 'c' || mode[0] == 'w'; }
  bool linear() const { return mode[0] == 'l' || mode[0] == 'g' || delta(); }
  bool delta() const { return std::strstr(mode, "delta") != nullptr; }
  bool gated() const { return mode[0] == 'g'; }
  bool by_channel() const { return gated() && mode[std::strlen(mode) - 1] == 'k'; }
  bool stored_as(const char* type) const {
    return std::strncmp(mode, "decode", 6) == 0 && std::strcmp(mode + 6, type) == 0;
  }
  Index group() const { return H / G; }
  Index visible(Index query) const { return causal() ? std::clamp<Index>(query + 1 + M - N, 0, M) : M; }
  Index first(Index query) const { return window() > 0 ? std::max<Index>(visible(query) - window(), 0) : 0; }
  bool sees(Index query, Index key) const { return first(query) <= key && key < visible(query); }
  float scale() const { return 1 / std::sqrt(static_cast<float>(D)); }
};

inline Case parse(int argc, char** argv) {
  Case c;
  if (argc != 4 || std::sscanf(argv[1], "%11[a-z0-9]:%lld,%lld,%lld,%lld,%lld,%lld", c.mode, &c.B, &c.H, &c.G, &c.N,
                               &c.M, &c.D) != 7) {
    std::fprintf(stderr, "usage: %s MODE:B,H,G,N,M,D THREADS SECONDS\n", argv[0]);
    std::exit(2);
  }
  c.threads = std::atoi(argv[2]);
  c.seconds = std::atof(argv[3]);
  return c;
}

// Zeroed memory on a page boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(Index size) : size_(size) {
    const std::size_t bytes = (static_cast<std::size_t>(size) * sizeof(T) / 4096 + 1) * 4096;
    data_.reset(static_cast<T*>(std::aligned_alloc(4096, bytes)));
    std::fill_n(data_.get(), size, T{});
  }
  T* data() const { return data_.get(); }
  Index size() const { return size_; }
  T& operator[](Index i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  Index size_;
};

// Contiguous q [B, H, N, D], k and v [B, G, M, D], standard normal; the same million values again and again. For a
// linear rule keys of length one, strengths beta [B, G, N] in (0, 1) and log decays gate [B, G, N] or [B, G, N, D].
struct Inputs {
  explicit Inputs(const Case& c)
      : q(c.B * c.H * c.N * c.D),
        k(c.B * c.G * c.M * c.D),
        v(c.B * c.G * c.M * c.D),
        beta(c.linear() ? c.B * c.G * c.N : 0),
        gate(c.gated() ? c.B * c.G * c.N * (c.by_channel() ? c.D : 1) : 0) {
    constexpr Index period = 1000003;  // prime, so that no two rows are alike
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto* x : {&q, &k, &v}) {
      const Index fresh = std::min(x->size(), period);
      std::generate_n(x->data(), fresh, [&] { return normal(random); });
      for (Index i = fresh; i < x->size(); ++i) (*x)[i] = (*x)[i - period];
    }
    if (!c.linear()) return;
    for (Index row = 0; row < c.B * c.G * c.M; ++row) {
      float* const key = k.data() + row * c.D;
      float square = 0;
      for (Index d = 0; d < c.D; ++d) square += key[d] * key[d];
      for (Index d = 0; d < c.D; ++d) key[d] /= std::sqrt(square);
    }
    const auto sigmoid = [](float x) { return 1 / (1 + std::exp(-x)); };
    for (Index i = 0; i < beta.size(); ++i) beta[i] = sigmoid(normal(random));
    for (Index i = 0; i < gate.size(); ++i) gate[i] = std::log(sigmoid(normal(random))) / 16;
  }
  Buffer<float> q, k, v, beta, gate;
};

// out[b, n, h, d] = in[b, h, n, d]
inline void heads_inside(const float* in, float* out, Index batch, Index heads, Index length, Index dim) {
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index n = 0; n < length; ++n)
        std::copy_n(in + ((b * heads + h) * length + n) * dim, dim, out + ((b * length + n) * heads + h) * dim);
}

// Where element (b, h, n) of an output starts, for [B, H, N, D] and for [B, N, H, D].
inline auto heads_outside_rows(const Case& c, const float* out) {
  return [&c, out](Index b, Index h, Index n) { return out + ((b * c.H + h) * c.N + n) * c.D; };
}
inline auto heads_inside_rows(const Case& c, const float* out) {
  return [&c, out](Index b, Index h, Index n) { return out + ((b * c.N + n) * c.H + h) * c.D; };
}

// Largest distance to softmax(scale q k^T) v in double, over up to 16 rows of every head, the first and last included;
// infinity when any output is not finite.
template <class Rows>
double error(const Case& c, const Inputs& in, const Rows& rows) {
  double worst = 0;
  std::vector<double> weight(c.M), sum(c.D);
  const Index samples = std::min<Index>(c.N, 16);
  for (Index b = 0; b < c.B; ++b)
    for (Index h = 0; h < c.H; ++h) {
      for (Index n = 0; n < c.N; ++n)
        if (!std::all_of(rows(b, h, n), rows(b, h, n) + c.D, [](float x) { return std::isfinite(x); }))
          return std::numeric_limits<double>::infinity();
      for (Index sample = 0; sample < samples; ++sample) {
        const Index n = samples == 1 ? 0 : sample * (c.N - 1) / (samples - 1);
        const Index first = c.first(n), keys = c.visible(n);
        const float* q = in.q.data() + ((b * c.H + h) * c.N + n) * c.D;
        const float* k = in.k.data() + (b * c.G + h / c.group()) * c.M * c.D;
        const float* v = in.v.data() + (b * c.G + h / c.group()) * c.M * c.D;
        double max = -std::numeric_limits<double>::infinity(), total = 0;
        for (Index j = first; j < keys; ++j) {
          double dot = 0;
          for (Index d = 0; d < c.D; ++d) dot += static_cast<double>(q[d]) * k[j * c.D + d];
          weight[j] = dot / std::sqrt(static_cast<double>(c.D));
          max = std::max(max, weight[j]);
        }
        std::fill(sum.begin(), sum.end(), 0.0);
        for (Index j = first; j < keys; ++j) {
          const double w = std::exp(weight[j] - max);
          total += w;
          for (Index d = 0; d < c.D; ++d) sum[d] += w * v[j * c.D + d];
        }
        for (Index d = 0; d < c.D; ++d)
          worst = std::max(worst, std::fabs((keys > 0 ? sum[d] / total : 0) - rows(b, h, n)[d]));
      }
    }
  return worst;
}

// The same against the recurrence of a linear rule in double, for the first and the last head.
template <class Rows>
double linear_error(const Case& c, const Rows& rows) {
  const Inputs in(c);  // as they were
  double worst = 0;
  const Index samples = std::min<Index>(c.N, 16);
  for (const Index bh : {Index{0}, Index{c.B * c.H - 1}}) {
    const Index b = bh / c.H, h = bh % c.H, kv = b * c.G + h / c.group();
    std::vector<double> state(c.D * c.D), predicted(c.D);
    for (Index n = 0; n < c.N; ++n) {
      const float *q = in.q.data() + (bh * c.N + n) * c.D, *k = in.k.data() + (kv * c.M + n) * c.D;
      const float *v = in.v.data() + (kv * c.M + n) * c.D, *out = rows(b, h, n);
      if (!std::all_of(out, out + c.D, [](float x) { return std::isfinite(x); }))
        return std::numeric_limits<double>::infinity();
      std::fill(predicted.begin(), predicted.end(), 0.0);
      for (Index d = 0; d < c.D; ++d) {
        const double decay =
            c.gated() ? std::exp(double(in.gate[c.by_channel() ? (kv * c.N + n) * c.D + d : kv * c.N + n])) : 1;
        for (Index e = 0; e < c.D; ++e) predicted[e] += k[d] * (state[d * c.D + e] *= decay);
      }
      for (Index e = 0; e < c.D; ++e) predicted[e] = c.delta() ? in.beta[kv * c.N + n] * (v[e] - predicted[e]) : v[e];
      for (Index d = 0; d < c.D; ++d)
        for (Index e = 0; e < c.D; ++e) state[d * c.D + e] += k[d] * predicted[e];
      if (samples < c.N && n * (samples - 1) % (c.N - 1) >= samples - 1) continue;
      for (Index e = 0; e < c.D; ++e) {
        double sum = 0;
        for (Index d = 0; d < c.D; ++d) sum += q[d] * state[d * c.D + e];
        worst = std::max(worst, std::fabs(sum / std::sqrt(double(c.D)) - out[e]));
      }
    }
  }
  return worst;
}

// Calls until the time is spent, twice at least. A call during which other programs took the core often is set aside,
// and counts only where there is no other.
template <class Call>
std::vector<double> times(const Case& c, const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  const auto preemptions = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
  };
  std::vector<double> clean, disturbed;
  const auto start = Clock::now();
  while (clean.size() + disturbed.size() < 2 || seconds_since(start) < c.seconds) {
    const auto before = preemptions();
    const auto begin = Clock::now();
    call();
    const double taken = seconds_since(begin);
    (preemptions() - before <= 10 * taken ? clean : disturbed).push_back(taken);
  }
  auto& kept = clean.empty() ? disturbed : clean;
  std::sort(kept.begin(), kept.end());
  return std::move(kept);
}

// Calls, checks rows(b, h, n) -> float[D], times, prints.
template <class Call, class Rows>
void report(const char* name, const Case& c, const Inputs& in, const Call& call, const Rows& rows) {
  call();
  const double wrong = c.linear() ? linear_error(c, rows) : error(c, in, rows);
  const auto taken = times(c, call);
  std::printf(
      "{\"peer\": \"%s\", \"mode\": \"%s\", \"B\": %lld, \"H\": %lld, \"G\": %lld, \"N\": %lld, \"M\": %lld, "
      "\"D\": %lld, \"threads\": %d, \"median_s\": %.4e, \"best_s\": %.4e, \"error\": %.2e}\n",
      name, c.mode, c.B, c.H, c.G, c.N, c.M, c.D, c.threads, taken[taken.size() / 2], taken[0],
      std::isfinite(wrong) ? wrong : 1e300);
  std::fflush(stdout);
}

// A variant that throws is left out; the others still run.
template <class Variant>
void attempt(const char* name, const Variant& variant) {
  try {
    variant();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", name, e.what());
  }
}

}  // namespace peer
