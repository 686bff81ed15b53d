// A small language model that writes, on caches of every kind.
//
//   decode                     checks, bits per byte on a part of the held-out texts, and a text from a quantised cache
//   decode --all               the same on more of the texts, for every cache and window
//   decode --cache NAME        only a text, from the cache NAME
//   decode --prompt TEXT       only a text, behind TEXT
//   decode --tokens N          of so many bytes
//
// Returns 1 when logits, texts or bits are not what they must be, 2 when it cannot run.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "decode/history.hpp"
#include "decode/model.hpp"
#include "decode/stored.hpp"

namespace decode {
namespace {

const std::string data = FOVEA_DECODE_DATA "/";
constexpr std::array texts = {"moby", "sotu", "kjv"};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      contiguous<float>("float"),
      contiguous<Eigen::bfloat16>("bfloat16"),
      contiguous<Eigen::half>("half"),
      contiguous<fovea::kv::Int8>("int8"),
      contiguous<fovea::kv::Int4>("int4"),
      paged<float>("float-paged", 16),
      paged<Eigen::bfloat16>("bfloat16-paged", 16),
      paged<Eigen::half>("half-paged", 16),
      paged<fovea::kv::Int8>("int8-paged", 32),
      paged<fovea::kv::Int4>("int4-paged", 32),
      rolling<float>("float-rolling"),
  };
  return all;
}

const Kind& kind(std::string_view name) {
  for (const Kind& one : kinds()) {
    if (one.name == name) return one;
  }
  std::string message = "there is no cache " + std::string(name) + ", there are";
  for (const Kind& one : kinds()) message += " " + one.name;
  throw std::runtime_error(message);
}

std::span<const Token> tokens_of(std::string_view text) {
  return {reinterpret_cast<const Token*>(text.data()), text.size()};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Sequences of one length, as far as the model has read them.
class Session {
 public:
  Session(const Model& model, const Kind& kind, Index sequences = 1, Index window = everything)
      : model_(model), history_(kind.make(model, sequences, window)), lengths_(std::size_t(sequences)) {}

  // The logits behind each of the tokens [sequences, n] that follow.
  Matrix read(std::span<const Token> tokens) {
    const Matrix logits = model_.logits(tokens, lengths_, *history_);
    for (Index& length : lengths_) length += Index(tokens.size() / lengths_.size());
    return logits;
  }
  // The same for one sequence, so many tokens at a time.
  Matrix read(std::span<const Token> tokens, Index at_a_time) {
    Matrix logits(Index(tokens.size()), model_.vocabulary);
    for (Index i = 0; i < logits.rows(); i += at_a_time) {
      const Index n = std::min(at_a_time, logits.rows() - i);
      logits.middleRows(i, n) = read(tokens.subspan(std::size_t(i), std::size_t(n)));
    }
    return logits;
  }

 private:
  const Model& model_;
  std::unique_ptr<History> history_;
  std::vector<Index> lengths_;
};

struct Continuation {
  std::string text;
  double prompt_speed, speed;  // tokens a second
};

// `prompt`, and the likeliest `count` bytes behind it, one after the other.
Continuation continued(Session session, const std::string& prompt, std::size_t count) {
  Continuation result{prompt, 0, 0};
  auto start = std::chrono::steady_clock::now();
  Matrix logits = session.read(tokens_of(prompt), piece);
  result.prompt_speed = double(prompt.size()) / seconds_since(start);

  start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < count; ++i) {
    Index likeliest = 0;
    logits.bottomRows(1).row(0).maxCoeff(&likeliest);
    result.text.push_back(char(likeliest));
    logits = session.read(tokens_of(result.text).last(1));
  }
  result.speed = double(count) / seconds_since(start);
  return result;
}

// Bits that the model wants for `token` where it gave these logits.
template <class Row>
double bits(const Row& logits, Token token) {
  const double most = double(logits.maxCoeff());
  const double sum = (logits.template cast<double>().array() - most).exp().sum();
  return (std::log(sum) + most - double(logits(Index(token)))) / std::log(2.0);
}

