// Sequences in caches, filled once and kept for the benches that come back to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>

#include "definition.hpp"
#include "machine.hpp"
#include "numbers.hpp"

namespace bench::cached {

inline void add_numbers(std::string& name, std::initializer_list<Index> numbers) {
  for (const Index n : numbers) name.append(1, ' ').append(std::to_string(n));
}

// Things that took long to make, by name; the last ones, up to 2 GiB.
inline std::shared_ptr<const void> keep(const std::string& name, const std::shared_ptr<const void>& made = nullptr,
                                        double bytes = 0) {
  struct Named {
    std::string name;
    std::shared_ptr<const void> thing;
    double bytes;
  };
  static std::list<Named> all;
  if (made) {
    all.push_front({name, made, bytes});
    double sum = 0;
    all.remove_if([&](const Named& one) { return (sum += one.bytes) > 2.0 * (1 << 30) && one.thing != made; });
    return made;
  }
  const auto found = std::find_if(all.begin(), all.end(), [&](const Named& one) { return one.name == name; });
  if (found == all.end()) return nullptr;
  all.splice(all.begin(), all, found);
  return all.front().thing;
}

// Tokens of each sequence of a shape: all its keys, or from a sixteenth of them up to all when they are ragged.
inline std::vector<Index> lengths_of(const Shape& s, bool ragged) {
  std::vector<Index> lengths(std::size_t(s.batch), s.keys);
  if (!ragged) return lengths;
  for (Index b = 0; b < s.batch; ++b) {
    const Index place = (7 * b + 3) % s.batch;  // in no order
    lengths[std::size_t(b)] =
        Index(std::lround(double(s.keys) * std::exp2(-4 + 4 * double(place) / double(s.batch - 1))));
  }
  return lengths;
}

// Tokens of a page, as the pattern of the shape says: paged_16, paged_16_strewn; zero when the cache is contiguous.
inline Index page_tokens(const Shape& s) {
  const std::string start = "paged_";
  return s.pattern.label.starts_with(start) ? std::stoll(s.pattern.label.substr(start.size())) : 0;
}

template <class Tag>
class Sequences {
 public:
  using Source = decltype(std::declval<const fovea::cache::Contiguous<Tag>&>().source());

  // A sequence, whatever holds it.
  struct View {
    Source stored;
    const Source& source() const { return stored; }
  };

  Sequences(const Shape& shape, const std::vector<Index>& lengths) : shape_(shape), original_(shape) {
    if (const Index page = page_tokens(shape); page > 0) {
      fill_pages(page, lengths);
    } else {
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        contiguous_.push_back(fovea::cache::Contiguous<Tag>({.kv_heads = shape.kv_heads,
                                                             .key_dim = shape.key_dim,
                                                             .value_dim = shape.value_dim,
                                                             .reserve = lengths[b]}));
        for (Index t = 0; t < lengths[b]; t += 256)
          append(contiguous_.back(), Index(b), t, std::min<Index>(256, lengths[b] - t));
      }
      for (const auto& sequence : contiguous_) views_.push_back({sequence.source()});
    }
  }

  const std::vector<View>& views() const { return views_; }
  const Original& original() const { return original_; }

  // Bytes that a call reads: what is stored, with its scales, and the tokens that wait in full precision.
  double bytes() const {
    double sum = 0;
    const auto add = [&](const auto& side, Index heads) {
      const Index block = side.format.block(), settled = (side.stored + block - 1) / block * block;
      const Index whole = settled / side.page, rest = settled % side.page;
      sum += double(heads) * (double(whole) * double(side.format.bytes(side.page)) + double(side.format.bytes(rest)));
      sum += double(heads) * double(side.length - side.stored) * double(side.format.dim) * sizeof(float);
    };
    for (const View& view : views_) {
      add(view.stored.k, view.stored.heads);
      add(view.stored.v, view.stored.heads);
    }
    return sum;
  }

  // Where they lie: one stretch of memory for the keys of each sequence and one for its values, of a pool the stretches
  // that hold them all. Nothing, if much of that is not theirs.
  std::vector<Bytes> areas() const {
    std::vector<Bytes> all;
    const auto add = [&](const auto& side, Index heads, bool joined) {
      const Index pages = (side.stored + side.page - 1) / side.page;
      if (pages == 0) return;
      const auto [low, high] = std::minmax_element(side.pages, side.pages + pages);
      const std::byte* begin = *low + side.offset;
      const std::byte* end = *high + side.offset + (heads - 1) * side.head_bytes + side.format.bytes(side.page);
      if (joined) {
        const auto* const before = static_cast<const std::byte*>(all.back().data);
        end = std::max(end, before + all.back().size);
        begin = std::min(begin, before);
        all.pop_back();
      }
      all.push_back({begin, std::size_t(end - begin)});
    };
    const bool paged = !paged_.empty();
    for (const View& view : views_) add(view.stored.k, view.stored.heads, paged && !all.empty());
    const std::size_t keys = all.size();
    for (const View& view : views_) add(view.stored.v, view.stored.heads, paged && all.size() > keys);
    double size = 0;
    for (const Bytes& area : all) size += double(area.size);
    return size <= 1.1 * bytes() ? all : std::vector<Bytes>{};
  }

