// Products of bfloat16 pairs, where the processor has them: two neighbours along the summed dimension share one word,
// and one instruction adds both products to a float32 sum. Rounding is to nearest even.
#pragma once
#include "vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace hamiltorch {
namespace {

using Bfloat16Pair = uint32_t;  // the earlier neighbour in the low half

#if defined(__AVX512BF16__)
inline constexpr bool kHasBfloat16 = true;

HAMILTORCH_INLINE void multiply_add(Vec<float>& sum, const Vec<Bfloat16Pair>& a, const Vec<Bfloat16Pair>& b) {
  sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// `count` numbers as pairs, a zero behind the last of an odd count.
inline void round_to_pairs(const float* from, int64_t count, Bfloat16Pair* to) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const int64_t rest = count - i;
    const __mmask16 mask = rest < kLanes<float> ? static_cast<__mmask16>((1u << rest) - 1) : __mmask16{0xffff};
    const __m256bh pairs = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i));
    const __mmask8 words = static_cast<__mmask8>(rest < kLanes<float> ? (1u << (rest + 1) / 2) - 1 : 0xff);
    _mm256_mask_storeu_epi32(to + i / 2, words, (__m256i)pairs);
  }
}
#else
inline constexpr bool kHasBfloat16 = false;
#endif

}  // namespace
}  // namespace hamiltorch
