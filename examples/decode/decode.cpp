// A small language model that writes: prompts in pieces, then token by token. Returns non-zero when its logits or its
// words are not the stored ones.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#if __has_include(<xtensor/io/xnpy.hpp>)
#include <xtensor/io/xnpy.hpp>
#else
#include <xtensor/xnpy.hpp>
#endif

#include "decode/history.hpp"
#include "decode/model.hpp"

namespace decode {
namespace {

const std::string data = FOVEA_DECODE_DATA "/";
constexpr const char* prompt = "And the LORD said unto ";

std::span<const Token> tokens_of(const std::string& text) {
  return {reinterpret_cast<const Token*>(text.data()), text.size()};
}

// Some sequences of one length, as far as the model has read them.
class Session {
 public:
  Session(const Model& model, History& history, Index sequences = 1)
      : model_(model), history_(history), lengths_(std::size_t(sequences)) {}

  // Tokens [sequences, n] that follow, and the logits behind each.
  Matrix read(std::span<const Token> tokens) {
    const Matrix logits = model_.logits(tokens, lengths_, history_);
    for (Index& length : lengths_) length += Index(tokens.size() / lengths_.size());
    return logits;
  }
  // The same in pieces of `piece` tokens of one sequence.
  Matrix read(std::span<const Token> tokens, std::size_t piece) {
    Matrix logits(Index(tokens.size()), model_.vocabulary);
    for (std::size_t i = 0; i < tokens.size(); i += piece) {
      const auto some = tokens.subspan(i, std::min(piece, tokens.size() - i));
      logits.middleRows(Index(i), Index(some.size())) = read(some);
    }
    return logits;
  }

 private:
  const Model& model_;
  History& history_;
  std::vector<Index> lengths_;
};

// `text`, and the likeliest `count` bytes behind it, one after the other.
std::string continued(Session session, std::string text, std::size_t count) {
  Matrix logits = session.read(tokens_of(text), 64);
  for (std::size_t i = 0; i < count; ++i) {
    Index likeliest = 0;
    logits.bottomRows(1).row(0).maxCoeff(&likeliest);
    text.push_back(char(likeliest));
    logits = session.read(tokens_of(text).last(1));
  }
  return text;
}

class Checks {
 public:
  void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("WRONG: %s\n", what);
    failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

void check_logits(const Model& model, Checks& checks) {
  const auto numbers = xt::load_npy<int>(data + "golden_tokens.npy");
  const auto stored = xt::load_npy<float>(data + "golden_logits.npy");
  const std::vector<Token> tokens(numbers.begin(), numbers.end());
  const Eigen::Map<const Matrix> golden(stored.data(), Index(tokens.size()), model.vocabulary);

  Matrix whole;
  for (const std::size_t piece : {tokens.size(), std::size_t(100), std::size_t(7), std::size_t(1)}) {
    Arrays arrays(model, 1, 1 << 20);
    const Matrix logits = Session(model, arrays).read(tokens, piece);
    const float error = (logits - golden).cwiseAbs().maxCoeff();
    std::printf("logits, read %3zu tokens at a time: largest error %.1e\n", piece, error);
    checks.expect(error < 1e-4f, "the logits are not the stored ones");
  }
}

int run() {
  const Model model(Safetensors::open(data + "model.safetensors"));
  Checks checks;
  check_logits(model, checks);

  Arrays arrays(model, 1, 1 << 20);
  const std::string text = continued({model, arrays}, prompt, 120);
  std::printf("%s\n", text.c_str());
  checks.expect(text == read_file(data + "golden_sample.txt"), "the text is not the stored one");
  return checks.failed() ? 1 : 0;
}

}  // namespace
}  // namespace decode

int main() {
  try {
    return decode::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
