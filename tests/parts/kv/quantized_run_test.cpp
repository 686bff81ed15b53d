#include <cmath>
#include <cstring>
#include <fovea/parts/kv/quantized.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
namespace kv = fovea::kv;

namespace {

template <class T>
std::vector<T> normal(unsigned seed, Index n) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution;
  std::vector<T> x{};
  for (Index i = 0; i < n; ++i) x.push_back(T(distribution(engine)));
  return x;
}

// Tokens of a format in memory that began as garbage codes with finite metadata, all of them written.
template <class Format>
struct Written {
  Format format;
  Index tokens;
  std::vector<std::byte> memory;
  std::vector<double> rounded;  // [tokens][dim]

  Written(Index dim, Index group, Index count, double offset = 0)
      : format{dim, group, group}, tokens(count), memory(std::size_t(format.bytes(count)), std::byte{0x35}) {
    auto x = normal<float>(7, tokens * dim);
    for (Index j = 0; j < tokens; ++j)
      for (Index d = 0; d < dim; ++d) x[std::size_t(j * dim + d)] += float(offset * (d % 2 ? 1 : -1));
    format.write(memory.data(), 0, tokens, x.data(), dim);
    rounded.resize(x.size());
    run(0).read(0, tokens, rounded.data(), dim);
  }
  auto run(Index token) const { return format.run(memory.data(), token); }
  const double* operator[](Index j) const { return rounded.data() + j * format.dim; }
};

template <class T>
struct Rows {
  Index count, dim, stride;
  std::vector<T> x;

  Rows(unsigned seed, Index n, Index width, Index gap)
      : count(n), dim(width), stride(fovea::simd::whole<T>(width) + gap), x(std::size_t(n * stride), support::nan<T>) {
    const auto values = normal<T>(seed, n * width);
    for (Index i = 0; i < n; ++i)
      for (Index d = 0; d < fovea::simd::whole<T>(width); ++d)
        x[std::size_t(i * stride + d)] = d < width ? values[std::size_t(i * width + d)] : T(0);
  }
  const T* operator[](Index i) const { return x.data() + i * stride; }
};

// The first product that is further from the double one than the roundings of a sum of dim products allow, or "".
template <class T, class Format>
std::string wrong_score(const Written<Format>& keys, const Rows<T>& q, Index token, Index first, Index count) {
  const Index dim = keys.format.dim, stride = count + 3;
  std::vector<T> scores(std::size_t(q.count * stride), support::nan<T>);
  std::vector<T> scratch(std::size_t(Format::Run::template scratch_size<T>(q.count, dim)));
  keys.run(token).score(q.count, q.x.data(), q.stride, first, count, scores.data(), stride, scratch.data());
  for (Index i = 0; i < q.count; ++i) {
    for (Index j = 0; j < stride; ++j) {
      const T got = scores[std::size_t(i * stride + j)];
      std::ostringstream text;
      text << q.count << " queries, tokens " << token << " + " << first << " + " << count << ", dim " << dim << ": "
           << i << ", " << j << " got " << got;
      if (j >= count) {
        if (support::bits(got) != support::bits(support::nan<T>)) return text.str() + " behind the row";
        continue;
      }
      double sum = 0, size = 0;
      for (Index d = 0; d < dim; ++d) {
        const double low = keys[token + first + j][d];
        sum += double(q[i][d]) * low;
        // Scale and minimum of a group are summed apart: sizes up to its range meet.
        size += std::fabs(double(q[i][d])) * (std::fabs(low) + 8);
      }
      if (!(std::fabs(double(got) - sum) <= support::epsilon<T> * 4 * size)) return text.str();
    }
  }
  return "";
}

template <class T, class Format>
std::string wrong_sum(const Written<Format>& values, const Rows<T>& weights, Index token, Index first, Index count,
                      bool shrinks) {
  const Index dim = values.format.dim, width = fovea::simd::whole<T>(dim), rows = weights.count;
  const auto before = normal<T>(9, rows * width);
  auto out = before;
  const auto shrink = support::uniform<T>(11, rows, 0, 1);
  const auto run = values.run(token);
  if (!run.whole(width)) return "width";
  std::vector<T> scratch(std::size_t(Format::Run::template scratch_size<T>(rows, dim)));
  run.add(rows, first, count, weights.x.data(), weights.stride, out.data(), width, shrinks ? shrink.data() : nullptr,
          scratch.data());
  for (Index r = 0; r < rows; ++r) {
    for (Index e = 0; e < dim; ++e) {
      double sum = double(before[std::size_t(r * width + e)]) * (shrinks ? double(shrink[std::size_t(r)]) : 1);
      double size = std::fabs(sum);
      for (Index j = 0; j < count; ++j) {
        const double x = values[token + first + j][e];
        sum += double(weights[r][j]) * x;
        size += std::fabs(double(weights[r][j])) * (std::fabs(x) + 8);
      }
      const T got = out[std::size_t(r * width + e)];
      if (!(std::fabs(double(got) - sum) <= support::epsilon<T> * 4 * size)) {
        std::ostringstream text;
        text << rows << " rows, tokens " << token << " + " << first << " + " << count << ", dim " << dim << ": " << r
             << ", " << e << " got " << got << " wanted " << sum;
        return text.str();
      }
    }
  }
  return "";
}

struct Part {
  Index token, first, count;
};
constexpr Part parts[] = {{0, 0, 96}, {0, 0, 32},   {32, 0, 32}, {0, 5, 1},
                          {7, 0, 9},  {16, 16, 16}, {3, 10, 70}, {95, 0, 1}};

}  // namespace

