// Probabilities and values of attention in bf16, two to a word, because vdpbf16ps multiplies twice as many as an FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/x86/avx512_attention.h"

namespace whisperq::kernels {
namespace {

struct Bf16Values {
    static constexpr int kPack = 2;
    static constexpr int kExp2Degree = kExp2ForBf16;

    static __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

    // Return [b's 16 values, a's 16 values], rounded to nearest, ties to even.
    static __m512i round_two(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(a, b); }

    // Return the same, but with the values of a and b by turns: a's in the low half of each word.
    static __m512i interleave_two(__m512 a, __m512 b) {
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        return _mm512_permutexvar_epi16(order, round_two(b, a));
    }

    static void pack(const float* from, int64_t stride, int64_t n, float* words) {
        const __mmask16 second = n > 1 ? 0xffff : 0;
#pragma GCC unroll 4
        for (int v = 0; v < kHeadVectors; ++v) {
            const __m512 a = _mm512_loadu_ps(from + v * kLanes);
            const __m512 b = _mm512_maskz_loadu_ps(second, from + (n > 1 ? stride : 0) + v * kLanes);
            _mm512_storeu_si512(words + v * kLanes, interleave_two(a, b));
        }
    }

    // Pack probabilities. The total is that of the rounded ones, because these weigh the values. Errors of rounding
    // thus do not add up in it.
    static __m512i pack_probabilities(const __m512 (&p)[kPack], __m512& total) {
        const __m512i words = interleave_two(p[0], p[1]);
        const __m512i ones = _mm512_set1_epi32(0x3f803f80);
        total = dot(total, words, ones);
        return words;
    }
};

}  // namespace
}  // namespace whisperq::kernels
