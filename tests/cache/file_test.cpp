// Files of caches: what is read is what was written, in either kind of cache; damaged, cut, foreign and boastful files
// are refused and change nothing.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <sstream>

#include "cache/sequence.hpp"
#include "support/catch.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::cache::Contiguous;
using fovea::cache::FormatError;
using fovea::cache::Paged;
using fovea::cache::Pool;
using fovea::kv::Int4;
using fovea::kv::Int8;

namespace {

const Widths narrow{2, 5, 3};

template <class K, class V = K>
Contiguous<K, V> contiguous(const Widths& w = narrow, bool rotated = true) {
  return Contiguous<K, V>(
      {.kv_heads = w.heads, .key_dim = w.key_dim, .value_dim = w.value_dim, .rotated = rotated, .grouping = {16, 32}});
}
template <class K, class V = K>
Pool<K, V> pool(Index page_tokens, const Widths& w = narrow, Index pages = 0, bool may_grow = true) {
  return Pool<K, V>({.kv_heads = w.heads,
                     .key_dim = w.key_dim,
                     .value_dim = w.value_dim,
                     .page_tokens = page_tokens,
                     .pages = pages,
                     .may_grow = may_grow,
                     .grouping = {16, 32}});
}

template <class Cache>
std::string saved(const Cache& cache) {
  std::ostringstream to;
  cache.save(to);
  return to.str();
}

// What load() says of a file, or "accepted".
template <class Cache>
std::string answer(Cache& cache, const std::string& file) {
  std::istringstream from(file);
  try {
    cache.load(from);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

template <class Cache>
List all_of(const Cache& cache) {
  std::string trouble;
  return read<double>(cache.source(), 0, {0, cache.length()}, trouble);
}

std::uint32_t checksum(const char* data, std::size_t size) {
  std::uint32_t x = ~0u;
  for (std::size_t n = 0; n < size; ++n) {
    x ^= std::uint8_t(data[n]);
    for (int bit = 0; bit < 8; ++bit) x = (x >> 1) ^ (x % 2 != 0 ? 0xedb88320u : 0u);
  }
  return ~x;
}

// The file with another number at a place of the header, whose checksum agrees again.
template <class N>
std::string with(std::string file, std::size_t at, N number) {
  std::memcpy(file.data() + at, &number, sizeof number);
  const auto sum = checksum(file.data(), 96);
  std::memcpy(file.data() + 96, &sum, 4);
  return file;
}
// The same with another number among the tokens.
template <class N>
std::string with_token(std::string file, std::size_t at, N number) {
  std::memcpy(file.data() + at, &number, sizeof number);
  const std::size_t end = file.size() - 4;
  const auto sum = checksum(file.data() + 100, end - 100);
  std::memcpy(file.data() + end, &sum, 4);
  return file;
}

template <class K, class V>
void check_round_trips(Index length, Index page_tokens) {
  const auto x = random_tokens<float>(narrow, length, 1), y = random_tokens<float>(narrow, 40, 2);
  auto first = contiguous<K, V>();
  first.append(x.k, x.v);
  first.append(y.k, y.v);
  first.truncate(length);
  const std::string file = saved(first);
  const List wanted = all_of(first);
  INFO("length " << length << ", pages of " << page_tokens);

  const auto pages = pool<K, V>(page_tokens);
  auto second = contiguous<K, V>();
  Paged<K, V> third(pages);
  for (const Index before : {0, 50}) {  // tokens of its own go
    const auto z = random_tokens<float>(narrow, before, 3);
    second.append(z.k, z.v);
    third.append(z.k, z.v);
    REQUIRE(answer(second, file) == "accepted");
    REQUIRE(answer(third, file) == "accepted");
    REQUIRE(all_of(second) == wanted);
    REQUIRE(all_of(third) == wanted);
    REQUIRE(saved(second) == file);
    REQUIRE(saved(third) == file);
  }
  // What follows is the same, too: tokens in full precision have come along.
  for (auto change : {-20, 40, -30, 100}) {
    const auto z = random_tokens<float>(narrow, std::max(change, 0), 4);
    const auto go_on = [&](auto& cache) {
      if (change < 0)
        cache.truncate(std::max<Index>(0, cache.length() + change));
      else
        cache.append(z.k, z.v);
      return all_of(cache);
    };
    const List next = go_on(first);
    REQUIRE(go_on(second) == next);
    REQUIRE(go_on(third) == next);
  }
}

}  // namespace

TEST_CASE("What is loaded is what was saved, in contiguous and in paged caches") {
  for (const Index length : {0, 1, 63, 64, 65, 200}) {
    check_round_trips<float, double>(length, 7);
    check_round_trips<Int4, Int8>(length, 32);
  }
  check_round_trips<Eigen::bfloat16, Eigen::half>(150, 1);
  check_round_trips<Int8, float>(150, 96);
}

TEST_CASE("The file is laid out as docs/cache_format.md says") {
  auto cache = contiguous<float, Eigen::half>(Widths{2, 3, 2}, false);
  Appended<float> x{Tensor3<float>(2, 65, 3), Tensor3<float>(2, 65, 2)};
  for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] = float(n);
  for (Index n = 0; n < x.v.size(); ++n) x.v.data()[n] = float(n) / 2;
  cache.append(x.k, x.v);
  const std::string file = saved(cache);
  REQUIRE(file.size() == 100 + 65 * 2 * (3 * 4 + 2 * 2) + 4);
  CHECK(file.substr(0, 8) == "fovea-kv");
  const auto number = [&](auto kind, std::size_t at) {
    std::memcpy(&kind, file.data() + at, sizeof kind);
    return kind;
  };
  const std::uint32_t words[] = {1, 0, 1, 4};
  for (std::size_t n = 0; n < 4; ++n) CHECK(number(std::uint32_t(), 8 + 4 * n) == words[n]);
  const Index numbers[] = {2, 3, 2, 0, 0, 65, 65, 65};
  for (std::size_t n = 0; n < 8; ++n) CHECK(number(Index(), 24 + 8 * n) == numbers[n]);
  CHECK(number(std::uint32_t(), 96) == checksum(file.data(), 96));
  std::size_t at = 100;
  Index different = 0;
  for (Index first = 0; first < 65; first += 64) {
    for (Index h = 0; h < 2; ++h) {
      for (Index t = first; t < std::min<Index>(65, first + 64); ++t) {
        for (Index d = 0; d < 3; ++d, at += 4) different += number(float(), at) != x.k(h, t, d);
      }
    }
    for (Index h = 0; h < 2; ++h) {
      for (Index t = first; t < std::min<Index>(65, first + 64); ++t) {
        for (Index d = 0; d < 2; ++d, at += 2) {
          const auto raw = Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(x.v(h, t, d)));
          different += number(std::uint16_t(), at) != raw;
        }
      }
    }
  }
  CHECK(different == 0);
  CHECK(number(std::uint32_t(), at) == checksum(file.data() + 100, at - 100));
}

