#include "memory.hpp"

#include <cstdlib>

// Every allocation of the process comes through here: the program's own malloc and its relatives take the place of
// those of the C library, also in the libraries that it uses, and hand on to them.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define FOVEA_BENCH_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOVEA_BENCH_SANITIZED
#endif

#if defined(__GLIBC__) && !defined(FOVEA_BENCH_SANITIZED)

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);
}

namespace {

std::atomic<bool> counting = false;
std::atomic<std::ptrdiff_t> in_use = 0, most = 0;

void count(std::ptrdiff_t bytes) {
  const std::ptrdiff_t now = in_use.fetch_add(bytes) + bytes;
  for (std::ptrdiff_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
  }
}

std::ptrdiff_t size_of(void* memory) { return memory == nullptr ? 0 : std::ptrdiff_t(malloc_usable_size(memory)); }

void* counted(void* memory) {
  if (counting.load(std::memory_order_relaxed)) count(size_of(memory));
  return memory;
}

}  // namespace

extern "C" {

void* malloc(std::size_t size) noexcept { return counted(__libc_malloc(size)); }
void* calloc(std::size_t number, std::size_t size) noexcept { return counted(__libc_calloc(number, size)); }
void* memalign(std::size_t alignment, std::size_t size) noexcept { return counted(__libc_memalign(alignment, size)); }
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return memalign(alignment, size); }

void* realloc(void* memory, std::size_t size) noexcept {
  if (!counting.load(std::memory_order_relaxed)) return __libc_realloc(memory, size);
  const std::ptrdiff_t before = size_of(memory);
  void* const after = __libc_realloc(memory, size);
  if (after != nullptr || size == 0) count(size_of(after) - before);
  return after;
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  if (alignment % sizeof(void*) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  void* const made = memalign(alignment, size);
  if (made == nullptr) return ENOMEM;
  *memory = made;
  return 0;
}

void free(void* memory) noexcept {
  if (counting.load(std::memory_order_relaxed)) count(-size_of(memory));
  __libc_free(memory);
}

}  // extern "C"

namespace bench {

std::optional<double> peak_memory(const std::function<void()>& call) {
  in_use = most = 0;
  counting = true;
  try {
    call();
  } catch (...) {
    counting = false;
    throw;
  }
  counting = false;
  return double(most.load());
}

}  // namespace bench

#else

namespace bench {

std::optional<double> peak_memory(const std::function<void()>& call) {
  call();
  return {};
}

}  // namespace bench

#endif
