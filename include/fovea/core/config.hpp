// Index type and the inline namespace that keeps code for different instruction sets apart.
//
// A program may compile the same header several times with different -m flags and choose at run time. Everything in
// fovea sits in an inline namespace named after the instruction set, so that those copies are different symbols and the
// linker never mixes them.
#pragma once

#include <cstdint>

#if defined(FOVEA_ISA)
#error "fovea: include its single header, or headers of include/fovea, and not both"
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_ISA avx512_vnni
#elif defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_ISA avx512
#elif defined(__AVX512F__)
#define FOVEA_ISA avx512f
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FOVEA_ISA avx2_fma_f16c
#elif defined(__AVX2__) && defined(__FMA__)
#define FOVEA_ISA avx2_fma
#elif defined(__AVX2__)
#define FOVEA_ISA avx2
#elif defined(__AVX__) && defined(__FMA__)
#define FOVEA_ISA avx_fma
#elif defined(__AVX__)
#define FOVEA_ISA avx
#elif defined(__SSE4_2__)
#define FOVEA_ISA sse4_2
#elif defined(__SSE4_1__)
#define FOVEA_ISA sse4_1
#elif defined(__SSSE3__)
#define FOVEA_ISA ssse3
#elif defined(__SSE3__)
#define FOVEA_ISA sse3
#elif defined(__SSE2__)
#define FOVEA_ISA sse2
#elif defined(__aarch64__) && defined(__ARM_FEATURE_SVE)
#define FOVEA_ISA neon64_sve
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define FOVEA_ISA neon64_dotprod
#elif defined(__aarch64__)
#define FOVEA_ISA neon64
#elif defined(__ARM_NEON)
#define FOVEA_ISA neon
#else
#define FOVEA_ISA portable
#endif

namespace fovea::inline FOVEA_ISA {

using Index = std::int64_t;  // every extent, stride and position

// Which keys the queries of a causal call line up with when there are fewer or more queries than keys.
//
//   bottom_right   queries are the last tokens of the keys, as with a cache: query i sits at position i + M - N
//   top_left       query i sits at position i
enum class Alignment { bottom_right, top_left };

}  // namespace fovea::inline FOVEA_ISA
