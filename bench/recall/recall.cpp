#include "recall.hpp"

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <tuple>
#include <utility>

#include "apart.hpp"
#include "maps.hpp"
#include "mqar.hpp"

namespace bench {
namespace {

using recall::Example;
using recall::Rows;
using recall::Setting;

constexpr Index examples = 20, heads = 2, vocabulary = 8192;
constexpr std::uint64_t seed = 1;

// The examples of a setting and what attention computes on: a batch of them, whose heads have embeddings of their own.
// A method that sees every key also sees what follows the question, and that must not look like an answer: there it is
// word 0, which is none.
struct Task {
  Setting setting;
  std::vector<Example> batch;
  std::vector<Rows> embeddings;            // of each head
  std::shared_ptr<Tensor<float>> q, k, v;  // [examples, heads, T, d]

  // The keys with which values are written, and nothing else.
  std::shared_ptr<const Tensor<float>> gated_keys() const {
    auto keys = std::make_shared<Tensor<float>>(*k);
    for (Index row = 0; row < examples * heads * setting.length; ++row) {
      if (recall::is_value_of_pair(row % setting.length, setting)) continue;
      std::fill_n(keys->data() + row * k->dimension(3), k->dimension(3), 0.0f);
    }
    return keys;
  }
  std::shared_ptr<const LogSums<float>> strengths(Writes writes) const {
    auto all = std::make_shared<LogSums<float>>(examples, heads, setting.length);
    all->setConstant(1);
    for (Index row = 0; writes == Writes::values && row < all->size(); ++row) {
      all->data()[row] = recall::is_value_of_pair(row % setting.length, setting) ? 1.0f : 0.0f;
    }
    return all;
  }
};

Task make_task(const Setting& setting, Index dim, bool causal) {
  std::mt19937_64 engine(seed);
  Task task{setting, {}, {}, {}, {}, {}};
  for (auto* tensor : {&task.q, &task.k, &task.v}) {
    *tensor = std::make_shared<Tensor<float>>(examples, heads, setting.length, dim);
  }
  for (Index h = 0; h < heads; ++h) task.embeddings.push_back(recall::make_embeddings(vocabulary, dim, engine));
  for (Index b = 0; b < examples; ++b) {
    task.batch.push_back(recall::make_example(setting, engine));
    Example& example = task.batch.back();
    for (const recall::Label& label : example.labels) {
      if (!causal) example.tokens[std::size_t(label.place + 1)] = 0;
    }
    for (Index h = 0; h < heads; ++h) {
      const recall::Circuit c = recall::make_circuit(example, task.embeddings[std::size_t(h)]);
      std::copy_n(c.q.data(), c.q.size(), &(*task.q)(b, h, 0, 0));
      std::copy_n(c.k.data(), c.k.size(), &(*task.k)(b, h, 0, 0));
      std::copy_n(c.v.data(), c.v.size(), &(*task.v)(b, h, 0, 0));
    }
  }
  return task;
}

// A method with one of its patterns, in one of its forms.
struct Contestant {
  const Registered* method = nullptr;
  RecallForm form = {};
  std::string pattern = {};
  bool one_query = false;  // answers one query a call: each label has a call of its own
};

std::vector<Contestant> contestants(const Selection& selection) {
  std::map<std::string, std::pair<Contestant, int>> best;  // and how much the shape says that it comes from
  for (const Registered& method : registered()) {
    if (method.type != "f32" || !is_selected(method, selection)) continue;
    for (const Shape& shape : method.shapes) {
      const bool by_token = shape.queries == 1 && shape.keys == 1;
      const std::string pattern = by_token ? "causal" : shape.pattern.label;
      if (shape.table == "cache" || (pattern != "causal" && pattern != "full")) continue;
      const bool one_query = std::all_of(method.shapes.begin(), method.shapes.end(),
                                         [](const Shape& s) { return s.queries == 1 && s.keys > 1; });
      for (const RecallForm& form : method.details.recall) {
        auto& [contestant, rank] = best[method.name + " " + form.what + " " + pattern];
        if (contestant.method != nullptr && telling(shape) <= rank) continue;
        contestant = {&method, form, pattern, one_query};
        rank = telling(shape);
      }
    }
  }
  std::vector<Contestant> all;
  for (const auto& [name, of] : best) all.push_back(of.first);
  return all;
}

// Outputs at the labels: [example][head], a row for each label.
using Outputs = std::vector<std::vector<Rows>>;

struct Result {
  Outputs outputs;
  std::optional<double> kept;
};

Result run(const Contestant& contestant, const Task& task) {
  const Index length = task.setting.length, pairs = task.setting.pairs, dim = task.q->dimension(3);
  Result result{Outputs(examples, std::vector<Rows>(heads, Rows(pairs, dim))), {}};
  Given given{task.q, task.k, task.v};
  if (contestant.form.writes != Writes::own) given.strengths = task.strengths(contestant.form.writes);
  if (contestant.form.writes == Writes::values) given.k = task.gated_keys();
  Shape shape{.table = "recall",
              .pattern = contestant.pattern == "causal" ? causal(length, length) : full(),
              .batch = examples,
              .heads = heads,
              .kv_heads = heads,
              .queries = contestant.one_query ? 1 : length,
              .keys = length,
              .key_dim = dim,
              .value_dim = dim};
  const auto place = [&](Index b, Index label) { return task.batch[std::size_t(b)].labels[std::size_t(label)].place; };
  // Runs on `given`, and takes the outputs of some labels: row_of(example, label) is where they are.
  const auto call = [&](Index first, Index last, const auto& row_of) {
    shape.given = std::make_shared<const Given>(given);
    const Prepared ready = contestant.method->prepare(shape);
    ready.call();
    if (ready.kept && !result.kept) result.kept = ready.kept();
    const auto* const out = static_cast<const float*>(ready.out);
    for (Index b = 0; b < examples; ++b) {
      for (Index h = 0; h < heads; ++h) {
        for (Index n = first; n < last; ++n) {
          const float* const from = out + ((b * heads + h) * shape.queries + row_of(b, n)) * dim;
          std::copy_n(from, dim, result.outputs[std::size_t(b)][std::size_t(h)].row(n).data());
        }
      }
    }
  };
  if (!contestant.one_query) {
    call(0, pairs, place);
    return result;
  }
  for (Index n = 0; n < pairs; ++n) {
    const auto one = std::make_shared<Tensor<float>>(examples, heads, Index{1}, dim);
    for (Index b = 0; b < examples; ++b) {
      for (Index h = 0; h < heads; ++h) std::copy_n(&(*task.q)(b, h, place(b, n), 0), dim, &(*one)(b, h, 0, 0));
    }
    given.q = one;
    call(n, n + 1, [](Index, Index) { return Index{0}; });
  }
  return result;
}

std::string measured(const Contestant& contestant, const Task& task) {
  const Result result = run(contestant, task);
  double sum = 0, squares = 0;
  for (Index b = 0; b < examples; ++b) {
    double share = 0;
    for (Index h = 0; h < heads; ++h) {
      share += recall::retrieved_share(result.outputs[std::size_t(b)][std::size_t(h)],
                                       task.batch[std::size_t(b)].labels, task.embeddings[std::size_t(h)]) /
               double(heads);
    }
    sum += share;
    squares += share * share;
  }
  const double mean = sum / double(examples);
  const double variance = std::max(0.0, (squares - sum * mean) / double(examples - 1));
  std::ostringstream text;
  text << ", \"recall\": " << mean << ", \"spread\": " << std::sqrt(variance / double(examples));
  if (result.kept) text << ", \"density\": " << *result.kept;
  return text.str();
}

}  // namespace

bool run_recall(const std::string& path, const Selection& selection) {
  std::vector<Setting> settings = {{64, 4}, {128, 8}, {256, 16}, {256, 64}, {512, 64}, {512, 128}};
  if (selection.quick) settings = {settings[0], settings[2], settings[3]};
  for (Setting& setting : settings) setting.vocabulary = vocabulary;

  const std::vector<Contestant> all = contestants(selection);
  std::map<std::tuple<Index, std::size_t, bool>, Task> tasks;  // by width, number of the setting, causal or not
  std::vector<Job> jobs;
  std::vector<std::string> starts;
  for (const Contestant& contestant : all) {
    for (const Index dim : contestant.form.dims) {
      for (std::size_t s = 0; s < settings.size(); ++s) {
        const bool causal = contestant.pattern == "causal";
        const std::tuple key(dim, s, causal);
        if (tasks.find(key) == tasks.end()) tasks.emplace(key, make_task(settings[s], dim, causal));
        const Task* const task = &tasks.at(key);
        jobs.push_back({contestant.method->name + " " + std::to_string(settings[s].length) + " tokens " +
                            std::to_string(settings[s].pairs) + " pairs",
                        [task, &contestant] { return measured(contestant, *task); }});
        std::ostringstream start;
        start << "{\"method\": " << quoted(contestant.method->name) << ", \"what\": " << quoted(contestant.form.what)
              << ", \"pattern\": " << quoted(contestant.pattern) << ", \"dim\": " << dim
              << ", \"length\": " << settings[s].length << ", \"pairs\": " << settings[s].pairs;
        starts.push_back(start.str());
      }
    }
  }
  const std::vector<Left> left = run_apart(jobs, std::size_t(selection.threads.back()));
  std::ofstream file(path);
  file << "{\"vocabulary\": " << vocabulary << ", \"examples\": " << examples << ", \"seed\": " << seed
       << ",\n \"lines\": [\n";
  for (std::size_t i = 0; i < left.size(); ++i) {
    file << "  " << starts[i];
    file << (left[i].failure.empty() ? left[i].text : ", \"failed\": " + quoted(left[i].failure));
    file << (i + 1 < left.size() ? "},\n" : "}\n");
  }
  file << "]}\n";
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
  return none_crashed(left);
}

}  // namespace bench
