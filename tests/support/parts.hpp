// Helpers of the tests of core, exec, simd and parts.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/config.hpp>
#include <fovea/parts/mask/mask.hpp>
#include <fovea/simd/ops.hpp>

namespace support {

using fovea::Index;

// What an ArgumentError says, or "accepted".
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const fovea::ArgumentError& error) {
    return error.what();
  }
  return "accepted";
}

template <class T>
std::vector<T> uniform(unsigned seed, Index n, double low = -1, double high = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (auto& value : x) value = T(distribution(engine));
  return x;
}

template <class T>
inline constexpr T nan = std::numeric_limits<T>::quiet_NaN();
template <class T>
inline constexpr double epsilon = double(std::numeric_limits<T>::epsilon());

template <class T>
using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
Word<T> bits(T x) {
  Word<T> word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}

template <class T>
T from_bits(Word<T> word) {
  T x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// Bit by bit, so that NaN equals itself and -0 differs from 0.
template <class T>
bool same_bits(const T* a, const T* b, Index n) {
  return n == 0 || std::memcmp(a, b, std::size_t(n) * sizeof(T)) == 0;
}

// |got - wanted| in units of the last place that T has at `wanted`.
template <class T, class Wide>
double ulps(T got, Wide wanted) {
  if (std::isnan(wanted) || std::isnan(got)) return std::isnan(wanted) && std::isnan(got) ? 0 : HUGE_VAL;
  if (std::isinf(wanted) || std::isinf(got)) return Wide(got) == wanted ? 0 : HUGE_VAL;
  using Limits = std::numeric_limits<T>;
  const int exponent = wanted == 0 ? Limits::min_exponent : std::max(std::ilogb(wanted) + 1, Limits::min_exponent);
  return double(std::fabs(Wide(got) - wanted) / std::ldexp(Wide(1), exponent - Limits::digits));
}

// `count` elements between two pages that may not be touched.
template <class T>
class Guarded {
 public:
  explicit Guarded(Index count) {
    const auto page = std::size_t(sysconf(_SC_PAGESIZE));
    const std::size_t inner = (std::size_t(count) * sizeof(T) + page - 1) / page * page;
    size_ = inner + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + page, inner, PROT_READ | PROT_WRITE);
    begin_ = reinterpret_cast<T*>(base_ + page);
    end_ = reinterpret_cast<T*>(base_ + page + inner);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }

  T* at_begin() const { return begin_; }
  T* at_end(Index n) const { return end_ - n; }  // n elements, the forbidden page right behind them

 private:
  std::size_t size_;
  char* base_;
  T *begin_, *end_;
};

inline std::string place(const fovea::mask::Region& r) {
  std::ostringstream text;
  text << "batch " << r.batch << " heads [" << r.heads.first << ", " << r.heads.last << ") queries [" << r.queries.first
       << ", " << r.queries.last << ") keys [" << r.keys.first << ", " << r.keys.last << ")";
  return text.str();
}

// Compares seen() and cover() of a mask with its predicate over everything that fits the shape (at most 64 keys); gives
// the first difference, or "". When `exact`, cover() must be none or full wherever that is true.
template <class Mask, class Predicate>
std::string mask_difference(const Mask& mask, const fovea::Shape& shape, const Predicate& predicate, bool exact) {
  using fovea::mask::Cover;
  const auto bound = mask.bind("test", shape);
  const auto difference = [&](const char* what, const fovea::mask::Region& region) {
    std::ostringstream text;
    text << what << ": N " << shape.queries << " M " << shape.keys << " " << place(region);
    return text.str();
  };
  for (Index b = 0; b < shape.batch; ++b) {
    std::vector<std::vector<std::uint64_t>> rows(std::size_t(shape.heads));
    for (Index h = 0; h < shape.heads; ++h) {
      for (Index i = 0; i < shape.queries; ++i) {
        std::uint64_t row = 0;
        for (Index j = 0; j < shape.keys; ++j) row |= std::uint64_t{predicate(fovea::Site{b, h, i, j})} << j;
        rows[std::size_t(h)].push_back(row);
        for (Index first = 0; first <= shape.keys; ++first) {
          for (Index last = first; last <= shape.keys; ++last) {
            const std::uint64_t all = last - first == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (last - first)) - 1;
            const std::uint64_t wanted = first == 64 ? 0 : (row >> first) & all;
            if (bound.seen({b, h, i}, {first, last}) != wanted)
              return difference("seen", {b, {h, h + 1}, {i, i + 1}, {first, last}});
          }
        }
      }
    }
    for (Index h0 = 0; h0 < shape.heads; ++h0) {
      for (Index h1 = h0 + 1; h1 <= shape.heads; ++h1) {
        for (Index i0 = 0; i0 < shape.queries; ++i0) {
          std::uint64_t any = 0, every = ~std::uint64_t{0};
          for (Index i1 = i0 + 1; i1 <= shape.queries; ++i1) {
            for (Index h = h0; h < h1; ++h) {
              any |= rows[std::size_t(h)][std::size_t(i1 - 1)];
              every &= rows[std::size_t(h)][std::size_t(i1 - 1)];
            }
            for (Index first = 0; first < shape.keys; ++first) {
              for (Index last = first + 1; last <= shape.keys; ++last) {
                const std::uint64_t span =
                    (last - first == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (last - first)) - 1) << first;
                const bool none = (any & span) == 0, full = (every & span) == span;
                const fovea::mask::Region region{b, {h0, h1}, {i0, i1}, {first, last}};
                const Cover cover = bound.cover(region);
                if ((cover == Cover::none && !none) || (cover == Cover::full && !full))
                  return difference("cover is wrong", region);
                if (exact && cover != (none ? Cover::none : full ? Cover::full : Cover::part))
                  return difference("cover is not exact", region);
                if constexpr (fovea::mask::Lists<decltype(bound)>) {
                  // Ascending spans of the region that hold all that is seen of it; `full` where all of one is.
                  Index end = first;
                  std::uint64_t listed = 0;
                  bool sound = true;
                  bound.each_span(region, [&](fovea::Span keys, bool all) {
                    sound = sound && keys.first >= end && keys.last > keys.first && keys.last <= last;
                    end = keys.last;
                    const std::uint64_t bits = fovea::mask::low_bits(keys.size()) << keys.first;
                    listed |= bits;
                    sound = sound && (!all || (every & bits) == bits);
                  });
                  if (!sound || (any & span & ~listed) != 0) return difference("each_span is wrong", region);
                  if (exact && (listed & ~any) != 0) return difference("each_span is not exact", region);
                }
              }
            }
          }
        }
      }
    }
  }
  return "";
}

