#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <regex>
#include <set>

#include "memory.hpp"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<Registered>& methods() {
  static std::vector<Registered> list;
  return list;
}

std::vector<std::string>& failed() {
  static std::vector<std::string> names;
  return names;
}

// A line on the standard error that says how far we are: rewritten in place on a terminal, every ten seconds elsewhere.
//
// What is left is foreseen bench by bench, since the order is random and single samples take from a hundredth of a
// second to half a minute. A sample has a part that cannot be shorter, its first calls and one more, and one whose
// length is chosen, calls and limits; the first sample of a bench also makes inputs and checks the result.
class Progress {
 public:
  // A bench with its samples; `guess` is the part that cannot be shorter, about. Returns its number.
  std::size_t expect(Index samples, double guess) {
    benches_.push_back({samples, guess});
    samples_ += samples;
    return benches_.size() - 1;
  }
  void start(double budget_seconds) {
    budget_ = budget_seconds;
    started_ = Clock::now();
  }

  // How long the chosen part of the next sample may be.
  double allowed() const {
    if (budget_ <= 0) return std::numeric_limits<double>::infinity();
    return (budget_ - since(started_) - fixed_left()) / double(std::max<Index>(1, samples_ - done_));
  }

  struct Spent {
    double once = 0, fixed = 0, chosen = 0;  // seconds
  };
  void done(std::size_t number, const std::string& name, const Spent& spent) {
    ++done_;
    Known& bench = benches_[number];
    --bench.left;
    if (!bench.known) {
      bench.known = true;
      guessed_ += bench.fixed;
      found_ += spent.fixed;
      once_ += spent.once;
      ++known_;
    }
    bench.fixed = spent.fixed;
    chosen_ += (spent.chosen - chosen_) / double(std::min<Index>(done_, 50));

    const bool terminal = isatty(STDERR_FILENO) != 0, last = done_ == samples_;
    if (!terminal && !last && shown_ && since(last_shown_) < 10) return;
    shown_ = true;
    last_shown_ = Clock::now();
    const double left = fixed_left() + chosen_ * double(samples_ - done_);
    std::fprintf(stderr, "%s[%lld/%lld]  %d:%02d left  %s%s", terminal ? "\r\033[K" : "", static_cast<long long>(done_),
                 static_cast<long long>(samples_), int(left) / 60, int(left) % 60, name.c_str(),
                 terminal && !last ? "" : "\n");
  }

 private:
  struct Known {
    Index left = 0;
    double fixed = 0;  // seconds: guessed, then found
    bool known = false;
  };

  double fixed_left() const {
    const double factor = guessed_ > 0 ? found_ / guessed_ : 1;
    double sum = 0;
    for (const Known& bench : benches_) sum += double(bench.left) * bench.fixed * (bench.known ? 1 : factor);
    return sum + once_ / double(std::max<Index>(1, known_)) * double(Index(benches_.size()) - known_);
  }

  std::vector<Known> benches_;
  Index samples_ = 0, done_ = 0, known_ = 0;
  double guessed_ = 0, found_ = 0, once_ = 0, chosen_ = 0;
  double budget_ = 0;
  bool shown_ = false;
  Clock::time_point started_ = Clock::now(), last_shown_;
};

Progress& progress() {
  static Progress line;
  return line;
}

// What was found out about a bench on its first sample.
struct Known {
  std::optional<Accuracy> accuracy;
  double pairs = 0;
  std::optional<double> memory;
  std::string failure;
};

struct Bench {
  std::string name;
  Shape shape;
  Prepare prepare;
  double sample_seconds;
  std::size_t number = 0;  // in the progress
  std::shared_ptr<Known> known = std::make_shared<Known>();

