// Tolerances of kernels, for the self-test and for tests/cpp/check_kernels (docs/numerics.md has the reasons).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace whisperq::kernels {

constexpr double kEps = 0x1p-23;     // of float
constexpr double kGeluSlope = 1.13;  // the greatest of |gelu'|

// Return the tolerance of a float sum of k terms, whose magnitudes add up to `terms`. It is for k roundings of random
// direction, and an ending.
static inline double product_tolerance(int64_t k, double terms) {
    return kEps * std::sqrt(static_cast<double>(k + 2)) * terms;
}

static inline double gelu_tolerance(double x) {
    return 5e-7 * std::max(1.0, std::fabs(x));
}

// Return the tolerance of one of n probabilities, whose score is `distance` below the greatest. It is for a rounding of
// that distance, which is multiplied by log2(e) for the power of 2, and sqrt(n) roundings of the sum.
static inline double softmax_tolerance(double probability, double distance, int64_t n) {
    return kEps * (6 + 2 * distance + std::sqrt(static_cast<double>(n))) * probability + 0x1p-125;
}

}  // namespace whisperq::kernels
