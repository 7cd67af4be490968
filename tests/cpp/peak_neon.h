// What all NEON probes do; included by sources with the flags for it.
#pragma once

#include <arm_neon.h>

#include "peak.h"

namespace check {
namespace {

constexpr int kChains = 16;  // up to four units of four cycles

int64_t float_products(int64_t rounds) {
    float32x4_t sums[kChains] = {};
    for (float32x4_t& sum : sums) __asm__ volatile("" : "+w"(sum));  // each its own, for all that is known
    const float32x4_t weight = vdupq_n_f32(0.5f), input = vdupq_n_f32(1e-3f);
    for (int64_t i = 0; i < rounds; ++i) {
        for (float32x4_t& sum : sums) sum = vfmaq_f32(sum, weight, input);
    }
    for (float32x4_t& sum : sums) __asm__ volatile("" : "+w"(sum));
    return rounds * kChains * 4 * 2;
}

}  // namespace
}  // namespace check
