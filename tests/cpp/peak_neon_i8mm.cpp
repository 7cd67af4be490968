#ifndef __ARM_FEATURE_MATMUL_INT8
#error "needs the flags of neon_i8mm in cmake/Kernels.cmake"
#endif
#include "peak_neon.h"

namespace check {
namespace {

int64_t int8_products(int64_t rounds) {
    int32x4_t sums[kChains] = {};
    for (int32x4_t& sum : sums) __asm__ volatile("" : "+w"(sum));  // each its own, for all that is known
    const int8x16_t weight = vdupq_n_s8(3), input = vdupq_n_s8(5);
    for (int64_t i = 0; i < rounds; ++i) {
        for (int32x4_t& sum : sums) sum = vmmlaq_s32(sum, weight, input);
    }
    for (int32x4_t& sum : sums) __asm__ volatile("" : "+w"(sum));
    return rounds * kChains * 32 * 2;
}

}  // namespace

const Peak kPeakNeonI8mm = {"neon_i8mm", int8_products, float_products, nullptr};

}  // namespace check
