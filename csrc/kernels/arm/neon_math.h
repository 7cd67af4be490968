// exp2 and GELU, four registers at a time. The polynomials are chains of dependent multiply-adds. Cores that execute in
// order need other chains to fill their latency.
#pragma once

#include "kernels/arm/neon_layout.h"
#include "kernels/six_bits.h"

namespace whisperq::kernels {
namespace {

// Four registers that go through the same steps: a row of a tile.
struct Row16 {
    float32x4_t quad[kQuads];
};

WHISPERQ_INLINE Row16 load_row(const float* from) {
    return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
}
WHISPERQ_INLINE void store_row(float* to, const Row16& row) {
    for (int64_t i = 0; i < kQuads; ++i) vst1q_f32(to + i * kLanes, row.quad[i]);
}

// Return a polynomial without its constant term, x (c[0] + x (c[1] + ...)).
template <int kDegree>
WHISPERQ_INLINE float32x4_t polynomial(const float (&c)[kDegree], float32x4_t x) {
    float32x4_t sum = vdupq_n_f32(c[kDegree - 1]);
    for (int i = kDegree - 2; i >= 0; --i) sum = vfmaq_f32(vdupq_n_f32(c[i]), sum, x);
    return vmulq_f32(sum, x);
}

// 2^f - 1 for f in [-0.5, 0.5], fitted to the least greatest relative error of 2^f: 9.2e-8.
constexpr float kExp2[] = {0.6931470036506653f, 0.24022242426872253f, 0.05550733581185341f, 0.009671512991189957f,
                           0.001326472731307149f};
constexpr float kLeastExponent = -126.0f;  // the normal floats' least; 2^-126 is nothing beside a sum of at least 1
constexpr float kRounder = 12582912.0f;    // 1.5 * 2^23: a float of this size has no bits behind the point

// Return 2^x for x in [-126, 127]. A lesser x counts as -126. NaN stays NaN.
//
// x + kRounder is rounded to a whole number, which then stands in the last bits; shifted by 23 it is an exponent.
WHISPERQ_INLINE float32x4_t exp2_of(float32x4_t x) {
    x = vmaxq_f32(x, vdupq_n_f32(kLeastExponent));
    const float32x4_t shifted = vaddq_f32(x, vdupq_n_f32(kRounder));
    const float32x4_t fraction = vsubq_f32(x, vsubq_f32(shifted, vdupq_n_f32(kRounder)));
    const float32x4_t power = vaddq_f32(polynomial(kExp2, fraction), vdupq_n_f32(1.0f));
    const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(power), exponent));
}

// With t = |x| and T(t) = erfc(t / sqrt 2) / 2, the normal distribution's tail,
//
//   gelu(x) = max(x, 0) - t T(t)
//
// which has no cancellation for x < 0. -log2 T(t) = 1 + G(t) is smooth, nearly a parabola: G is fitted on [0, 6] to the
// least greatest error of t T(t), 8.3e-8. Above 6, t T(t) < 6e-9 is left out.
constexpr float kTail[] = {-1.1511471271514893f,  -0.45891568064689636f,   -0.05323818325996399f,
                           0.007977461442351341f, -0.0007398738525807858f, 2.992414010805078e-05f};
constexpr float kTailEnd = 6.0f;

WHISPERQ_INLINE float32x4_t gelu_of(float32x4_t x) {
    const float32x4_t t = vabsq_f32(x);
    const float32x4_t log_tail = vsubq_f32(polynomial(kTail, vminq_f32(t, vdupq_n_f32(kTailEnd))), vdupq_n_f32(1.0f));
    const uint32x4_t has_tail = vcleq_f32(t, vdupq_n_f32(kTailEnd));
    const float32x4_t product = vmulq_f32(t, exp2_of(log_tail));
    const float32x4_t tail = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(product), has_tail));
    return vsubq_f32(vmaxq_f32(x, vdupq_n_f32(0.0f)), tail);
}

WHISPERQ_INLINE Row16 gelu_of(const Row16& x) {
    return {{gelu_of(x.quad[0]), gelu_of(x.quad[1]), gelu_of(x.quad[2]), gelu_of(x.quad[3])}};
}

void gelu(float* values, int64_t n) {
    int64_t i = 0;
    for (; i + kTileColumns <= n; i += kTileColumns) store_row(values + i, gelu_of(load_row(values + i)));
    if (i == n) return;
    const size_t rest = static_cast<size_t>(n - i) * sizeof(float);
    float row[kTileColumns] = {};
    memcpy(row, values + i, rest);
    store_row(row, gelu_of(load_row(row)));
    memcpy(values + i, row, rest);
}