  void operator()(benchmark::State& state) const {
    Progress::Spent spent;
    for (auto _ : state) {
      try {
        if (!known->failure.empty()) throw std::runtime_error(known->failure);
        spent = sample(state);
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
    progress().done(number, name, spent);
  }

  Progress::Spent sample(benchmark::State& state) const;
};

// The memory over which the bandwidth is measured: K and V, or as much as a method says that it reads.
std::vector<Bytes> read_areas(const Shape& shape, const Prepared& ready) {
  if (!ready.areas.empty()) return ready.areas;
  if (ready.bytes) {
    static std::vector<char> area;
    if (double(area.size()) < *ready.bytes) area.resize(std::size_t(*ready.bytes), 1);
    return {{area.data(), std::size_t(*ready.bytes)}};
  }
  const double of_one = shape.kv_bytes() / double(shape.key_dim + shape.value_dim);
  return {{ready.keys, std::size_t(of_one * double(shape.key_dim))},
          {ready.values, std::size_t(of_one * double(shape.value_dim))}};
}

Progress::Spent Bench::sample(benchmark::State& state) const {
  const double seconds = std::clamp(0.7 * progress().allowed(), 0.1 * sample_seconds, sample_seconds);
  const double limit_seconds = 0.2 * seconds;
  const auto began = Clock::now();
  Progress::Spent spent;
  const Prepared ready = prepare(shape);
  (known->accuracy ? spent.fixed : spent.once) += since(began);

  // A call that takes long needs no warming up.
  const auto counted = [&] { known->memory = peak_memory(ready.call); };
  Times times = time_calls(counted, 0);
  const double first = times.calls.front();
  const bool warm = first > std::max(0.3, seconds);
  if (first < seconds) counted();
  spent.fixed += first < seconds ? 3 * first : warm ? first : 2 * first;
  if (!known->accuracy) {
    const auto checking = Clock::now();
    known->pairs = shape.pairs();
    known->accuracy = ready.check();
    double tolerance = shape.type == "f64" ? 1e-9 : 1e-4;
    if (known->accuracy->own) tolerance = std::max(tolerance, 10 * known->accuracy->naive_error);
    if (!(known->accuracy->error <= tolerance)) {
      throw std::runtime_error("wrong result: relative error " + std::to_string(known->accuracy->error));
    }
    spent.once += since(checking);
  }

  const Accuracy& accuracy = *known->accuracy;
  const double pairs = known->pairs * accuracy.kept.value_or(1);
  const double flops = ready.flops.value_or(pairs * 2 * double(shape.key_dim + shape.value_dim));
  const double read_bytes = ready.bytes.value_or(shape.kv_bytes() * accuracy.kept.value_or(1));
  const std::vector<Bytes> areas = shape.few_queries() ? read_areas(shape, ready) : std::vector<Bytes>{};
  double peak = 0, bandwidth = 0;
  const auto measure_limits = [&] {
    const double peak_seconds = (shape.few_queries() ? 0.1 : 1) * limit_seconds;  // that does not bind few queries
    peak += 0.5 * (shape.type == "f64" ? arithmetic_rate<double>(*ready.pool, peak_seconds)
                                       : arithmetic_rate<float>(*ready.pool, peak_seconds));
    if (shape.few_queries()) bandwidth += 0.5 * read_rate(*ready.pool, areas, limit_seconds);
  };

  measure_limits();
  if (!warm) times = time_calls(ready.call, seconds);
  measure_limits();

  const double median = times.median();
  state.SetIterationTime(median);

  auto& counters = state.counters;
  counters["tokens"] = benchmark::Counter(double(shape.batch * shape.queries), benchmark::Counter::kIsRate);
  counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  counters["visited"] = shape.all_pairs() > 0 ? pairs / shape.all_pairs() : 1;
  counters["peak"] = peak;
  counters["peak_share"] = flops / median / peak;
  if (bandwidth > 0) {
    counters["bytes"] = benchmark::Counter(read_bytes, benchmark::Counter::kIsRate);
    counters["bandwidth"] = bandwidth;
    counters["bandwidth_share"] = read_bytes / median / bandwidth;
  }
  counters["calls"] = double(times.calls.size());
  counters["undisturbed"] = times.undisturbed;
  counters["best"] = times.calls.front();
  if (known->memory) counters["memory"] = *known->memory;
  counters["error"] = accuracy.error;
  counters["naive_error"] = accuracy.naive_error;
  if (accuracy.log_sum_error) counters["log_sum_error"] = *accuracy.log_sum_error;
  if (accuracy.storage_error) counters["storage_error"] = *accuracy.storage_error;
  if (accuracy.stored_error) counters["stored_error"] = *accuracy.stored_error;
  if (accuracy.stored_log_sum_error) counters["stored_log_sum_error"] = *accuracy.stored_log_sum_error;
  if (accuracy.dense_error) counters["dense_error"] = *accuracy.dense_error;
  if (accuracy.kept) counters["kept"] = *accuracy.kept;
  if (accuracy.tiles) counters["tiles"] = *accuracy.tiles;
  if (accuracy.mass) counters["mass"] = *accuracy.mass;
  state.SetLabel(shape.table);
  spent.chosen = since(began) - spent.once - spent.fixed;
  return spent;
}

constexpr double limit_seconds = 0.1;

// A limit as a bench of its own: `rate` becomes the counter, the time is that of one unit of it.
void register_limit(const std::string& name, const Selection& selection, const std::function<double()>& measure) {
  const std::size_t number = progress().expect(selection.repetitions, limit_seconds);
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state) {
                                   const double rate = measure();
                                   state.SetIterationTime(1e9 / rate);
                                   state.counters["rate"] = rate;
                                 }
                                 state.SetLabel("machine");
                                 progress().done(number, name, {.fixed = limit_seconds});
                               })
      ->Iterations(1)
      ->Repetitions(selection.repetitions)
      ->UseManualTime();
}