TEMPLATE_TEST_CASE("score is the product with the rounded keys", "[kv][quantized]", float, double) {
  std::string first;
  for (const Index dim : {1, 15, 33, 64, 80, 128}) {
    const Written<kv::QuantizedKeys<8>> eight(dim, 32, 96);
    const Written<kv::QuantizedKeys<4>> four(dim, 16, 96);
    for (Index queries = 1; queries <= 9; queries += queries < 5 ? 1 : 2) {
      const Rows<TestType> q(1, queries, dim, 8);
      for (const Part& part : parts) {
        if (first.empty()) first = wrong_score(eight, q, part.token, part.first, part.count);
        if (first.empty()) first = wrong_score(four, q, part.token, part.first, part.count);
      }
    }
  }
  CHECK(first == "");
}

TEMPLATE_TEST_CASE("add is the weighted sum of the rounded values", "[kv][quantized]", float, double) {
  std::string first;
  for (const Index dim : {1, 15, 33, 64, 80, 128}) {
    const Written<kv::QuantizedValues<8>> eight(dim, 32, 96);
    const Written<kv::QuantizedValues<4>> four(dim, 48, 96);
    for (Index rows = 1; rows <= 9; rows += rows < 5 ? 1 : 2) {
      const Rows<TestType> weights(1, rows, 96, 8);
      for (const Part& part : parts) {
        for (const bool shrinks : {false, true}) {
          if (first.empty()) first = wrong_sum(eight, weights, part.token, part.first, part.count, shrinks);
          if (first.empty()) first = wrong_sum(four, weights, part.token, part.first, part.count, shrinks);
        }
      }
    }
  }
  CHECK(first == "");
}

TEMPLATE_TEST_CASE("read gives the tokens that are asked for, and nothing behind them", "[kv][quantized]", float,
                   double) {
  int wrong = 0;
  const auto compare = [&](const auto& written) {
    const Index dim = written.format.dim, stride = dim + 3;
    for (const Part& part : parts) {
      std::vector<TestType> got(std::size_t(part.count * stride), support::nan<TestType>);
      written.run(part.token).read(part.first, part.count, got.data(), stride);
      for (Index j = 0; j < part.count; ++j) {
        for (Index d = 0; d < stride; ++d) {
          const TestType x = got[std::size_t(j * stride + d)];
          // One rounding where the multiplication is fused with the addition, two of at most a range of 16 else.
          const double slack = support::epsilon<TestType> * 16;
          wrong +=
              d < dim ? !(std::fabs(double(x) - written[part.token + part.first + j][d]) <= slack) : !std::isnan(x);
        }
      }
    }
  };
  for (const Index dim : {1, 15, 33, 80}) {
    compare(Written<kv::QuantizedKeys<8>>(dim, 32, 96));
    compare(Written<kv::QuantizedKeys<4>>(dim, 16, 96));
    compare(Written<kv::QuantizedValues<8>>(dim, 48, 96));
    compare(Written<kv::QuantizedValues<4>>(dim, 32, 96));
  }
  CHECK(wrong == 0);
}

TEST_CASE("attention to smooth tokens of 8 bits is within a hundredth", "[kv][quantized]") {
  constexpr Index dim = 64, tokens = 256;
  std::vector<float> k(tokens * dim), v(tokens * dim), q(dim);
  for (Index d = 0; d < dim; ++d) q[std::size_t(d)] = std::cos(float(d));
  for (Index j = 0; j < tokens; ++j) {
    for (Index d = 0; d < dim; ++d) {
      k[std::size_t(j * dim + d)] = std::sin(0.05f * float(j) + 0.3f * float(d));
      v[std::size_t(j * dim + d)] = std::cos(0.03f * float(j) - 0.2f * float(d));
    }
  }
  const auto attend = [&](const auto& score_of, const auto& value_of) {
    std::vector<double> out(dim, 0.0);
    double total = 0;
    for (Index j = 0; j < tokens; ++j) {
      const double weight = std::exp(score_of(j) / 8);
      total += weight;
      for (Index d = 0; d < dim; ++d) out[std::size_t(d)] += weight * value_of(j, d);
    }
    for (double& x : out) x /= total;
    return out;
  };
  const auto wanted = attend(
      [&](Index j) {
        double sum = 0;
        for (Index d = 0; d < dim; ++d) sum += double(q[std::size_t(d)]) * double(k[std::size_t(j * dim + d)]);
        return sum;
      },
      [&](Index j, Index d) { return double(v[std::size_t(j * dim + d)]); });

  const kv::QuantizedKeys<8> keys{dim, 32, 32};
  const kv::QuantizedValues<8> values{dim, 32, 32};
  std::vector<std::byte> key_memory(std::size_t(keys.bytes(tokens))), value_memory(std::size_t(values.bytes(tokens)));
  keys.write(key_memory.data(), 0, tokens, k.data(), dim);
  values.write(value_memory.data(), 0, tokens, v.data(), dim);
  std::vector<float> scores(tokens), rows(tokens * dim);
  std::vector<float> scratch(std::size_t(kv::CodedKeys<8>::scratch_size<float>(1, dim)));
  keys.run(key_memory.data(), 0).score(1, q.data(), dim, 0, tokens, scores.data(), tokens, scratch.data());
  values.run(value_memory.data(), 0).read(0, tokens, rows.data(), dim);
  const auto got = attend([&](Index j) { return double(scores[std::size_t(j)]); },
                          [&](Index j, Index d) { return double(rows[std::size_t(j * dim + d)]); });
  double error = 0, size = 0;
  for (std::size_t d = 0; d < std::size_t(dim); ++d) {
    error += (got[d] - wanted[d]) * (got[d] - wanted[d]);
    size += wanted[d] * wanted[d];
  }
  CHECK(std::sqrt(error / size) < 1e-2);
  CHECK(error > 0);
}
