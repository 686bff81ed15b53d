// What an illegal call gets: an ArgumentError that names the function, the rule, what was wanted and what came.
#pragma once

#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

// Thrown before any work is done and before any output is touched. what() is "function: rule, ... got ...".
class ArgumentError : public std::invalid_argument {
 public:
  ArgumentError(std::string_view function, const std::string& message)
      : std::invalid_argument(std::string(function) + ": " + message), function_(function) {}

  const std::string& function() const { return function_; }  // the public function that refused, "fovea::attend"

 private:
  std::string function_;
};

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }

template <std::integral I>
void append(std::string& text, I value) {
  text += std::to_string(value);
}

inline void append(std::string& text, double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", value);
  text += digits;
}

template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void refuse(std::string_view function, const Parts&... parts) {
  std::string message;
  (append(message, parts), ...);
  throw ArgumentError(function, message);
}

}  // namespace detail

// check(options.window > 0, "fovea::sliding_window", "window must be positive, got ", options.window);
template <class... Parts>
void check(bool holds, std::string_view function, const Parts&... parts) {
  if (!holds) detail::refuse(function, parts...);
}

}  // namespace fovea::inline FOVEA_ISA
