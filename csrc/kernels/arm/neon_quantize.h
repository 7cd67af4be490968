// Quantisation of inputs to strips of int8.
#pragma once

#include <float.h>

#include "kernels/arm/neon_layout.h"

namespace whisperq::kernels {
namespace {

constexpr float kGreatestCode = 127.0f;
constexpr int64_t kBlockQuads = kBlock / kLanes;

WHISPERQ_INLINE float greatest_magnitude(const float32x4_t (&values)[kBlockQuads]) {
    float32x4_t greatest[kBlockQuads / 2];
    for (int i = 0; i < 4; ++i) greatest[i] = vmaxq_f32(vabsq_f32(values[i]), vabsq_f32(values[i + 4]));
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(greatest[0], greatest[1]), vmaxq_f32(greatest[2], greatest[3])));
}

// Return round(x / scale) without a division. The quotient by the rounded reciprocal, corrected by its remainder, is
// the correctly rounded quotient (Markstein). Codes are therefore scalar's even where a half must be rounded. A scale
// of 0 goes with a reciprocal of 0 and gives 0.
WHISPERQ_INLINE int32x4_t code_of(float32x4_t x, float scale, float reciprocal) {
    const float32x4_t quotient = vmulq_n_f32(x, reciprocal);
    const float32x4_t remainder = vfmsq_f32(x, quotient, vdupq_n_f32(scale));
    return vcvtnq_s32_f32(vfmaq_f32(quotient, remainder, vdupq_n_f32(reciprocal)));
}

WHISPERQ_INLINE int8x16_t narrow(const int32x4_t* codes) {
    const int16x8_t low = vmovn_high_s32(vmovn_s32(codes[0]), codes[1]);
    const int16x8_t high = vmovn_high_s32(vmovn_s32(codes[2]), codes[3]);
    return vmovn_high_s16(vmovn_s16(low), high);
}

// The codes of kBlock values: 0 to 15 and 16 to 31.
struct BlockCodes {
    int8x16_t low, high;
    float scale;
};

WHISPERQ_INLINE BlockCodes quantize_block(const float* input) {
    float32x4_t values[kBlockQuads];
    for (int64_t i = 0; i < kBlockQuads; ++i) values[i] = vld1q_f32(input + i * kLanes);
    const float wanted = greatest_magnitude(values) / kGreatestCode;
    // A scale below the normal floats has too few bits to divide by. Dropping the block costs less than 1.5e-36.
    const float scale = wanted < FLT_MIN ? 0.0f : wanted;
    const float reciprocal = wanted < FLT_MIN ? 0.0f : 1.0f / wanted;
    int32x4_t codes[kBlockQuads];
    for (int64_t i = 0; i < kBlockQuads; ++i) codes[i] = code_of(values[i], scale, reciprocal);
    return {narrow(codes), narrow(codes + 4), scale};
}

// Quantise one row of one block. `Order::store_row(codes, row, low, high)` puts its 32 codes in their places.
template <class Order>
WHISPERQ_INLINE void quantize_row(const float* input, int64_t row, uint8_t* block) {
    const BlockCodes codes = quantize_block(input);
    const int sum = vaddvq_s16(vpadalq_s8(vpaddlq_s8(codes.low), codes.high));  // at most 32 * 127
    Order::store_row(reinterpret_cast<int8_t*>(block), row, codes.low, codes.high);
    float* scales = reinterpret_cast<float*>(block + kStripCodes);
    scales[row] = codes.scale;
    scales[kPaddedRows + row] = codes.scale * static_cast<float>(sum);
}

template <class Order>
void quantize_strip(const float* input, int64_t row_stride, int64_t n_rows, int64_t k, uint8_t* strip) {
    for (int64_t b = 0; b < k / kBlock; ++b, strip += kStripBlock) {
        const int64_t n_written = n_rows == kStripRows ? kStripCodes : 0;  // the rest is zero where rows do not exist
        memset(strip + n_written, 0, static_cast<size_t>(kStripBlock - n_written));
        for (int64_t r = 0; r < n_rows; ++r) quantize_row<Order>(input + r * row_stride + b * kBlock, r, strip);
    }
}

}  // namespace
}  // namespace whisperq::kernels
