#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <regex>

#include "machine.hpp"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Method {
  std::string name, type;
  std::vector<Shape> shapes;
  Prepare prepare;
};

std::vector<Method>& methods() {
  static std::vector<Method> list;
  return list;
}

std::vector<std::string>& failed() {
  static std::vector<std::string> names;
  return names;
}

// A line on the standard error that says how far we are: rewritten in place on a terminal, every ten seconds elsewhere.
class Progress {
 public:
  void expect(Index samples) { expected_ += samples; }

  void done(const std::string& name) {
    ++done_;
    if (done_ == 1) first_ = Clock::now();
    const bool terminal = isatty(STDERR_FILENO) != 0, last = done_ == expected_;
    if (!terminal && !last && shown_ && since(last_shown_) < 10) return;
    shown_ = true;
    last_shown_ = Clock::now();
    const double left = done_ < 2 ? 0 : since(first_) / double(done_ - 1) * double(expected_ - done_);
    std::fprintf(stderr, "%s[%lld/%lld]  %d:%02d left  %s%s", terminal ? "\r\033[K" : "", static_cast<long long>(done_),
                 static_cast<long long>(expected_), int(left) / 60, int(left) % 60, name.c_str(),
                 terminal && !last ? "" : "\n");
  }

 private:
  Index expected_ = 0, done_ = 0;
  bool shown_ = false;
  Clock::time_point first_, last_shown_;
};

Progress& progress() {
  static Progress line;
  return line;
}

// What was found out about a bench on its first sample.
struct Known {
  std::optional<Accuracy> accuracy;
  double pairs = 0;
  std::string failure;
};

struct Bench {
  std::string name;
  Shape shape;
  Prepare prepare;
  double sample_seconds;
  std::shared_ptr<Known> known = std::make_shared<Known>();

  void operator()(benchmark::State& state) const {
    for (auto _ : state) {
      try {
        if (!known->failure.empty()) throw std::runtime_error(known->failure);
        sample(state);
      } catch (const std::exception& error) {
        if (known->failure.empty()) {
          known->failure = error.what();
          failed().push_back(name);
          std::fprintf(stderr, "\nfailed: %s: %s\n", name.c_str(), error.what());
        }
        state.SkipWithError(error.what());
        break;
      }
    }
    progress().done(name);
  }

  void sample(benchmark::State& state) const;
};

void Bench::sample(benchmark::State& state) const {
  constexpr double limit_seconds = 0.03;
  const Prepared ready = prepare(shape);
  const auto started = Clock::now();
  ready.call();
  if (since(started) < sample_seconds) ready.call();
  if (!known->accuracy) {
    known->pairs = shape.pairs();
    known->accuracy = ready.check();
    const double tolerance = shape.type == "f64" ? 1e-9 : 1e-4;
    if (!(known->accuracy->error <= tolerance)) {
      throw std::runtime_error("wrong result: relative error " + std::to_string(known->accuracy->error));
    }
  }

  const double kv_bytes = shape.kv_bytes();
  const auto bytes = [&](Index dim) {
    return std::size_t(kv_bytes * double(dim) / double(shape.key_dim + shape.value_dim));
  };
  const std::vector<Bytes> areas = {{ready.keys, bytes(shape.key_dim)}, {ready.values, bytes(shape.value_dim)}};
  double peak = 0, bandwidth = 0;
  const auto measure_limits = [&] {
    peak += 0.5 * (shape.type == "f64" ? arithmetic_rate<double>(*ready.pool, limit_seconds)
                                       : arithmetic_rate<float>(*ready.pool, limit_seconds));
    if (shape.few_queries()) bandwidth += 0.5 * read_rate(*ready.pool, areas, limit_seconds);
  };

  measure_limits();
  const Times times = time_calls(ready.call, sample_seconds);
  measure_limits();

  const double median = times.median();
  state.SetIterationTime(median);

  const double flops = known->pairs * 2 * double(shape.key_dim + shape.value_dim);
  const Accuracy& accuracy = *known->accuracy;
  auto& counters = state.counters;
  counters["tokens"] = benchmark::Counter(double(shape.batch * shape.queries), benchmark::Counter::kIsRate);
  counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  counters["visited"] = shape.all_pairs() > 0 ? known->pairs / shape.all_pairs() : 1;
  counters["peak"] = peak;
  counters["peak_share"] = flops / median / peak;
  if (bandwidth > 0) {
    counters["bytes"] = benchmark::Counter(kv_bytes, benchmark::Counter::kIsRate);
    counters["bandwidth"] = bandwidth;
    counters["bandwidth_share"] = kv_bytes / median / bandwidth;
  }
  counters["calls"] = double(times.calls.size());
  counters["undisturbed"] = times.undisturbed;
  counters["best"] = times.calls.front();
  counters["error"] = accuracy.error;
  counters["naive_error"] = accuracy.naive_error;
  if (accuracy.log_sum_error) counters["log_sum_error"] = *accuracy.log_sum_error;
  if (accuracy.stored_error) counters["stored_error"] = *accuracy.stored_error;
  if (accuracy.stored_log_sum_error) counters["stored_log_sum_error"] = *accuracy.stored_log_sum_error;
  state.SetLabel(shape.table);
}