TEST_CASE("Several caches can follow one another in a stream") {
  std::stringstream stream;
  auto a = contiguous<float>(), b = contiguous<float>();
  const auto x = random_tokens<float>(narrow, 70, 1);
  a.append(x.k, x.v);
  a.save(stream);
  b.save(stream);
  auto c = contiguous<float>();
  c.load(stream);
  CHECK(all_of(c) == all_of(a));
  c.load(stream);
  CHECK(c.length() == 0);
}

TEMPLATE_TEST_CASE("A file with any byte changed or any part missing is refused", "", float, Int8) {
  auto cache = contiguous<TestType, Eigen::half>();
  const auto x = random_tokens<float>(narrow, 36, 1);
  cache.append(x.k, x.v);
  const std::string file = saved(cache);
  auto other = contiguous<TestType, Eigen::half>();
  Paged<TestType, Eigen::half> paged(pool<TestType, Eigen::half>(32));
  other.append(x.part({0, 9}).k, x.part({0, 9}).v);
  const List before = all_of(other);
  Index accepted = 0;
  for (std::size_t n = 0; n < file.size(); ++n) {
    for (const int flip : {1, 0x80, 0xff}) {
      std::string damaged = file;
      damaged[n] = char(damaged[n] ^ flip);
      accepted += answer(other, damaged) == "accepted";
      accepted += answer(paged, damaged) == "accepted";
    }
    accepted += answer(other, file.substr(0, n)) == "accepted";
    accepted += answer(paged, file.substr(0, n)) == "accepted";
  }
  CHECK(accepted == 0);
  CHECK(all_of(other) == before);
  CHECK(paged.length() == 0);
  CHECK(paged.pool().free_pages() == paged.pool().pages());
  CHECK(answer(other, file) == "accepted");
}

