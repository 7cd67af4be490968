// What both AVX-512 probes do; included by sources with the flags for it.
#pragma once

#include <immintrin.h>

#include "peak.h"

namespace check {
namespace {

constexpr int kChains = 16;  // two units of five cycles need ten

int64_t int8_products(int64_t rounds) {
    __m512i sums[kChains] = {};
    for (__m512i& sum : sums) __asm__ volatile("" : "+v"(sum));  // each its own, for all that is known
    const __m512i weight = _mm512_set1_epi8(3), input = _mm512_set1_epi8(5);
    for (int64_t i = 0; i < rounds; ++i) {
        for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, weight, input);
    }
    for (__m512i& sum : sums) __asm__ volatile("" : "+v"(sum));
    return rounds * kChains * 64 * 2;
}

int64_t float_products(int64_t rounds) {
    __m512 sums[kChains] = {};
    for (__m512& sum : sums) __asm__ volatile("" : "+v"(sum));  // each its own, for all that is known
    const __m512 weight = _mm512_set1_ps(0.5f), input = _mm512_set1_ps(1e-3f);
    for (int64_t i = 0; i < rounds; ++i) {
        for (__m512& sum : sums) sum = _mm512_fmadd_ps(weight, input, sum);
    }
    for (__m512& sum : sums) __asm__ volatile("" : "+v"(sum));
    return rounds * kChains * 16 * 2;
}

}  // namespace
}  // namespace check
