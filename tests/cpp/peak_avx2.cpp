#if !defined(__AVX2__) || !defined(__FMA__)
#error "needs the flags of avx2 in cmake/Kernels.cmake"
#endif
#include <immintrin.h>

#include "peak.h"

namespace check {
namespace {

constexpr int kChains = 10;    // two units of four cycles need eight; 16 registers hold few more beside their operands
constexpr int kIntChains = 4;  // only the sum, of one cycle, is a chain

// Products of neighbours in int16, summed there: what codes of four and five bits allow for a while. Eight bits go to
// int32 at once, which takes a third instruction.
int64_t int8_products(int64_t rounds) {
    __m256i sums[kIntChains] = {};
    for (__m256i& sum : sums) __asm__ volatile("" : "+x"(sum));  // each its own, for all that is known
    __m256i weight = _mm256_set1_epi8(3), input = _mm256_set1_epi8(5);
    for (int64_t i = 0; i < rounds; ++i) {
        for (__m256i& sum : sums) {
            __asm__ volatile("" : "+x"(weight));  // else the product would be computed once
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weight, input));
        }
    }
    for (__m256i& sum : sums) __asm__ volatile("" : "+x"(sum));
    return rounds * kIntChains * 32 * 2;
}

int64_t float_products(int64_t rounds) {
    __m256 sums[kChains] = {};
    for (__m256& sum : sums) __asm__ volatile("" : "+x"(sum));  // each its own, for all that is known
    const __m256 weight = _mm256_set1_ps(0.5f), input = _mm256_set1_ps(1e-3f);
    for (int64_t i = 0; i < rounds; ++i) {
        for (__m256& sum : sums) sum = _mm256_fmadd_ps(weight, input, sum);
    }
    for (__m256& sum : sums) __asm__ volatile("" : "+x"(sum));
    return rounds * kChains * 8 * 2;
}

}  // namespace

const Peak kPeakAvx2 = {"avx2", int8_products, float_products, nullptr};

}  // namespace check
