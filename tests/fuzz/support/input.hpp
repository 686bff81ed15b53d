// What the harnesses share: choices and numbers read from the input, arrays that end where their numbers end, an
// executor that cuts work in any way, and how a harness reports.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fovea/core/check.hpp>
#include <fovea/core/span.hpp>
#include <fovea/core/view.hpp>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

namespace fovea::fuzz {

// Ends the run, and libFuzzer keeps the input.
template <class... Parts>
[[noreturn, gnu::noinline]] void fail(const Parts&... parts) {
  std::cerr << "harness: ";
  (std::cerr << ... << parts);
  std::cerr << std::endl;
  std::abort();
}
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) fail(parts...);
}

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

// Choices of the harness. At the end of the input each is the first one.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}

  Index between(Index first, Index last) { return bytes_.ConsumeIntegralInRange<Index>(first, last); }
  bool flag() { return bytes_.ConsumeBool(); }
  bool one_in(Index n) { return between(0, n - 1) == n - 1; }
  std::uint32_t word() { return bytes_.ConsumeIntegral<std::uint32_t>(); }
  template <class X, std::size_t n>
  X one_of(const std::array<X, n>& all) {
    return all[std::size_t(between(0, Index(n) - 1))];
  }
  bool at_end() { return bytes_.remaining_bytes() == 0; }
  std::string rest() { return bytes_.ConsumeRemainingBytesAsString(); }

 private:
  FuzzedDataProvider bytes_;
};

// Random numbers that are cheap to begin.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
  }
  Index below(Index n) { return Index(bits() % std::uint64_t(n)); }
  double uniform() { return double(bits() >> 11) * 0x1p-53; }
  // Nearly normal: mean 0, deviation 1.
  double normal() { return (uniform() + uniform() + uniform() + uniform() - 2) * std::sqrt(3.0); }

 private:
  std::uint64_t state_;
};

enum class Kind { normal, sharp, small_integers, constant, many_sizes };

inline double number(Kind kind, Random& random) {
  switch (kind) {
    case Kind::normal:
      return random.normal();
    case Kind::sharp:
      return 4 * random.normal();
    case Kind::small_integers:
      return double(random.below(5)) - 2;
    case Kind::constant:
      return 1;
    case Kind::many_sizes:
      return std::ldexp(random.normal(), int(random.below(41)) - 20);
  }
  return 0;
}

inline Kind kind_of(Input& in) { return Kind(in.between(0, 4)); }

// An array [batch, heads, length, dim] in a memory of its own that ends with its last number, so that the address
// sanitizer sees what goes past it; what lies between its rows is NaN.
template <class T>
struct Array {
  std::vector<T> memory;
  View<T> view;

  Index size() const { return view.batch * view.heads * view.length * view.dim; }
  template <class F>
  void each(F&& f) const {
    for (Index b = 0; b < view.batch; ++b) {
      for (Index h = 0; h < view.heads; ++h) {
        for (Index i = 0; i < view.length; ++i) {
          for (Index d = 0; d < view.dim; ++d) f(view.row(b, h, i)[d]);
        }
      }
    }
  }
  // Whether every number, or all that lies between the rows, is the NaN that it was at first.
  bool untouched() const { return all_blank(memory); }
  bool untouched_between_rows() const {
    Array copy = *this;
    copy.view.data = copy.memory.data() + (view.data - memory.data());
    copy.each([](T& x) { x = not_a_number<T>; });
    return all_blank(copy.memory);
  }

 private:
  static bool all_blank(const std::vector<T>& x) {
    const T blank = not_a_number<T>;
    return std::all_of(x.begin(), x.end(), [&](const T& y) { return std::memcmp(&y, &blank, sizeof(T)) == 0; });
  }
};

// All NaN. Layouts: the axes before the last one in any order, with gaps behind rows and heads, at any address.
template <class T>
Array<T> blank_array(Input& in, const Extents& e) {
  static constexpr int orders[6][3] = {{2, 1, 0}, {1, 2, 0}, {2, 0, 1}, {0, 2, 1}, {1, 0, 2}, {0, 1, 2}};
  const Index layout = in.between(0, 17);  // the first one is contiguous
  const bool gaps = layout >= 12, offset = layout >= 6;
  const Index extents[3] = {e.batch, e.heads, e.length};
  Index stride[3] = {}, step = e.dim + (gaps ? in.between(0, 3) : 0);
  for (const int axis : orders[layout % 6]) {
    stride[axis] = step;
    step = step * std::max<Index>(extents[axis], 1) + (gaps ? in.between(0, 3) : 0);
  }
  const Index begin = offset ? in.between(0, 3) : 0;
  Index size = begin;
  if (e.batch > 0 && e.heads > 0 && e.length > 0 && e.dim > 0)
    size += (e.batch - 1) * stride[0] + (e.heads - 1) * stride[1] + (e.length - 1) * stride[2] + e.dim;
  Array<T> array{std::vector<T>(std::size_t(size), not_a_number<T>), {}};
  array.memory.shrink_to_fit();
  array.view = {array.memory.data() + begin, e.batch, e.heads, e.length, e.dim, stride[0], stride[1], stride[2]};
  return array;
}

// Filled by one of several rules; `special`: with some numbers that the input names, infinities and NaN among them.
template <class T>
Array<T> array_of(Input& in, const Extents& extents, bool special = false) {
  auto array = blank_array<T>(in, extents);
  const Kind kind = kind_of(in);
  Random random(in.between(0, 255));
  array.each([&](T& x) { x = T(number(kind, random)); });
  const Index specials = special && array.size() > 0 ? in.between(0, 4) : 0;
  for (Index n = 0; n < specials; ++n) {
    static constexpr std::array values = {T(0),
                                          -T(0),
                                          T(1e30),
                                          T(-1e30),
                                          not_a_number<T>,
                                          infinity<T>,
                                          -infinity<T>,
                                          std::numeric_limits<T>::max(),
                                          std::numeric_limits<T>::min(),
                                          std::numeric_limits<T>::denorm_min()};
    const View<T>& v = array.view;
    const Index b = in.between(0, v.batch - 1), h = in.between(0, v.heads - 1), i = in.between(0, v.length - 1);
    v.row(b, h, i)[in.between(0, v.dim - 1)] = in.one_of(values);
  }
  return array;
}

// Runs pieces of any size, forwards or backwards, on one thread.
struct Workers {
  Index threads = 1, piece = 1 << 20;
  bool backwards = false;

  Index concurrency() const { return threads; }
  template <class F>
  void parallel_for(Index count, double, F&& f) const {
    const Index pieces = (count + piece - 1) / piece;
    for (Index n = 0; n < pieces; ++n) {
      const Index at = backwards ? pieces - 1 - n : n;
      f(at * piece, std::min(count, (at + 1) * piece));
    }
  }
};

inline Workers workers(Input& in) {
  return {in.between(1, 5), in.flag() ? Index{1} << 20 : in.between(1, 4), in.flag()};
}

// memcmp() takes no null pointers.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Whether a call is refused, and that nothing but an ArgumentError comes out of it.
template <class F>
bool refused(F&& f) {
  try {
    f();
    return false;
  } catch (const ArgumentError& error) {
    require(std::strncmp(error.what(), "fovea::", 7) == 0, "a refusal that names no function: ", error.what());
    return true;
  }
}

}  // namespace fovea::fuzz
