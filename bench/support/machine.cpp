#include "machine.hpp"

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include <fovea/simd/ops.hpp>

namespace bench {
namespace {

using fovea::Index;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Times that the system took a core away from this process.
long preemptions() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

// Operations per second of about a tenth of a millisecond. Twelve sums hide a latency of up to six at two a cycle.
template <class T>
double arithmetic_slice() {
  using Pack = fovea::simd::Pack<T>;
  constexpr int sums = 12, steps = 40000;
  Pack sum[sums];
  for (int i = 0; i < sums; ++i) sum[i] = Pack(T(i));
  Pack x(T(0.999)), y(T(1e-3));
  benchmark::DoNotOptimize(x);
  benchmark::DoNotOptimize(y);
  const auto start = Clock::now();
  for (int n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < sums; ++i) sum[i] = fovea::simd::fma<T>(sum[i], x, y);
  }
  for (int i = 0; i < sums; ++i) benchmark::DoNotOptimize(sum[i]);
  return 2.0 * double(fovea::simd::lanes<T>) * sums * steps / since(start);
}

// Reads one stretch of memory: four streams, a cache line a step in each, asked for half a page ahead.
void read_all(const char* data, std::size_t size) {
  using Pack = fovea::simd::Pack<float>;
  constexpr std::size_t width = std::size_t(fovea::simd::lanes<float>) * sizeof(float),
                        line = std::max<std::size_t>(width, 64);
  constexpr int streams = 4;
  const std::size_t stretch = size / streams / line * line;
  Pack sum[streams];
  for (Pack& s : sum) s = Pack(0.0f);
  for (std::size_t at = 0; at < stretch; at += line) {
#pragma GCC unroll 4
    for (int s = 0; s < streams; ++s) {
      __builtin_prefetch(data + std::size_t(s) * stretch + at + 2048);
      for (std::size_t part = 0; part < line; part += width) {
        sum[s] =
            sum[s] + fovea::simd::load(reinterpret_cast<const float*>(data + std::size_t(s) * stretch + at + part));
      }
    }
  }
  for (Pack& s : sum) benchmark::DoNotOptimize(s);
}

}  // namespace

Times time_calls(const std::function<void()>& call, double seconds, std::size_t least) {
  std::vector<double> clean, disturbed;
  for (const auto start = Clock::now(); clean.size() + disturbed.size() < least || since(start) < seconds;) {
    const long before = preemptions();
    const auto begin = Clock::now();
    call();
    const double taken = since(begin);
    (double(preemptions() - before) <= 10 * taken ? clean : disturbed).push_back(taken);
  }
  const double share = double(clean.size()) / double(clean.size() + disturbed.size());
  std::vector<double>& kept = clean.empty() ? disturbed : clean;
  std::sort(kept.begin(), kept.end());
  return {std::move(kept), share};
}

template <class T>
double arithmetic_rate(const fovea::exec::Pool& pool, double seconds) {
  const Index threads = pool.concurrency();
  std::vector<double> rate(std::size_t(threads), 0.0);
  pool.parallel_for(threads, 0, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      std::vector<double> slices;
      const auto start = Clock::now();
      while (slices.empty() || since(start) < seconds) slices.push_back(arithmetic_slice<T>());
      const auto middle = slices.begin() + std::ptrdiff_t(slices.size() / 2);
      std::nth_element(slices.begin(), middle, slices.end());
      rate[std::size_t(t)] = *middle;
    }
  });
  double total = 0;
  for (const double r : rate) total += r;
  return total;
}

template double arithmetic_rate<float>(const fovea::exec::Pool&, double);
template double arithmetic_rate<double>(const fovea::exec::Pool&, double);

double read_rate(const fovea::exec::Pool& pool, const std::vector<Bytes>& areas, double seconds) {
  const Index threads = pool.concurrency();
  double total = 0;
  for (const Bytes& area : areas) total += double(area.size);
  const auto pass = [&] {
    pool.parallel_for(threads, 0, [&](Index begin, Index end) {
      for (const Bytes& area : areas) {
        const std::size_t part = area.size / std::size_t(threads);
        for (Index t = begin; t < end; ++t) {
          read_all(static_cast<const char*>(area.data) + std::size_t(t) * part, part);
        }
      }
    });
  };
  pass();
  return total / time_calls(pass, seconds, 2).median();
}

}  // namespace bench