// The Lanes of cached_attention.h.
struct Lanes {
    using Row = Row16;

    WHISPERQ_INLINE static Row zero() { return filled(0.0f); }
    WHISPERQ_INLINE static Row load(const float* from) { return load_row(from); }
    WHISPERQ_INLINE static Row load(const uint16_t* half) {
        const uint16x8_t low = vld1q_u16(half), high = vld1q_u16(half + 8);
        return {{widened(vget_low_u16(low)), widened(vget_high_u16(low)), widened(vget_low_u16(high)),
                 widened(vget_high_u16(high))}};
    }
    WHISPERQ_INLINE static Row load_unaligned(const float* from) { return load_row(from); }
    WHISPERQ_INLINE static void store_codes(int8_t* to, const Row& row) {
        const int16x8_t low = vmovn_high_s32(vmovn_s32(vcvtnq_s32_f32(row.quad[0])), vcvtnq_s32_f32(row.quad[1]));
        const int16x8_t high = vmovn_high_s32(vmovn_s32(vcvtnq_s32_f32(row.quad[2])), vcvtnq_s32_f32(row.quad[3]));
        vst1q_s8(to, vmovn_high_s16(vmovn_s16(low), high));
    }
    WHISPERQ_INLINE static Row magnitude(const Row& row) {
        return {{vabsq_f32(row.quad[0]), vabsq_f32(row.quad[1]), vabsq_f32(row.quad[2]), vabsq_f32(row.quad[3])}};
    }
    WHISPERQ_INLINE static Row multiply(const Row& a, const Row& b) {
        return {{vmulq_f32(a.quad[0], b.quad[0]), vmulq_f32(a.quad[1], b.quad[1]), vmulq_f32(a.quad[2], b.quad[2]),
                 vmulq_f32(a.quad[3], b.quad[3])}};
    }
    WHISPERQ_INLINE static void store(float* to, const Row& row) { store_row(to, row); }
    WHISPERQ_INLINE static Row add_product(const Row& sum, const Row& row, float factor) {
        return {{vfmaq_n_f32(sum.quad[0], row.quad[0], factor), vfmaq_n_f32(sum.quad[1], row.quad[1], factor),
                 vfmaq_n_f32(sum.quad[2], row.quad[2], factor), vfmaq_n_f32(sum.quad[3], row.quad[3], factor)}};
    }
    WHISPERQ_INLINE static Row add(const Row& a, const Row& b) {
        return {{vaddq_f32(a.quad[0], b.quad[0]), vaddq_f32(a.quad[1], b.quad[1]), vaddq_f32(a.quad[2], b.quad[2]),
                 vaddq_f32(a.quad[3], b.quad[3])}};
    }
    WHISPERQ_INLINE static Row greater(const Row& a, const Row& b) {
        return {{vmaxq_f32(a.quad[0], b.quad[0]), vmaxq_f32(a.quad[1], b.quad[1]), vmaxq_f32(a.quad[2], b.quad[2]),
                 vmaxq_f32(a.quad[3], b.quad[3])}};
    }
    WHISPERQ_INLINE static Row scaled(const Row& row, float factor) {
        return {{vmulq_n_f32(row.quad[0], factor), vmulq_n_f32(row.quad[1], factor), vmulq_n_f32(row.quad[2], factor),
                 vmulq_n_f32(row.quad[3], factor)}};
    }
    WHISPERQ_INLINE static Row power_of_e(const Row& row, float subtracted) {
        const float32x4_t by = vdupq_n_f32(subtracted);
        return {{power_of_e(vsubq_f32(row.quad[0], by)), power_of_e(vsubq_f32(row.quad[1], by)),
                 power_of_e(vsubq_f32(row.quad[2], by)), power_of_e(vsubq_f32(row.quad[3], by))}};
    }
    WHISPERQ_INLINE static float greatest_lane(const Row& row) {
        return vmaxvq_f32(vmaxq_f32(vmaxq_f32(row.quad[0], row.quad[1]), vmaxq_f32(row.quad[2], row.quad[3])));
    }
    WHISPERQ_INLINE static float sum_of_lanes(const Row& row) {
        return vaddvq_f32(vaddq_f32(vaddq_f32(row.quad[0], row.quad[1]), vaddq_f32(row.quad[2], row.quad[3])));
    }