constexpr const char* dense = "dense/scaled_dot_product";

// A method at a shape, its threads included.
struct Chosen {
  const Registered* method;
  Shape shape;
};

// The user's tensors go to the methods that run on stored ones.
std::vector<Shape> shapes_of(const Registered& method, const Selection& selection) {
  std::vector<Shape> shapes;
  if (selection.instead.empty()) {
    std::copy_if(method.shapes.begin(), method.shapes.end(), std::back_inserter(shapes),
                 [&](const Shape& s) { return s.table != "recall" && (s.quick || !selection.quick); });
  } else {
    std::copy_if(selection.instead.begin(), selection.instead.end(), std::back_inserter(shapes), [&](const Shape& s) {
      return std::any_of(method.shapes.begin(), method.shapes.end(), [&](const Shape& own) {
        const bool meant = own.table == "real" || method.name.starts_with("dense/");
        return meant && own.pattern.label == s.pattern.label && own.type == s.type;
      });
    });
  }
  return shapes;
}

// Growth is about one thread, and a quick run has no time for more of anything but dense attention.
bool several_threads(const Registered& method, const Shape& shape, const Selection& selection) {
  if (shape.table == "growth") return false;
  return !selection.quick || method.name.starts_with("dense/") || shape.table == "user";
}

// About how long three calls take, or one that takes long.
double guessed_seconds(const Registered& method, const Shape& shape) {
  const double kept = (shape.pattern.label == "causal" ? 0.5 : 1) * (method.name.starts_with("dense/") ? 1 : 0.2);
  const double once = kept * shape.all_pairs() * 2 * double(shape.key_dim + shape.value_dim) / 5e10;
  return 0.003 + once / double(shape.threads) * (once > 0.3 ? 1 : 3);
}

