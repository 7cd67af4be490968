#ifndef __ARM_NEON
#error "needs the flags of neon in cmake/Kernels.cmake"
#endif
#include "peak_neon.h"

namespace check {
namespace {

// Without a dot product: both halves multiplied and summed in int16, what codes of four and five bits allow for a
// while. Eight bits go to int32 after two, which takes a third instruction.
int64_t int8_products(int64_t rounds) {
    int16x8_t sums[kChains] = {};
    for (int16x8_t& sum : sums) __asm__ volatile("" : "+w"(sum));  // each its own, for all that is known
    const int8x16_t weight = vdupq_n_s8(3), input = vdupq_n_s8(5);
    for (int64_t i = 0; i < rounds; ++i) {
        for (int16x8_t& sum : sums) {
            sum = vmlal_s8(sum, vget_low_s8(weight), vget_low_s8(input));
            sum = vmlal_s8(sum, vget_high_s8(weight), vget_high_s8(input));
        }
    }
    for (int16x8_t& sum : sums) __asm__ volatile("" : "+w"(sum));
    return rounds * kChains * 16 * 2;
}

}  // namespace

const Peak kPeakNeon = {"neon", int8_products, float_products, nullptr};

}  // namespace check