// Bits per byte of each text, of which `parts` parts of `context` bytes are read: token by token, all parts in one
// batch. The first byte of a part is given.
std::vector<double> bits_per_byte(const Model& model, const Kind& kind, Index window,
                                  const std::vector<std::string>& held_out, std::size_t parts) {
  std::vector<std::string_view> sequences;
  for (const std::string& text : held_out) {
    for (std::size_t p = 0; p < parts; ++p)
      sequences.push_back(std::string_view(text).substr(p * context, std::size_t(context)));
  }
  Session session(model, kind, Index(sequences.size()), window);
  std::vector<double> result(held_out.size());
  std::vector<Token> next(sequences.size());
  for (std::size_t i = 0; i + 1 < std::size_t(context); ++i) {
    for (std::size_t s = 0; s < sequences.size(); ++s) next[s] = Token(sequences[s].at(i));
    const Matrix logits = session.read(next);
    for (std::size_t s = 0; s < sequences.size(); ++s)
      result[s / parts] += bits(logits.row(Index(s)), Token(sequences[s].at(i + 1)));
  }
  for (double& sum : result) sum /= double(parts) * double(context - 1);
  return result;
}

class Checks {
 public:
  void expect(bool holds, const std::string& rule) {
    if (holds) return;
    std::printf("WRONG: %s\n", rule.c_str());
    failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

void check_files(Checks& checks) {
  const std::string whole = read_file(data + "model.safetensors");
  const auto refused = [](const std::string& bytes) {
    try {
      Safetensors(bytes, "damaged");
      return false;
    } catch (const std::runtime_error&) {
      return true;
    }
  };
  for (const std::size_t length :
       {std::size_t(0), std::size_t(7), std::size_t(100), whole.size() / 2, whole.size() - 1})
    checks.expect(refused(whole.substr(0, length)), "a file that was cut off must be refused");
  const auto with = [&](const std::string& what, const std::string& other) {
    std::string damaged = whole;
    return damaged.replace(damaged.find(what), what.size(), other);
  };
  checks.expect(!refused(with("49152", "49152")), "a file as it is must be read");
  checks.expect(refused(with("[0,49152]", "[0,49150]")), "an array of too few bytes must be refused");
  checks.expect(refused(with("[0,49152]", "[2,49152]")), "an array of too few bytes must be refused");
  checks.expect(refused(with("[128,192]", "[1e8,192]")), "a shape that is not of whole numbers must be refused");
  checks.expect(refused(with("{", "[")), "a header that is not an object must be refused");
}

// The largest difference; NaN where there is one.
float apart(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff<Eigen::PropagateNaN>(); }

void check_model(const Model& model, Checks& checks) {
  const std::vector<Token> tokens = stored_tokens(data + "golden_tokens.npy");
  const Matrix golden = stored_logits(data + "golden_logits.npy");
  std::printf("logits against the stored ones, float: largest error\n");
  for (const Index at_a_time : {256, 100, 7, 1}) {
    const Matrix logits = Session(model, kind("float")).read(tokens, at_a_time);
    const float error = apart(logits, golden);
    std::printf("  %3td tokens at a time  %.1e\n", at_a_time, double(error));
    checks.expect(error < 1e-4f, "the logits must be the stored ones");
  }
  const std::string sample = read_file(data + "golden_sample.txt"), prompt = "And the LORD said unto ";
  checks.expect(continued({model, kind("float")}, prompt, sample.size() - prompt.size()).text == sample,
                "the text must be the stored one");
}

void check_caches(const Model& model, const std::string& text, Checks& checks) {
  const auto read = [&](const std::string& cache, Index window) {
    Session session(model, kind(cache), 1, window);
    Matrix logits(350, model.vocabulary);
    logits << session.read(tokens_of(text).first(300), piece), session.read(tokens_of(text).subspan(300, 50), 1);
    return logits;
  };
  for (const std::string name : {"float", "bfloat16", "half", "int8", "int4"})
    checks.expect(read(name, everything) == read(name + "-paged", everything),
                  "pages must not change a bit of " + name);

  // The same keys in another order of sums: either is as near to the exact logits as the ones above.
  const float difference = apart(read("float", 100), read("float-rolling", 100));
  std::printf("a window of 100 tokens, as a mask and as a ring: largest difference %.1e\n", double(difference));
  checks.expect(difference < 1e-4f, "a ring must give what a window gives");
  checks.expect(read("float", everything) != read("float", 100), "a window must hide something");
}

struct Options {
  bool all = false, text_only = false;
  std::string cache = "int4-paged", prompt = "And the LORD said unto ";
  std::size_t tokens = 200;
};

Options parse(int argc, char** argv) {
  Options options;
  const auto wrong = [] {
    return std::runtime_error("usage: decode [--all] [--cache NAME] [--prompt TEXT] [--tokens N]");
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--all") {
      options.all = true;
      continue;
    }
    if (i + 1 == argc) throw wrong();
    const std::string_view value = argv[++i];
    if (name == "--cache") {
      options.cache = value;
    } else if (name == "--prompt" && !value.empty()) {
      options.prompt = value;
    } else if (name == "--tokens") {
      const char* const end = value.data() + value.size();
      if (std::from_chars(value.data(), end, options.tokens).ptr != end) throw wrong();
    } else {
      throw wrong();
    }
    options.text_only = true;
  }
  return options;
}

// Tokens a second behind a prompt of 7/8 of the context, the better of two times.
void print_speeds(const Model& model, const std::string& text) {
  std::printf("\n%-16s%15s%15s%15s\n", "cache", "bytes a token", "prompt", "writing");
  for (const Kind& one : kinds()) {
    double prompt_speed = 0, speed = 0;
    for (int i = 0; i < 2; ++i) {
      const auto written = continued({model, one}, text.substr(0, context * 7 / 8), context / 8);
      prompt_speed = std::max(prompt_speed, written.prompt_speed);
      speed = std::max(speed, written.speed);
    }
    std::printf("%-16s%15.0f%13.0f/s%13.0f/s\n", one.name.c_str(), one.bytes(model), prompt_speed, speed);
  }
}

// How far bits per byte of one part may be from those of the float cache. What rounding changes is proportional to its
// steps: those of half are 1/8 of those of bfloat16, those of 8 bits 1/17 of those of 4. Of the 96 parts that the texts
// have, the largest differences are bfloat16 0.0005, half 0.00005, int8 0.0003 and int4 0.005; twice that is allowed.
double slack(const std::string& cache) {
  if (cache == "float") return 0;
  if (cache == "half") return 0.0001;
  if (cache == "int8") return 0.0006;
  return cache == "bfloat16" ? 0.001 : 0.01;
}

void print_bits(const Model& model, const std::vector<std::string>& held_out, bool all, Checks& checks) {
  const std::size_t parts = all ? 4 : 1;
  std::printf("\nbits per byte, %zu bytes of each text in parts of %td\n", parts * std::size_t(context), context);
  std::printf("%-16s%9s", "cache", "window");
  for (const char* name : texts) std::printf("%9s", name);
  std::printf("\n");
  std::vector<double> exact;
  for (const char* name : {"float", "bfloat16", "half", "int8", "int4"}) {
    std::vector<Index> windows = {everything};
    if (all) {
      windows.insert(windows.end(), {512, 256, 128, 64});
    } else if (name == std::string("float") || name == std::string("int4")) {
      windows.push_back(64);
    }
    for (const Index window : windows) {
      const std::vector<double> bits = bits_per_byte(model, kind(name), window, held_out, parts);
      std::printf("%-16s%9s", name, window == everything ? "all" : std::to_string(window).c_str());
      for (const double number : bits) std::printf("%9.4f", number);
      std::printf("\n");
      std::fflush(stdout);
      if (window != everything) continue;
      if (exact.empty()) exact = bits;
      for (std::size_t t = 0; t < bits.size(); ++t)
        checks.expect(std::fabs(bits[t] - exact[t]) <= slack(name), std::string("what rounding costs in ") + name);
    }
  }
}

int run(const Options& options) {
  const Model model(Safetensors::open(data + "model.safetensors"));
  Checks checks;
  if (!options.text_only) {
    std::vector<std::string> held_out;
    for (const char* name : texts) held_out.push_back(read_file(data + "heldout_" + name + ".txt"));
    check_files(checks);
    check_model(model, checks);
    check_caches(model, held_out[0], checks);
    print_bits(model, held_out, options.all, checks);
    print_speeds(model, held_out[0]);
  }
  const auto written = continued({model, kind(options.cache)}, options.prompt, options.tokens);
  std::printf("\nwritten from the cache %s, %.0f tokens a second:\n%s\n", options.cache.c_str(), written.speed,
              written.text.c_str());
  return checks.failed() ? 1 : 0;
}

}  // namespace
}  // namespace decode

int main(int argc, char** argv) {
  try {
    return decode::run(decode::parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
