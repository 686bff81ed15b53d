// Lists of tokens over pages and over narrow numbers.
#include <fovea/parts/kv/paged.hpp>

#include "parts/kv/listed.hpp"

using namespace fovea::test;
using fovea::Index;
namespace kv = fovea::kv;

TEST_CASE("tokens of pages are listed as those of an array are", "[parts][kv]") {
  const auto x = gaussian<float>({1, 2, 1, 1, 96, 16, 8});
  Tensor4<float> k(12, 1, 8, 16), v(12, 1, 8, 8);
  std::vector<int> table;
  for (int p = 0; p < 12; ++p) {
    const int page = (5 * p + 3) % 12;
    table.push_back(page);
    std::copy_n(row(x.k, 0, 0, 8 * p), 8 * 16, row(k, page, 0, 0));
    std::copy_n(row(x.v, 0, 0, 8 * p), 8 * 8, row(v, page, 0, 0));
  }
  const std::vector<Index> lengths{96};
  const auto list = some(4, 96, 60, 5);
  CHECK(same_bits(attend(x, kv::gathered(kv::paged(k, v, table, lengths), list)),
                  attention(copied(x, 60, [&](Index, Index) { return list.data(); }), recipe)));
}

TEST_CASE("lists over narrow arrays give the bits of their tokens in one array", "[parts][kv]") {
  auto x = gaussian<float>({1, 2, 1, 1, 300, 24, 20});
  const auto list = some(7, 300, 150, 1);
  Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor> k(1, 1, 300, 24), listed(1, 1, 150, 24);
  for (Index n = 0; n < k.size(); ++n) k.data()[n] = Eigen::half(x.k.data()[n]);
  Tensor4<float> v(1, 1, 150, 20);
  for (Index j = 0; j < 150; ++j) {
    std::copy_n(&k(0, 0, list[std::size_t(j)], 0), 24, &listed(0, 0, j, 0));
    std::copy_n(row(x.v, 0, 0, list[std::size_t(j)]), 20, row(v, 0, 0, j));
  }
  CHECK(same_bits(attend(x, kv::gathered(kv::contiguous(k, x.v), list)), attend(x, kv::contiguous(listed, v))));
}
