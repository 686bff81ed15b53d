// Several sequences in one call: each as it is alone, and refusals.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <memory>

#include "cache/sequence.hpp"
#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::cache::Contiguous;
using fovea::cache::Paged;
using fovea::cache::Pool;
using support::refusal;
namespace kv = fovea::kv;

namespace {

constexpr Index heads = 4, queries = 2;
const Widths widths{2, 20, 12};

Contiguous<float> cache_of(const Widths& w = widths) {
  return Contiguous<float>({.kv_heads = w.heads, .key_dim = w.key_dim, .value_dim = w.value_dim});
}

template <class From>
Result<float> attended(const Tensor4<float>& q, const From& from) {
  Result<float> got{Tensor4<float>(q.dimension(0), heads, queries, widths.value_dim),
                    Tensor3<float>(q.dimension(0), heads, queries)};
  got.out.setConstant(not_a_number<float>);
  got.log_sum.setConstant(not_a_number<float>);
  fovea::attend(q, from, got.both(), fovea::softmax().mask(fovea::mask::causal()));
  return got;
}

}  // namespace

TEST_CASE("Each sequence of a batch gets what it gets alone") {
  const Index lengths[] = {1, 0, 600, 37, 513};
  const Pool<float> pool(
      {.kv_heads = widths.heads, .key_dim = widths.key_dim, .value_dim = widths.value_dim, .page_tokens = 16});
  std::vector<Contiguous<float>> caches;
  std::vector<std::unique_ptr<Paged<float>>> paged;
  for (Index b = 0; b < 5; ++b) {
    const auto x = random_tokens<float>(widths, lengths[b], unsigned(b));
    caches.push_back(cache_of());
    caches.back().append(x.k, x.v);
    paged.push_back(std::make_unique<Paged<float>>(pool));
    paged.back()->append(x.k, x.v);
  }
  const auto all = kv::batch(caches);
  CHECK(all.batch() == 5);
  CHECK(all.longest() == 600);
  CHECK(all.length(3) == 37);
  CHECK(all.kv_heads() == 2);

  Tensor4<float> q(5, heads, queries, widths.key_dim);
  fill_gaussian(q, 9);
  const auto got = attended(q, all), from_pages = attended(q, kv::batch(paged));
  CHECK(same_bits(from_pages.out, got.out));
  CHECK(same_bits(from_pages.log_sum, got.log_sum));
  for (Index b = 0; b < 5; ++b) {
    Tensor4<float> own(1, heads, queries, widths.key_dim);
    std::copy_n(row(q, b, 0, 0), own.size(), own.data());
    const auto alone = attended(own, caches[std::size_t(b)]);
    INFO("sequence " << b);
    CHECK(support::same_bits(alone.out.data(), row(got.out, b, 0, 0), alone.out.size()));
    CHECK(support::same_bits(alone.log_sum.data(), &got.log_sum(b, 0, 0), alone.log_sum.size()));
  }
}

TEST_CASE("A batch is made of objects, of pointers and of clever pointers") {
  auto a = cache_of(), b = cache_of();
  const auto x = random_tokens<float>(widths, 9, 1);
  b.append(x.k, x.v);
  const std::vector<const Contiguous<float>*> pointers{&a, &b};
  CHECK(kv::batch(pointers).longest() == 9);
  const std::array<Contiguous<float>*, 3> others{&b, &a, &b};
  CHECK(kv::batch(others).length(0) == 9);
  CHECK(kv::batch(std::span(others).first(1)).batch() == 1);
  CHECK(kv::batch(std::vector<Contiguous<float>>()).batch() == 0);
}

TEST_CASE("Sequences that do not fit each other are refused") {
  auto a = cache_of(), b = cache_of({2, 20, 11});
  CHECK(refusal([&] {
          (void)kv::batch(std::vector{&a, &b});
        }) ==
        "fovea::kv::batch: sequences must have the same kv heads and widths, wanted 2 heads, 20 and 12, sequence 1 has "
        "2, 20 and 11");
  CHECK(refusal([&] {
          (void)kv::batch(std::vector{&a, static_cast<Contiguous<float>*>(nullptr)});
        }) == "fovea::kv::batch: sequence 1 is a null pointer");
}