    struct Codes {
        int8x16_t quad[kQuads];
    };
    WHISPERQ_INLINE static Codes load_codes(const int8_t* from) {
        return {{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
    }
    WHISPERQ_INLINE static Codes repeat_code(int code) {
        const int8x16_t all = vdupq_n_s8(static_cast<int8_t>(code));
        return {{all, all, all, all}};
    }
    WHISPERQ_INLINE static void expand_six_bits(const uint8_t* packed, Codes (&rows)[kSixBitRows]) {
        for (int64_t i = 0; i < kQuads; ++i, packed += 16) {
            const uint8x16_t rows01 = vld1q_u8(packed), rows23 = vld1q_u8(packed + kSixBitRow);
            const uint8x16_t above = vld1q_u8(packed + 2 * kSixBitRow);
            rows[0].quad[i] = six_bits(vsliq_n_u8(rows01, above, 4));
            rows[1].quad[i] = six_bits(vsliq_n_u8(vshrq_n_u8(rows01, 4), vshrq_n_u8(above, 2), 4));
            rows[2].quad[i] = six_bits(vsliq_n_u8(rows23, vshrq_n_u8(above, 4), 4));
            rows[3].quad[i] = six_bits(vsliq_n_u8(vshrq_n_u8(rows23, 4), vshrq_n_u8(above, 6), 4));
        }
    }
    WHISPERQ_INLINE static void fetch(const void* from) { __builtin_prefetch(from, 0, 2); }

#if defined(__ARM_FEATURE_DOTPROD)
    struct Dots {
        int32x4_t quad[kQuads];
    };
    WHISPERQ_INLINE static Dots start_unsigned() {
        const int32x4_t none = vdupq_n_s32(0);
        return {{none, none, none, none}};
    }
    WHISPERQ_INLINE static Dots add_signed(Dots dots, const Codes& codes, int32_t four) {
        const int8x16_t by = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int64_t i = 0; i < kQuads; ++i) dots.quad[i] = vdotq_s32(dots.quad[i], codes.quad[i], by);
        return dots;
    }
    WHISPERQ_INLINE static Row to_floats(const Dots& dots) {
        return {{vcvtq_f32_s32(dots.quad[0]), vcvtq_f32_s32(dots.quad[1]), vcvtq_f32_s32(dots.quad[2]),
                 vcvtq_f32_s32(dots.quad[3])}};
    }
#else
    struct Dots {
        int32x4_t half[2 * kQuads];  // two lanes for each of two keys or values
    };
    WHISPERQ_INLINE static Dots start_unsigned() {
        const int32x4_t none = vdupq_n_s32(0);
        return {{none, none, none, none, none, none, none, none}};
    }
    WHISPERQ_INLINE static Dots add_signed(Dots dots, const Codes& codes, int32_t four) {
        const int8x16_t by = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int64_t i = 0; i < kQuads; ++i) {
            const int8x16_t quad = codes.quad[i];
            dots.half[2 * i] = vpadalq_s16(dots.half[2 * i], vmull_s8(vget_low_s8(quad), vget_low_s8(by)));
            dots.half[2 * i + 1] = vpadalq_s16(dots.half[2 * i + 1], vmull_high_s8(quad, by));
        }
        return dots;
    }
    WHISPERQ_INLINE static Row to_floats(const Dots& dots) {
        return {{vcvtq_f32_s32(vpaddq_s32(dots.half[0], dots.half[1])),
                 vcvtq_f32_s32(vpaddq_s32(dots.half[2], dots.half[3])),
                 vcvtq_f32_s32(vpaddq_s32(dots.half[4], dots.half[5])),
                 vcvtq_f32_s32(vpaddq_s32(dots.half[6], dots.half[7]))}};
    }
#endif
    WHISPERQ_INLINE static Dots start_signed(int32_t) {
        return start_unsigned();
    }
    WHISPERQ_INLINE static Dots add_unsigned(const Dots& dots, const Codes& codes, int32_t four) {
        return add_signed(dots, codes, four);
    }

  private:
    WHISPERQ_INLINE static int8x16_t six_bits(uint8x16_t bits) {
        return vreinterpretq_s8_u8(vandq_u8(bits, vdupq_n_u8(63)));
    }
    WHISPERQ_INLINE static Row filled(float value) {
        const float32x4_t all = vdupq_n_f32(value);
        return {{all, all, all, all}};
    }
    WHISPERQ_INLINE static float32x4_t widened(uint16x4_t half) {
        return vcvt_f32_f16(vreinterpret_f16_u16(half));
    }
    WHISPERQ_INLINE static float32x4_t power_of_e(float32x4_t x) {
        return exp2_of(vmulq_n_f32(x, 1.44269504088896341f));
    }
};

}  // namespace
}  // namespace whisperq::kernels
