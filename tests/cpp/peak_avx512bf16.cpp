#if !defined(__AVX512F__) || !defined(__AVX512VNNI__) || !defined(__AVX512BF16__)
#error "needs the flags of avx512bf16 in cmake/Kernels.cmake"
#endif
#include "peak_avx512.h"

namespace check {
namespace {

int64_t bf16_products(int64_t rounds) {
    __m512 sums[kChains] = {};
    for (__m512& sum : sums) __asm__ volatile("" : "+v"(sum));  // each its own, for all that is known
    const __m512bh weight = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f)), input = weight;
    for (int64_t i = 0; i < rounds; ++i) {
        for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, weight, input);
    }
    for (__m512& sum : sums) __asm__ volatile("" : "+v"(sum));
    return rounds * kChains * 32 * 2;
}

}  // namespace

const Peak kPeakAvx512Bf16 = {"avx512bf16", int8_products, float_products, bf16_products};

}  // namespace check
