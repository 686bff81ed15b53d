// Memory for scratch and caches: aligned, of any size, large or not.
#include <cstdint>
#include <cstring>

#include <fovea/core/memory.hpp>

#include "support/catch.hpp"

using namespace fovea;

TEST_CASE("Memory begins on a cache line, much of it on a large page, and all of it can be written") {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{64}, std::size_t{100000}, detail::least_large - 1,
                                  detail::least_large, detail::least_large + detail::large_page / 2 + 1}) {
    CAPTURE(bytes);
    void* const memory = detail::allocate(bytes);
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    CHECK(address % scratch_alignment == 0);
    CHECK((bytes < detail::least_large || address % detail::large_page == 0));
    std::memset(memory, 1, bytes);
    detail::release(memory, bytes);
  }
  detail::release(nullptr, 0);
}
