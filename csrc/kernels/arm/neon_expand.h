// Expansion of packed weights (pack.h) to a byte a code, and of f16 to float.
#pragma once

#include "kernels/arm/neon_layout.h"
#include "kernels/block_formats.h"

namespace whisperq::kernels {
namespace {

WHISPERQ_INLINE float32x4_t load_halves(const uint8_t* from) {
    uint16x4_t bits;
    memcpy(&bits, from, sizeof bits);
    return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

void half_to_float(const uint16_t* half, int64_t n, float* out) {
    const auto* from = reinterpret_cast<const uint8_t*>(half);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) vst1q_f32(out + i, load_halves(from + 2 * i));
    if (i == n) return;
    uint8_t some[2 * kLanes] = {};
    float values[kLanes];
    memcpy(some, half + i, static_cast<size_t>(n - i) * sizeof *half);
    vst1q_f32(values, load_halves(some));
    memcpy(out + i, values, static_cast<size_t>(n - i) * sizeof *out);
}

void float_to_half(const float* values, int64_t n, uint16_t* half) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        vst1_u16(half + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
    }
    if (i == n) return;
    float some[kLanes] = {};
    uint16_t halves[kLanes];
    memcpy(some, values + i, static_cast<size_t>(n - i) * sizeof *values);
    vst1_u16(halves, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(some))));
    memcpy(half + i, halves, static_cast<size_t>(n - i) * sizeof *half);
}

// The codes of a quad of columns in a block. Register g has columns 4 quad to 4 quad + 3 of group g, four bytes each.
struct QuadCodes {
    int8x16_t group[kGroups];
};

// Return 0xff where the code has its fifth bit. The bits of 16 codes, two bytes, are spread over the lanes of register
// g. Each lane looks at a bit of its own.
WHISPERQ_INLINE uint8x16_t fifth_bits(const uint8_t* fifth, int64_t group, int64_t quad) {
    static const uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const int64_t first = group % 2 * 8 + quad * 2;  // two groups are a register
    const uint8x16_t two_groups = vld1q_u8(fifth + group / 2 * 16);
    const uint8x16_t bytes = vqtbl1q_u8(two_groups, vaddq_u8(vld1q_u8(kByte), vdupq_n_u8(static_cast<uint8_t>(first))));
    return vtstq_u8(bytes, vld1q_u8(kBit));
}

// Return a nibble and its fifth bit as an int8, less the zero point. The bit is worth 16, so that with a zero point of
// 16 a code without the bit is negative. The bits above the nibble are its complement.
template <int kZeroPoint>
WHISPERQ_INLINE uint8x16_t join_fifth(uint8x16_t nibbles, uint8x16_t fifth) {
    static_assert(kZeroPoint == 0 || kZeroPoint == 16, "q5_1, q5_0");
    if (kZeroPoint == 0) return vorrq_u8(nibbles, vandq_u8(fifth, vdupq_n_u8(0x10)));
    return vorrq_u8(nibbles, vbicq_u8(vdupq_n_u8(0xf0), fifth));
}

template <Format kFormat>
WHISPERQ_INLINE QuadCodes load_quad(const uint8_t* packed, int64_t quad) {
    constexpr FormatInfo f = info(kFormat);
    constexpr int64_t kGroupBytes = kTileColumns * kGroup, kHalf = kGroups / 2;
    const uint8_t* from = packed + quad * kLanes * kGroup;
    QuadCodes codes;
    for (int64_t g = 0; g < kGroups; ++g) {
        uint8x16_t code;
        if constexpr (f.bits == 8) {
            code = veorq_u8(vld1q_u8(from + g * kGroupBytes), vdupq_n_u8(0x80));  // - 128
        } else {
            const uint8x16_t pair = vld1q_u8(from + g % kHalf * kGroupBytes);
            code = g < kHalf ? vandq_u8(pair, vdupq_n_u8(15)) : vshrq_n_u8(pair, 4);
        }
        if constexpr (f.bits == 5) {
            code = join_fifth<f.zero_point>(code, fifth_bits(packed + kHalf * kGroupBytes, g, quad));
        }
        if constexpr (f.bits == 4) code = vsubq_u8(code, vdupq_n_u8(f.zero_point));
        codes.group[g] = vreinterpretq_s8_u8(code);
    }
    return codes;
}

// `Order::store_quad(codes, column, quad)` puts a quad of columns, the first being `column` of its part, in its places.
template <class Order, Format kFormat>
void expand(const uint8_t* tile, int64_t k, uint8_t* expanded) {
    using Part = typename Order::Part;
    constexpr FormatInfo f = info(kFormat);
    constexpr int64_t kColumns = kTileColumns / Part::kPerTile;
    constexpr int64_t kCodeBytes = kTileColumns * kBlock * f.bits / 8;
    const int64_t n_blocks = k / kBlock;
    for (int64_t b = 0; b < n_blocks; ++b, tile += f.tile_bytes) {
        for (int64_t quad = 0; quad < kQuads; ++quad) {
            const int64_t part = quad * kLanes / kColumns, column = quad * kLanes % kColumns;
            uint8_t* block = expanded + (part * n_blocks + b) * Part::kBlockBytes;
            Order::store_quad(reinterpret_cast<int8_t*>(block), column, load_quad<kFormat>(tile, quad));
            float* scales = reinterpret_cast<float*>(block + kColumns * kBlock) + column;
            const uint8_t* halves = tile + kCodeBytes + quad * kLanes * 2;
            vst1q_f32(scales, load_halves(halves));
            vst1q_f32(scales + kColumns, f.has_minimum ? load_halves(halves + kTileColumns * 2)
                                                       : vdupq_n_f32(f.bits == 8 ? kWideCodes : kNarrowCodes));
        }
    }
}

template <class Order>
void expand_tile(Format format, const uint8_t* tile, int64_t k, uint8_t* expanded) {
    with_block_format(format, [&](auto block) { expand<Order, decltype(block)::kFormat>(tile, k, expanded); });
}

}  // namespace
}  // namespace whisperq::kernels
