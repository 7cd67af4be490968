#include "peak.h"

namespace check {
namespace {

constexpr int kChains = 8;

int64_t int8_products(int64_t rounds) {
    int32_t sums[kChains] = {};
    int32_t weight = 3;
    for (int64_t i = 0; i < rounds; ++i) {
        for (int32_t& sum : sums) {
            sum += static_cast<int8_t>(weight) * weight;
            __asm__ volatile("" : "+r"(sum), "+r"(weight));  // one at a time: no vectors
        }
    }
    return rounds * kChains * 2;
}

int64_t float_products(int64_t rounds) {
    float sums[kChains] = {};
    float weight = 0.5f;
    for (int64_t i = 0; i < rounds; ++i) {
        for (float& sum : sums) {
            sum += weight * weight;
#if defined(__aarch64__)
            __asm__ volatile("" : "+w"(sum), "+w"(weight));
#elif defined(__x86_64__)
            __asm__ volatile("" : "+x"(sum), "+x"(weight));
#else
            __asm__ volatile("" : "+m"(sum), "+m"(weight));
#endif
        }
    }
    return rounds * kChains * 2;
}

}  // namespace

const Peak kPeakScalar = {"scalar", int8_products, float_products, nullptr};

}  // namespace check