// The same over every number of queries and keys up to `most`.
template <class Mask, class Predicate>
std::string mask_difference_everywhere(Index most, const Mask& mask, const Predicate& predicate_of, bool exact) {
  for (Index queries = 0; queries <= most; ++queries) {
    for (Index keys = 0; keys <= most; ++keys) {
      const fovea::Shape shape{1, 1, 1, queries, keys};
      const auto difference = mask_difference(mask, shape, predicate_of(shape), exact);
      if (!difference.empty()) return difference;
    }
  }
  return "";
}

// seen() on every offset and every size up to a word, where there are more keys than a word has bits.
template <class Mask, class Predicate>
std::string long_mask_difference(const Mask& mask, const fovea::Shape& shape, const Predicate& predicate) {
  const auto bound = mask.bind("test", shape);
  for (Index i = 0; i < shape.queries; ++i) {
    for (Index first = 0; first <= shape.keys; ++first) {
      std::uint64_t wanted = 0;
      for (Index last = first; last <= std::min(first + 64, shape.keys); ++last) {
        if (last > first) wanted |= std::uint64_t{predicate(fovea::Site{0, 0, i, last - 1})} << (last - 1 - first);
        if (bound.seen({0, 0, i}, {first, last}) != wanted) return place({0, {0, 1}, {i, i + 1}, {first, last}});
      }
    }
  }
  return "";
}

// Applies a score to every query of the shape over key spans of odd sizes and offsets. `formula(s, site)` gives the new
// score in double, `allowed(s, site)` how far the result may be from it. Gives the first difference, or "".
template <class T, class Score, class Formula, class Allowed>
std::string score_difference(const Score& score, const fovea::Shape& shape, const Formula& formula,
                             const Allowed& allowed) {
  const auto bound = score.template bind<T>("test", shape);
  const auto given = uniform<T>(7, shape.keys, -3, 3);
  const Index longest = std::min(shape.keys, 2 * fovea::simd::lanes<T> + 3);
  const Guarded<T> memory(longest + 1);
  for (Index b = 0; b < shape.batch; ++b) {
    for (Index h = 0; h < shape.heads; ++h) {
      for (Index i = 0; i < shape.queries; ++i) {
        for (Index size = 0; size <= longest; ++size) {
          for (Index first = 0; first + size <= shape.keys; first += 3) {
            T* const x = memory.at_end(size);
            std::memcpy(x, given.data() + first, std::size_t(size) * sizeof(T));
            bound(x, fovea::Row{b, h, i}, fovea::Span{first, first + size});
            for (Index j = 0; j < size; ++j) {
              const fovea::Site site{b, h, i, first + j};
              const double s = double(given[std::size_t(first + j)]);
              if (!(std::fabs(double(x[j]) - formula(s, site)) <= allowed(s, site)))
                return (std::ostringstream() << "got " << x[j] << " wanted " << formula(s, site) << " element " << j
                                             << " of " << place({b, {h, h + 1}, {i, i + 1}, {first, first + size}}))
                    .str();
            }
          }
        }
      }
    }
  }
  return "";
}

}  // namespace support
