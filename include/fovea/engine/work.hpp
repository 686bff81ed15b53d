// Work items on an executor, each worker with scratch memory of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>

#include <fovea/core/function_ref.hpp>
#include <fovea/core/memory.hpp>
#include <fovea/exec/workspace.hpp>

namespace fovea::inline FOVEA_ISA::engine {

struct FreeScratch {
  Workspace* workspace = nullptr;  // where the memory goes back to, or null
  std::size_t bytes = 0;

  void operator()(void* p) const {
    if (workspace != nullptr) return workspace->give(p);
    fovea::detail::release(p, bytes);
  }
};

// n uninitialised elements on a cache line of their own.
template <class T>
std::unique_ptr<T[], FreeScratch> allocate_scratch(Index n) {
  const std::size_t bytes = std::size_t(n) * sizeof(T);
  return {static_cast<T*>(fovea::detail::allocate(bytes)), FreeScratch{nullptr, bytes}};
}

// The same from the workspace of the executor, if it has one.
template <class T, exec::Executor Exec>
std::unique_ptr<T[], FreeScratch> allocate_scratch(const Exec& executor, Index n) {
  if constexpr (requires { executor.workspace(); }) {
    Workspace& workspace = executor.workspace();
    const std::size_t bytes = std::size_t(n) * sizeof(T);
    return {static_cast<T*>(workspace.take(bytes)), FreeScratch{&workspace, bytes}};
  } else {
    return allocate_scratch<T>(n);
  }
}

// n rounded up to whole cache lines.
template <class T>
constexpr Index whole_lines(Index n) {
  constexpr Index line = Index(scratch_alignment / sizeof(T));
  return (n + line - 1) / line * line;
}

// Hands out consecutive pieces of scratch memory, each on its own cache line.
template <class T>
class Carve {
 public:
  explicit Carve(T* memory) : next_(memory) {}

  T* operator()(Index n) {
    T* piece = next_;
    next_ += whole_lines<T>(n);
    return piece;
  }

 private:
  T* next_;
};

// Objects made one behind the other in scratch memory.
template <class X>
class Several {
 public:
  template <exec::Executor Exec>
  Several(const Exec& executor, Index most) : memory_(allocate_scratch<Place>(executor, std::max<Index>(most, 1))) {}
  Several(const Several&) = delete;
  Several& operator=(const Several&) = delete;
  ~Several() {
    while (size_ > 0) std::destroy_at(&(*this)[--size_]);
  }

  template <class... Parts>
  void add(Parts&&... parts) {
    new (&memory_[std::size_t(size_)]) X(std::forward<Parts>(parts)...);
    ++size_;
  }
  Index size() const { return size_; }
  X& operator[](Index i) const { return *std::launder(reinterpret_cast<X*>(&memory_[std::size_t(i)])); }

 private:
  struct Place {
    alignas(X) std::byte bytes[sizeof(X)];
  };
  std::unique_ptr<Place[], FreeScratch> memory_;
  Index size_ = 0;
};

// What a further worker must find to do: waking a thread costs some microseconds.
inline constexpr double worthwhile_flops = 1e6;

// Calls work(item, scratch) for every item of [0, items). Workers take the next free item as they go; an item's result
// must not depend on which worker takes it. flops is the rough cost of an item.
template <class T, exec::Executor Exec>
void distribute(const Exec& executor, Index items, double flops, Index scratch_size,
                FunctionRef<void(Index, T*)> work) {
  if (items <= 0) return;
  const double share = std::min(flops * double(items) / worthwhile_flops, double(items));
  const Index workers = std::clamp<Index>(Index(share), 1, std::max<Index>(exec::concurrency(executor), 1));
  const Index stride = whole_lines<T>(scratch_size);
  const auto scratch = allocate_scratch<T>(executor, workers * stride);
  std::atomic<Index> next{0};
  executor.parallel_for(workers, flops * double(items) / double(workers), [&](Index begin, Index end) {
    for (Index worker = begin; worker < end; ++worker) {
      for (Index item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;)
        work(item, scratch.get() + worker * stride);
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::engine
