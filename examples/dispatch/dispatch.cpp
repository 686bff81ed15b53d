// One program for several instruction sets: it picks the widest that the CPU has, when it runs.
//
// attention.cpp is compiled once for each set, with other -m flags and another name for its function, and a table of
// pointers is all that this file knows of them. Four rules keep code for wide sets from running where it must not:
//
//  1. What picks is compiled without -m flags, and so is everything that runs before.
//  2. Only plain functions and arrays cross the border. fovea's own code is in a namespace named after the instruction
//     set, so its copies are different functions; a type of fovea is a different type on either side. That includes
//     what is thrown: catch std::invalid_argument here, not fovea::ArgumentError.
//  3. Inline functions of Eigen and the standard library have one name in all copies, and the linker keeps the first.
//     So the objects are linked from the narrowest set to the widest, as objects and not from an archive: whatever two
//     of them share is then code that both can run. A test, check_symbols, looks at the program.
//  4. No object with a constructor stands at namespace scope in attention.cpp, nor <iostream>: it would be constructed
//     when the program starts, in wide instructions.
#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

struct Choice {
  const char* name;
  bool runs_here;
  Attention* attention;
};

}  // namespace

int main() {
  const Choice choices[] = {
    {"baseline", true, attention_baseline},
#if defined(__x86_64__)
    // Every CPU with AVX2 has F16C.
    {"AVX2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), attention_avx2},
    {"AVX-512",
     __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
     attention_avx512},
#endif
  };

  const int tokens = 100, width = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(tokens * width), k(q.size()), v(q.size());
  for (auto* x : {&q, &k, &v}) std::generate(x->begin(), x->end(), [&] { return normal(random); });

  std::vector<float> expected(q.size());
  attention_baseline(q.data(), k.data(), v.data(), expected.data(), tokens, width);

  const char* picked = nullptr;
  bool right = true;
  for (const Choice& choice : choices) {
    if (!choice.runs_here) {
      std::printf("%-8s  not on this CPU\n", choice.name);
      continue;
    }
    picked = choice.name;  // the last one that runs is the widest
    std::vector<float> out(q.size(), NAN);
    choice.attention(q.data(), k.data(), v.data(), out.data(), tokens, width);
    double worst = 0;
    for (std::size_t n = 0; n < out.size(); ++n) {
      const double difference = std::abs(double(out[n]) - expected[n]);
      worst = difference <= worst ? worst : difference;  // a NaN comes through
    }
    std::printf("%-8s  largest difference from the baseline %.1e\n", choice.name, worst);
    right = right && worst < 2e-6;
  }
  std::printf("picked: %s\n", picked);
  return right ? 0 : 1;
}
