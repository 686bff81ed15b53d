// The tree search: by hand, against scores taken one by one, and where it must be exact.
#include <fovea/parts/select/tree.hpp>
#include <numeric>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::select::BlockScores;
using fovea::select::TreeSearch;
using List = std::vector<Index>;

namespace {

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

// Multiples of 1/8 up to 4: products are exact in any order.
template <class T>
std::vector<T> grid(unsigned seed, Index n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  std::mt19937 random(seed);
  for (T& value : x) value = T(int(random() % 65) - 32) / 8;
  return x;
}

// Queries of one row and keys of width one, by their scores.
List halve(const std::vector<double>& keys, Index most, Index block = 1) {
  const double one = 1;
  TreeSearch<double> search(1, 1, block);
  const Index count = Index(keys.size());
  const auto found = search.halve({&one, 1, 1}, {keys.data(), 1, count, block}, (count + block - 1) / block, most);
  return {found.begin(), found.end()};
}

}  // namespace

TEST_CASE("halving by hand") {
  CHECK(halve({5, 0, 0, 0, 0, 0, 9, 0}, 2) == List{0, 6});
  CHECK(halve({1, 0, 0, 9, 1, 0, 0, 0}, 2) == List{0, 4});  // key 3 lies behind a low representative
  CHECK(halve({3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, 3) == List{4, 5, 8});
  std::vector<double> sevens;
  for (int i = 0; i < 16; ++i) sevens.push_back(7 * i % 16);
  CHECK(halve(sevens, 4) == List{2, 4, 6, 9});
}

TEST_CASE("widening by hand") {
  std::vector<double> sevens;
  for (int i = 0; i < 16; ++i) sevens.push_back(7 * i % 16);
  const double one = 1;
  TreeSearch<double> search(1, 1, 1);
  const auto found = search.widen({&one, 1, 1}, {sevens.data(), 1, 16, 1}, {2, 2, 4, 2}, true);
  CHECK(List(found.begin(), found.end()) == List{4, 5, 6, 7});
}

TEST_CASE("equal halves go by position, and all blocks are kept when so many are asked for") {
  CHECK(halve(std::vector<double>(12, 1.0), 3) == List{0, 1, 2});
  CHECK(halve({1, 2, 3}, 3) == List{0, 1, 2});
  CHECK(halve({1, 2, 3}, 8) == List{0, 1, 2});
  CHECK(halve({}, 8) == List{});
  CHECK(halve({1, 2, 3, 4, 5}, 2, 4) == List{0, 1});
}

TEST_CASE("where scores never rise inside a group the best blocks are found") {
  std::mt19937 random(5);
  for (const Index count : {17, 64, 100, 999}) {
    for (const Index most : {1, 2, 7, 16}) {
      std::vector<double> keys(static_cast<std::size_t>(count));
      std::iota(keys.begin(), keys.end(), 0.0);
      std::shuffle(keys.begin(), keys.end(), random);
      for (Index g = 0; g < most; ++g)
        std::sort(keys.begin() + count * g / most, keys.begin() + count * (g + 1) / most, std::greater<>());
      List wanted;
      for (Index j = 0; j < count; ++j) {
        if (keys[std::size_t(j)] >= double(count - most)) wanted.push_back(j);
      }
      INFO(count << " keys, " << most << " kept");
      CHECK(halve(keys, most) == wanted);
    }
  }
}

TEST_CASE("keys that are NaN or -infinity for every query are not chosen among others") {
  CHECK(halve({support::nan<double>, 1, 2, 3, -infinity<double>, 5, 6, 7}, 2) == List{6, 7});
  CHECK(halve({support::nan<double>, 8, 2, 3, -infinity<double>, 5, 6, 1}, 2) == List{3, 6});
  CHECK(halve(std::vector<double>(9, support::nan<double>), 2) == List{});
}

TEMPLATE_TEST_CASE("block scores are the largest products", "", float, double) {
  using T = TestType;
  for (const Index dim : {1, 16, 37}) {
    for (const Index rows : {1, 3, 5, 16, 35, 70}) {
      for (const Index block : {1, 2, 5, 64}) {
        const Index keys = 301, blocks = (keys + block - 1) / block, stride = dim + 3;
        const auto q = grid<T>(3, rows * stride), k = grid<T>(4, keys * stride);
        BlockScores<T> scores(dim, rows, block);
        for (const bool limited : {false, true}) {
          typename BlockScores<T>::Queries queries{q.data(), stride, rows};
          if (limited) {
            queries.first_limit = 100;
            queries.limit_step = 2;
          }
          scores.begin(queries);
          List some;
          for (Index b = 0; b < blocks; b += 1 + b % 3) some.push_back(b);
          some.push_back(blocks - 1);
          std::vector<T> got(some.size()), wanted;
          scores({k.data(), stride, keys, block}, some, got.data());
          for (const Index b : some) {
            T most = -infinity<T>;
            for (Index j = b * block; j < std::min((b + 1) * block, keys); ++j) {
              for (Index r = 0; r < rows; ++r) {
                if (limited && j >= 100 + 2 * r) continue;
                T product = 0;
                for (Index d = 0; d < dim; ++d)
                  product += q[std::size_t(r * stride + d)] * k[std::size_t(j * stride + d)];
                most = std::max(most, product);
              }
            }
            wanted.push_back(most);
          }
          INFO("dim " << dim << " rows " << rows << " block " << block << " limited " << limited);
          CHECK(got == wanted);
        }
      }
    }
  }
}

TEST_CASE("a product that is NaN does not count in the score of its block") {
  for (const Index rows : {2, 20}) {
    std::vector<float> q(std::size_t(rows), 1.f);
    const float k[4] = {2, support::nan<float>, support::nan<float>, support::nan<float>};
    BlockScores<float> scores(1, rows, 2);
    scores.begin({q.data(), 1, rows});
    float got[2];
    scores({k, 1, 4, 2}, List{0, 1}, got);
    CHECK(got[0] == 2);
    CHECK(got[1] == -infinity<float>);
  }
}

TEST_CASE("block scores read nothing behind the keys") {
  const Index rows = 6, dim = 5, keys = 7;
  support::Guarded<float> memory(keys * dim), queries(rows * dim);
  float* const k = memory.at_end(keys * dim);
  float* const q = queries.at_end(rows * dim);
  std::fill(k, k + keys * dim, 1.f);
  std::fill(q, q + rows * dim, 1.f);
  BlockScores<float> scores(dim, rows, 2);
  for (const Index count : {2, 6}) {
    scores.begin({q + (rows - count) * dim, dim, count});
    float got[4];
    scores({k, dim, keys, 2}, List{0, 1, 2, 3}, got);
    CHECK(std::all_of(got, got + 4, [](float s) { return s == 5; }));
  }
}
