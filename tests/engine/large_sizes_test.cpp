// Offsets and lengths past 2^31: strided views over reserved memory of which a few pages are touched.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/attention.hpp"

#if defined(__linux__) && defined(__LP64__)
#include <sys/mman.h>

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
using fovea::View;
namespace mask = fovea::mask;

namespace {

constexpr Index past_int = (Index{1} << 31) + 17;   // does not fit an int
constexpr Index past_word = (Index{1} << 32) + 64;  // its low 32 bits are small: truncated, it would alias

// Zeros, reserved and given memory when touched.
template <class T>
class Reserved {
 public:
  explicit Reserved(Index count) : bytes_(std::size_t(count) * sizeof(T)) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~Reserved() {
    if (there()) munmap(memory_, bytes_);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

  bool there() const { return memory_ != MAP_FAILED; }
  T* data() const { return static_cast<T*>(memory_); }

 private:
  std::size_t bytes_;
  void* memory_;
};

enum class Axis { batch, heads, length };

// A copy of x in which one axis has a stride past 2^31 (or 2^32).
template <class T>
View<T> far_apart(const Tensor4<T>& x, const Reserved<T>& memory, Axis axis, Index stride) {
  View<T> v{memory.data(), x.dimension(0), x.dimension(1), x.dimension(2), x.dimension(3), 0, 0, 0};
  v.length_stride = axis == Axis::length ? stride : v.dim;
  v.head_stride = axis == Axis::heads ? stride : axis == Axis::length ? v.dim : v.dim * v.length;
  v.batch_stride = axis == Axis::batch   ? stride
                   : axis == Axis::heads ? v.dim * v.length
                                         : v.dim * v.heads * (axis == Axis::length ? 1 : v.length);
  for (Index b = 0; b < v.batch; ++b) {
    for (Index h = 0; h < v.heads; ++h) {
      for (Index i = 0; i < v.length; ++i) std::copy_n(row(x, b, h, i), v.dim, v.row(b, h, i));
    }
  }
  return v;
}

}  // namespace

TEMPLATE_TEST_CASE("strides past 2^31 and 2^32 on every axis of every array", "", float, double) {
  const Sizes s{3, 3, 3, 3, 3, 17, 15};
  const auto x = gaussian<TestType>(s);
  auto wanted = blank<TestType>(s);
  fovea::attend(x.q, x.k, x.v, wanted.both(), fovea::softmax().mask(mask::causal()));
  for (const Index stride : {past_int, past_word}) {
    for (const Axis axis : {Axis::batch, Axis::heads, Axis::length}) {
      const Reserved<TestType> q(3 * stride), k(3 * stride), v(3 * stride), out(3 * stride);
      if (!q.there() || !k.there() || !v.there() || !out.there()) {
        WARN("no address space to reserve; not tested");
        return;
      }
      INFO("stride " << stride << " on axis " << int(axis));
      const auto o = far_apart(blank<TestType>(s).out, out, axis, stride);
      fovea::attend(far_apart(x.q, q, axis, stride), far_apart(x.k, k, axis, stride), far_apart(x.v, v, axis, stride),
                    o, fovea::softmax().mask(mask::causal()));
      Index wrong = 0;
      for (Index b = 0; b < 3; ++b) {
        for (Index h = 0; h < 3; ++h) {
          for (Index i = 0; i < 3; ++i)
            wrong += std::equal(o.row(b, h, i), o.row(b, h, i) + 15, row(wanted.out, b, h, i)) ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEMPLATE_TEST_CASE("a window at the end of more than 2^32 keys", "", float, double) {
  const Index keys = past_word + 37, window = 70;
  const Reserved<TestType> k(keys), v(keys);
  if (!k.there() || !v.there()) {
    WARN("no address space to reserve; not tested");
    return;
  }
  const Sizes s{1, 2, 1, 1, window, 1, 1};
  for (const Index queries : {1, 50}) {
    INFO(queries << " queries");
    Sizes near = s;
    near.queries = queries;
    near.keys = window + queries - 1;
    const auto x = gaussian<TestType>(near);
    std::copy_n(x.k.data(), near.keys, k.data() + keys - near.keys);
    std::copy_n(x.v.data(), near.keys, v.data() + keys - near.keys);
    auto got = blank<TestType>(near);
    fovea::attend(x.q, fovea::view(k.data(), {1, 1, keys, 1}), fovea::view(v.data(), {1, 1, keys, 1}), got.both(),
                  fovea::softmax().mask(mask::causal() & mask::window(window)));
    const auto visible = [&](Site at) {
      const Index p = at.query + window - 1;
      return at.key <= p && p - at.key < window;
    };
    CHECK(is_exact(got, x, {.visible = visible}));
  }
}

TEST_CASE("output batches more than 2^31 elements apart, in prefill") {
  const Sizes s{2, 1, 1, 40, 60, 16, 15};
  const auto x = gaussian<float>(s);
  auto wanted = blank<float>(s);
  fovea::attend(x.q, x.k, x.v, wanted.both(), fovea::softmax());
  const Reserved<float> memory(past_int + 40 * 15);
  if (!memory.there()) {
    WARN("no address space to reserve; not tested");
    return;
  }
  const View<float> out{memory.data(), 2, 1, 40, 15, past_int, 40 * 15, 15};
  fovea::attend(x.q, x.k, x.v, out, fovea::softmax());
  CHECK(std::equal(out.row(0, 0, 0), out.row(0, 0, 0) + 600, row(wanted.out, 0, 0, 0)));
  CHECK(std::equal(out.row(1, 0, 0), out.row(1, 0, 0) + 600, row(wanted.out, 1, 0, 0)));
}

#else

TEST_CASE("sizes past 2^31 need 64-bit Linux") { SUCCEED(); }

#endif