TEST_CASE("Files of another version or kind are refused with what was wanted and what came") {
  auto cache = contiguous<float, Int8>();
  const auto x = random_tokens<float>(narrow, 40, 1);
  cache.append(x.k, x.v);
  const std::string file = saved(cache), load = "fovea::cache::Contiguous::load: ";
  const auto changed = [&](std::size_t at, auto number) { return answer(cache, with(file, at, number)); };
  CHECK(answer(cache, "") == load + "the file ends too early, or cannot be read");
  CHECK(answer(cache, std::string(200, 'x')) == load + "this is not the file of a cache");
  CHECK(changed(8, 2u) == load + "unknown version of the file, wanted 1, got 2");
  CHECK(changed(12, 0u) == load + "keys of the cache are stored after their rotation, those of the file are not");
  CHECK(changed(12, 7u) != "accepted");
  CHECK(changed(16, 3u) ==
        load + "the storage type of the keys of the file must be that of the cache, wanted float, got bfloat16");
  CHECK(changed(20, 77u) ==
        load + "the storage type of the values of the file must be that of the cache, wanted int8, got number 77");
  CHECK(changed(24, Index{3}) ==
        load + "the number of kv heads of the file must be that of the cache, wanted 2, got 3");
  CHECK(changed(32, Index{6}) == load + "the width of the keys of the file must be that of the cache, wanted 5, got 6");
  CHECK(changed(40, Index{1} << 60) ==
        load + "the width of the values of the file must be that of the cache, wanted 3, got 1152921504606846976");
  CHECK(changed(48, Index{32}) == load + "the group of the file must be that of the cache, wanted 16, got 32");
  CHECK(changed(56, Index{0}) == load + "the residual of the file must be that of the cache, wanted 32, got 0");
  CHECK(changed(64, Index{-1}) != "accepted");
  CHECK(changed(72, Index{0}) == load + "tokens in full precision must begin between 40 and 40, got 0");
  CHECK(changed(80, Index{9}) == load + "tokens in full precision must begin between 0 and 8, got 9");
  CHECK(changed(80, Index{-1}) != "accepted");
  auto before_rotation = contiguous<float, Int8>(narrow, false);
  CHECK(answer(before_rotation, file) ==
        load + "keys of the cache are stored before their rotation, those of the file are not");
  CHECK(answer(cache, with(file, 8, 1u)) == "accepted");
}

TEST_CASE("Whatever length a file claims, memory is taken as tokens arrive") {
  auto cache = contiguous<float>();
  const auto x = random_tokens<float>(narrow, 100, 1);
  cache.append(x.k, x.v);
  const std::string file = saved(cache);
  const List before = all_of(cache);
  Paged<float> paged(pool<float>(16, narrow, 2));
  for (const Index length : {Index{101}, Index{1} << 31, Index{1} << 50, std::numeric_limits<Index>::max()}) {
    std::string boastful = with(file, 64, length);
    boastful = with(boastful, 72, length);
    boastful = with(boastful, 80, length);
    CHECK(answer(cache, boastful) != "accepted");
    CHECK(answer(paged, boastful) != "accepted");
    CHECK(paged.pool().pages() < 100);
  }
  CHECK(all_of(cache) == before);
  CHECK(paged.pool().free_pages() == paged.pool().pages());
}

TEST_CASE("Quantised numbers that are not finite are refused") {
  auto cache = contiguous<Int8>();
  const auto x = random_tokens<float>(narrow, 70, 1);
  cache.append(x.k, x.v);
  const std::string file = saved(cache);
  // Any 16 bits become an infinity, as those of a scale or a minimum may; any 32 bits a NaN.
  Index refused = 0, infinite = 0;
  for (std::size_t n = 100; n + 8 <= file.size(); n += 2) {
    for (const std::string& bad :
         {with_token(file, n, std::uint16_t{0x7c00}), with_token(file, n, std::uint32_t{0x7fc00000})}) {
      auto other = contiguous<Int8>();
      if (answer(other, bad) != "accepted") {
        ++refused;
        continue;
      }
      for (const auto& token : all_of(other))
        infinite += std::any_of(token.begin(), token.end(), [](double number) { return !std::isfinite(number); });
    }
  }
  CHECK(infinite == 0);
  CHECK(refused > 0);
}

TEST_CASE("Files that do not fit into what may not grow are refused") {
  auto cache = contiguous<float>();
  const auto x = random_tokens<float>(narrow, 40, 1);
  cache.append(x.k, x.v);
  const std::string file = saved(cache);
  Contiguous<float> small({.kv_heads = 2, .key_dim = 5, .value_dim = 3, .reserve = 39, .may_grow = false});
  CHECK(answer(small, file) ==
        "fovea::cache::Contiguous::load: the cache may not grow, it has room for 39 tokens, the file has 40");
  small.reserve(41);
  CHECK(answer(small, file) == "accepted");
  CHECK(small.capacity() == 41);

  const auto pages = pool<float>(8, narrow, 5, false);
  Paged<float> paged(pages);
  CHECK(answer(paged, file) == "accepted");
  CHECK(answer(paged, file) == "fovea::cache::Paged::load: the pool may not grow, it has 0 free pages, wanted 5");
  CHECK(all_of(paged) == all_of(cache));
}

TEST_CASE("A stream that cannot be written is noticed") {
  auto cache = contiguous<float>();
  std::ostringstream to;
  to.setstate(std::ios::badbit);
  std::string message;
  try {
    cache.save(to);
  } catch (const FormatError& error) {
    message = error.what();
  }
  CHECK(message == "fovea::cache::Contiguous::save: the stream does not take what is written");
}