// A limit as a bench of its own: `rate` becomes the counter, the time is that of one unit of it.
void register_limit(const std::string& name, const Selection& selection, const std::function<double()>& measure) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state) {
                                   const double rate = measure();
                                   state.SetIterationTime(1e9 / rate);
                                   state.counters["rate"] = rate;
                                 }
                                 state.SetLabel("machine");
                                 progress().done(name);
                               })
      ->Iterations(1)
      ->Repetitions(selection.repetitions)
      ->UseManualTime();
}

}  // namespace

bool add_prepared(const std::string& name, const std::string& type, const std::vector<Shape>& shapes, Prepare prepare) {
  Method method{name, type, {}, std::move(prepare)};
  std::copy_if(shapes.begin(), shapes.end(), std::back_inserter(method.shapes),
               [&](const Shape& s) { return s.type == type; });
  methods().push_back(std::move(method));
  return true;
}

Index register_selected(const Selection& selection) {
  const std::regex filter(selection.filter);
  const auto chosen = [&](const std::string& name) {
    return selection.filter.empty() || std::regex_search(name, filter);
  };
  Index count = 0;

  for (const Index threads : selection.threads) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    const auto pool = std::make_shared<fovea::exec::Pool>(threads);
    const auto limit = [&](const std::string& name, const std::function<double()>& measure) {
      if (!chosen(name + suffix)) return;
      register_limit(name + suffix, selection, measure);
      ++count;
    };
    limit("machine/arithmetic/f32", [pool] { return arithmetic_rate<float>(*pool, 0.1); });
    limit("machine/arithmetic/f64", [pool] { return arithmetic_rate<double>(*pool, 0.1); });
    limit("machine/read/MiB:512", [pool] {
      static const std::vector<char> area(std::size_t{512} << 20, 1);
      return read_rate(*pool, {{area.data(), area.size()}}, 0.1);
    });
  }

  std::sort(methods().begin(), methods().end(), [](const Method& a, const Method& b) { return a.name < b.name; });
  for (const Method& method : methods()) {
    std::vector<Shape> shapes = method.shapes;
    if (!selection.instead.empty()) {
      const auto known = [&](const Shape& s) {
        return std::any_of(method.shapes.begin(), method.shapes.end(), [&](const Shape& own) {
          return own.pattern.label == s.pattern.label && own.type == s.type;
        });
      };
      shapes.clear();
      std::copy_if(selection.instead.begin(), selection.instead.end(), std::back_inserter(shapes), known);
    }
    for (Shape& shape : shapes) {
      if (selection.quick && !shape.quick) continue;
      for (const Index threads : selection.threads) {
        shape.threads = threads;
        Bench bench{method.name + "/" + shape.name(), shape, method.prepare, selection.sample_seconds};
        if (!chosen(bench.name)) continue;
        benchmark::RegisterBenchmark(bench.name.c_str(), bench)
            ->Iterations(1)
            ->Repetitions(selection.repetitions)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
        ++count;
      }
    }
  }
  progress().expect(count * selection.repetitions);
  return count * selection.repetitions;
}

const std::vector<std::string>& failures() { return failed(); }

}  // namespace bench
