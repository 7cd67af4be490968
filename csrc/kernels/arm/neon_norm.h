// Layer norm.
#pragma once

#include "kernels/arm/neon_math.h"

namespace whisperq::kernels {
namespace {

constexpr float kLayerNormEpsilon = 1e-5f;

// Sum f(values) over all values: sixteen lanes of sums, then the rest.
template <class Function>
WHISPERQ_INLINE float sum_of(const float* values, int64_t n, Function f) {
    float32x4_t sum[kQuads] = {};
    int64_t i = 0;
    for (; i + kTileColumns <= n; i += kTileColumns) {
        for (int64_t j = 0; j < kQuads; ++j) sum[j] = f(sum[j], vld1q_f32(values + i + j * kLanes));
    }
    for (; i + kLanes <= n; i += kLanes) sum[0] = f(sum[0], vld1q_f32(values + i));
    float total = vaddvq_f32(vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])));
    for (; i < n; ++i) total = vgetq_lane_f32(f(vdupq_n_f32(total), vdupq_n_f32(values[i])), 0);
    return total;
}

WHISPERQ_INLINE float32x4_t normalise(float32x4_t x, float mean, float factor, float32x4_t weight, float32x4_t bias) {
    return vfmaq_f32(bias, vmulq_n_f32(vsubq_f32(x, vdupq_n_f32(mean)), factor), weight);
}

void layer_norm_row(const float* input, int64_t n, const float* weight, const float* bias, float* out) {
    const float mean =
        sum_of(input, n, [](float32x4_t sum, float32x4_t x) { return vaddq_f32(sum, x); }) / static_cast<float>(n);
    const float variance = sum_of(input, n,
                                  [mean](float32x4_t sum, float32x4_t x) {
                                      const float32x4_t deviation = vsubq_f32(x, vdupq_n_f32(mean));
                                      return vfmaq_f32(sum, deviation, deviation);
                                  }) /
                           static_cast<float>(n);
    const float factor = 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(variance + kLayerNormEpsilon)), 0);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        vst1q_f32(out + i, normalise(vld1q_f32(input + i), mean, factor, vld1q_f32(weight + i), vld1q_f32(bias + i)));
    }
    for (; i < n; ++i) {
        out[i] = vgetq_lane_f32(
            normalise(vdupq_n_f32(input[i]), mean, factor, vdupq_n_f32(weight[i]), vdupq_n_f32(bias[i])), 0);
    }
}

void layer_norm(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias, float* out) {
    for (int64_t r = 0; r < n_rows; ++r) layer_norm_row(input + r * n, n, weight, bias, out + r * n);
}

}  // namespace
}  // namespace whisperq::kernels