  // The tokens as they were stored, and as they were before.
  Reader stored() const {
    return {[this](Index b, Index h, fovea::Span tokens, double* to) {
              const Source& from = views_[std::size_t(b)].stored;
              from.each_keys(0, h, tokens, [&](fovea::Span part, const auto& run) {
                run.read(0, part.size(), to + (part.first - tokens.first) * shape_.key_dim, shape_.key_dim);
              });
            },
            [this](Index b, Index h, fovea::Span tokens, double* to) {
              const Source& from = views_[std::size_t(b)].stored;
              from.each_values(0, h, tokens, [&](fovea::Span part, const auto& run) {
                run.read(0, part.size(), to + (part.first - tokens.first) * shape_.value_dim, shape_.value_dim);
              });
            }};
  }
  Reader before() const {
    const auto side = [this](Side which, Index dim) {
      return [=, this](Index b, Index h, fovea::Span tokens, double* to) {
        std::vector<float> rows(std::size_t(tokens.size() * dim));
        original_.read(which, b, h, tokens.first, tokens.size(), rows.data());
        std::copy(rows.begin(), rows.end(), to);
      };
    };
    return {side(Side::keys, shape_.key_dim), side(Side::values, shape_.value_dim)};
  }

 private:
  template <class Cache>
  void append(Cache& cache, Index batch, Index first, Index count) const {
    Tensor<float> k(1, shape_.kv_heads, count, shape_.key_dim), v(1, shape_.kv_heads, count, shape_.value_dim);
    for (Index h = 0; h < shape_.kv_heads; ++h) {
      original_.read(Side::keys, batch, h, first, count, &k(0, h, 0, 0));
      original_.read(Side::values, batch, h, first, count, &v(0, h, 0, 0));
    }
    cache.append(k, v);
  }

  // All grow by turns, a page at a time. Strewn: the pool is full of others, and each page is one that the next of them
  // has just given back.
  void fill_pages(Index page, const std::vector<Index>& lengths) {
    Index pages = 0;
    for (const Index length : lengths) pages += (length + page - 1) / page;
    pool_.emplace(fovea::cache::PoolOptions{.kv_heads = shape_.kv_heads,
                                            .key_dim = shape_.key_dim,
                                            .value_dim = shape_.value_dim,
                                            .page_tokens = page,
                                            .pages = pages});
    std::vector<fovea::cache::Paged<Tag>> others;
    if (shape_.pattern.label.ends_with("strewn")) {
      for (Index n = 0; n < 16; ++n) others.emplace_back(*pool_);
      for (std::size_t n = 0; pool_->free_pages() > 0; ++n) append(others[n % others.size()], 0, 0, page);
    }
    std::size_t turn = 0;
    const auto give_back = [&] {
      auto& other = others[turn++ % others.size()];
      other.truncate(std::max<Index>(0, other.length() - page));
    };
    for (std::size_t b = 0; b < lengths.size(); ++b) paged_.emplace_back(*pool_);
    for (Index t = 0, grown = 1; grown > 0; t += page) {
      grown = 0;
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        if (t >= lengths[b]) continue;
        if (!others.empty()) give_back();
        append(paged_[b], Index(b), t, std::min(page, lengths[b] - t));
        ++grown;
      }
    }
    for (const auto& sequence : paged_) views_.push_back({sequence.source()});
  }

  Shape shape_;
  Original original_;
  std::vector<fovea::cache::Contiguous<Tag>> contiguous_;
  std::optional<fovea::cache::Pool<Tag>> pool_;
  std::vector<fovea::cache::Paged<Tag>> paged_;
  std::vector<View> views_;
};

// Those of a shape, shared by all that have the same keys and values.
template <class Tag>
std::shared_ptr<const Sequences<Tag>> sequences(const Shape& s, bool ragged = false) {
  std::string name = s.type + " " + s.pattern.label + " " + s.data + (ragged ? " ragged" : "");
  add_numbers(name, {s.batch, s.kv_heads, s.keys, s.key_dim, s.value_dim});
  if (const auto there = keep(name)) return std::static_pointer_cast<const Sequences<Tag>>(there);
  const auto made = std::make_shared<const Sequences<Tag>>(s, lengths_of(s, ragged));
  keep(name, made, made->bytes());
  return made;
}

}  // namespace bench::cached