// Every method has dense attention on the same numbers beside it, whether the filter matches that or not: full for one
// that hides keys in its own way.
void add_dense_beside(std::vector<Chosen>& benches) {
  std::set<std::string> there;
  for (const Chosen& bench : benches) {
    if (bench.method->name == dense) there.insert(bench.shape.name());
  }
  for (std::size_t i = 0, own = benches.size(); i < own; ++i) {
    if (benches[i].method->name.starts_with("dense/") || benches[i].shape.alone) continue;
    Shape shape = benches[i].shape;
    if (shape.pattern.label != "causal") shape.pattern = full();
    const auto method = std::find_if(methods().begin(), methods().end(),
                                     [&](const Registered& m) { return m.name == dense && m.type == shape.type; });
    if (method != methods().end() && there.insert(shape.name()).second) benches.push_back({&*method, shape});
  }
}

}  // namespace

bool add_prepared(const std::string& name, const std::string& type, const std::vector<Shape>& shapes, Prepare prepare,
                  const Details& details) {
  Registered method{name, type, {}, std::move(prepare), details};
  std::copy_if(shapes.begin(), shapes.end(), std::back_inserter(method.shapes),
               [&](const Shape& s) { return s.type == type; });
  methods().push_back(std::move(method));
  return true;
}

const std::vector<Registered>& registered() {
  std::stable_sort(methods().begin(), methods().end(),
                   [](const Registered& a, const Registered& b) { return a.name < b.name; });
  return methods();
}

void register_selected(const Selection& selection) {
  const std::regex filter(selection.filter);
  const auto chosen = [&](const std::string& name) {
    return selection.filter.empty() || std::regex_search(name, filter);
  };
  for (const Index threads : selection.threads) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    const auto pool = std::make_shared<fovea::exec::Pool>(threads);
    const auto limit = [&](const std::string& name, const std::function<double()>& measure) {
      if (!chosen(name + suffix)) return;
      register_limit(name + suffix, selection, measure);
    };
    limit("machine/arithmetic/f32", [pool] { return arithmetic_rate<float>(*pool, limit_seconds); });
    limit("machine/arithmetic/f64", [pool] { return arithmetic_rate<double>(*pool, limit_seconds); });
    limit("machine/read/MiB:512", [pool] {
      static const std::vector<char> area(std::size_t{512} << 20, 1);
      return read_rate(*pool, {{area.data(), area.size()}}, limit_seconds);
    });
  }

  std::vector<Chosen> benches;
  for (const Registered& method : registered()) {
    for (Shape& shape : shapes_of(method, selection)) {
      const std::size_t most = several_threads(method, shape, selection) ? selection.threads.size() : 1;
      for (std::size_t t = 0; t < std::min(most, selection.threads.size()); ++t) {
        shape.threads = selection.threads[t];
        if (chosen(method.name + "/" + shape.name())) benches.push_back({&method, shape});
      }
    }
  }
  const bool named = selection.filter.ends_with('$');  // single benches, to be run alone
  if (!named) add_dense_beside(benches);

  const auto repetitions_of = [&](const Chosen& bench) {
    // Where one call takes so long, one sample is enough; all but dense attention gets fewer.
    const double most = (selection.quick ? 1e11 : 4e11) * double(bench.shape.threads);
    if (bench.method->name == dense && bench.shape.flops() > most) return 1;
    if (bench.method->name == dense) return selection.repetitions;
    return std::min(selection.repetitions, selection.quick ? 2 : 3);
  };
  for (const auto& [method, shape] : benches) {
    const int repetitions = repetitions_of({method, shape});
    Bench bench{method->name + "/" + shape.name(), shape, method->prepare, selection.sample_seconds};
    bench.number = progress().expect(repetitions, guessed_seconds(*method, shape));
    benchmark::RegisterBenchmark(bench.name.c_str(), bench)
        ->Iterations(1)
        ->Repetitions(repetitions)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  progress().start(selection.budget_seconds);
}

bool is_selected(const Registered& method, const Selection& selection) {
  if (selection.filter.empty()) return true;
  const std::regex filter(selection.filter);
  return std::any_of(method.shapes.begin(), method.shapes.end(),
                     [&](const Shape& shape) { return std::regex_search(method.name + "/" + shape.name(), filter); });
}

const std::vector<std::string>& failures() { return failed(); }

}  // namespace bench
