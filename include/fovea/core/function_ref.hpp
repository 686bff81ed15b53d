// A function that is called and not kept, whatever its type. What is called once for a work item or a tile takes its
// callback so: it is compiled once then, and not for every caller.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

template <class Signature>
class FunctionRef;

template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  // f is an object (of a function, its pointer) and must outlive the reference, as an argument outlives the call.
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, FunctionRef> && std::is_object_v<std::remove_reference_t<F>> &&
           std::is_invocable_r_v<Result, F&, Args...>) FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const volatile void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> Result {
          return static_cast<Result>((*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...));
        }) {}

  Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  Result (*call_)(void*, Args...);
};

}  // namespace fovea::inline FOVEA_ISA
