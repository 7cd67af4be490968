// Kernels for every AArch64 CPU, and above all for the Cortex-A53 of small boards. It executes in order, has no dot
// product of bytes, and multiplies eight of them at a time.
#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "compile with the flags of cmake/Kernels.cmake"
#endif

#include <arm_neon.h>

#include "kernels/arm/neon_attention.h"
#include "kernels/arm/neon_expand.h"
#include "kernels/arm/neon_float.h"
#include "kernels/arm/neon_layout.h"
#include "kernels/arm/neon_math.h"
#include "kernels/arm/neon_norm.h"
#include "kernels/arm/neon_packed.h"
#include "kernels/arm/neon_product.h"
#include "kernels/arm/neon_quantize.h"
#include "kernels/cached_attention.h"
#include "kernels/tables.h"

namespace whisperq::kernels {
namespace {

// Two tiles of k = 512 and a strip fit the 32 KiB of an A53's first-level cache.
constexpr int64_t kTilesPerCall = 2;
constexpr int64_t kColumns = 4;

// Both factors have the values of k side by side, 32 of a row or a column:
//
//   strip[row][32]   part[column][32]
struct Order {
    using Part = kernels::Part<kColumns>;

    WHISPERQ_INLINE static void store_row(int8_t* codes, int64_t row, int8x16_t low, int8x16_t high) {
        vst1q_s8(codes + row * kBlock, low);
        vst1q_s8(codes + row * kBlock + 16, high);
    }

    // Four groups of four columns, transposed: 16 values of each column.
    WHISPERQ_INLINE static void store_half(int8_t* codes, const int8x16_t* group) {
        const int32x4_t g0 = vreinterpretq_s32_s8(group[0]), g1 = vreinterpretq_s32_s8(group[1]);
        const int32x4_t g2 = vreinterpretq_s32_s8(group[2]), g3 = vreinterpretq_s32_s8(group[3]);
        const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(g0, g1)), b = vreinterpretq_s64_s32(vtrn2q_s32(g0, g1));
        const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(g2, g3)), d = vreinterpretq_s64_s32(vtrn2q_s32(g2, g3));
        vst1q_s8(codes, vreinterpretq_s8_s64(vtrn1q_s64(a, c)));
        vst1q_s8(codes + kBlock, vreinterpretq_s8_s64(vtrn1q_s64(b, d)));
        vst1q_s8(codes + 2 * kBlock, vreinterpretq_s8_s64(vtrn2q_s64(a, c)));
        vst1q_s8(codes + 3 * kBlock, vreinterpretq_s8_s64(vtrn2q_s64(b, d)));
    }

    WHISPERQ_INLINE static void store_quad(int8_t* codes, int64_t, const QuadCodes& quad) {
        store_half(codes, quad.group);
        store_half(codes + 16, quad.group + 4);
    }
};

// A block's 32 codes of each of four columns, or of one row.
struct Codes {
    int8x16_t low, high;
};

WHISPERQ_INLINE Codes load_codes(const int8_t* from) {
    return {vld1q_s8(from), vld1q_s8(from + 16)};
}

// Return 16 products in eight lanes of int16: |a lane| <= 2 * 128 * 127 = 32512, even with a q8_0 code of -128.
WHISPERQ_INLINE int16x8_t multiply_half(int8x16_t a, int8x16_t b) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);
}

// Compute the products of a row with four columns, not yet one a lane. Columns 0 and 1 have two lanes each of one
// register, 2 and 3 of the other.
//
// Codes of eight bits: int16 holds no more than two products a lane, so that pairs of lanes are added in int32.
WHISPERQ_INLINE void dot_wide(const Codes& row, const Codes (&columns)[kColumns], int32x4_t (&dots)[2]) {
    int32x4_t dot[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) {
        dot[c] = vpaddlq_s16(multiply_half(columns[c].low, row.low));
        dot[c] = vpadalq_s16(dot[c], multiply_half(columns[c].high, row.high));
    }
    dots[0] = vpaddq_s32(dot[0], dot[1]);
    dots[1] = vpaddq_s32(dot[2], dot[3]);
}

// Narrow codes (kNarrowCodes): four products a lane, and two lanes together, still fit int16.
WHISPERQ_INLINE void dot_narrow(const Codes& row, const Codes (&columns)[kColumns], int32x4_t (&dots)[2]) {
    int16x8_t dot[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) {
        dot[c] = multiply_half(columns[c].low, row.low);
        dot[c] = vmlal_s8(dot[c], vget_low_s8(columns[c].high), vget_low_s8(row.high));
        dot[c] = vmlal_high_s8(dot[c], columns[c].high, row.high);
    }
    dots[0] = vpaddlq_s16(vpaddq_s16(dot[0], dot[1]));
    dots[1] = vpaddlq_s16(vpaddq_s16(dot[2], dot[3]));
}

enum class Kind { wide, narrow, narrow_with_minimum };

struct Product {
    using Part = Order::Part;

    // kRows x 4 columns. Four columns of a block stay in eight registers while the rows go by:
    //
    //               | c0 c0 | c1 c1 | c2 c2 | c3 c3 |      8 registers of codes
    //   row | a a | |  0 1 2 3                      | -> total[row], one register of floats
    //
    // A row's segment multiplies its codes, loads the next row's, and adds the last row's products to its total.
    template <int kRows, Kind kKind>
    static void multiply(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, float* sums) {
        float32x4_t total[kRows];
        for (float32x4_t& row : total) row = vdupq_n_f32(0.0f);
        for (int64_t b = 0; b < n_blocks; ++b, strip += kStripBlock, part += Part::kBlockBytes) {
            Codes columns[kColumns];
            Codes next = load_codes(codes_of_strip(strip));
            for (int64_t c = 0; c < kColumns; ++c) columns[c] = load_codes(Part::codes(part) + c * kBlock);
            const float32x4_t scales = vld1q_f32(Part::scales(part));
            const int32x4_t none[2] = {};
            add_rows<0, kRows, kKind>(strip, part, next, columns, scales, none, total);
        }
        for (int r = 0; r < kRows; ++r) vst1q_f32(sums + r * kTileColumns, total[r]);
    }

    // Compute the segments of rows from kRow on. This is a recursion, because GCC keeps arrays in registers only if
    // their indices are constants from the start.
    template <int kRow, int kRows, Kind kKind>
    WHISPERQ_INLINE static void add_rows(const uint8_t* strip, const uint8_t* part, const Codes& row,
                                         const Codes (&columns)[kColumns], float32x4_t scales,
                                         const int32x4_t (&last)[2], float32x4_t (&total)[kRows]) {
        Codes next = row;
        if constexpr (kRow + 1 < kRows) next = load_codes(codes_of_strip(strip) + (kRow + 1) * kBlock);
        int32x4_t dots[2];
        if constexpr (kKind == Kind::wide) {
            dot_wide(row, columns, dots);
        } else {
            dot_narrow(row, columns, dots);
        }
        if constexpr (kRow > 0) add_row<kKind>(last, scales, strip, part, kRow - 1, total[kRow - 1]);
        if constexpr (kRow + 1 < kRows) {
            end_segment();
            add_rows<kRow + 1, kRows, kKind>(strip, part, next, columns, scales, dots, total);
        } else {
            add_row<kKind>(dots, scales, strip, part, kRow, total[kRow]);
        }
    }

    // total += dots * scales of columns and row
    template <Kind kKind>
    WHISPERQ_INLINE static void add_row(const int32x4_t (&dots)[2], float32x4_t scales, const uint8_t* strip,
                                        const uint8_t* part, int64_t row, float32x4_t& total) {
        const float32x4_t scale = vmulq_n_f32(scales, scales_of_strip(strip)[row]);
        total = vfmaq_f32(total, vcvtq_f32_s32(vpaddq_s32(dots[0], dots[1])), scale);
        if (kKind == Kind::narrow_with_minimum) {
            total = vfmaq_n_f32(total, vld1q_f32(Part::minima(part)), sums_of_strip(strip)[row]);
        }
    }

    static void multiply_part(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, bool has_minimum,
                              int64_t n_rows, float* sums) {
        with_row_count(n_rows, [&](auto count) {
            constexpr int kRows = decltype(count)::kRows;
            if (has_minimum) {  // formats of four and five bits
                multiply<kRows, Kind::narrow_with_minimum>(strip, part, n_blocks, sums);
            } else if (*Part::minima(part) == kNarrowCodes) {
                multiply<kRows, Kind::narrow>(strip, part, n_blocks, sums);
            } else {
                multiply<kRows, Kind::wide>(strip, part, n_blocks, sums);
            }
        });
    }
};

// A Dot for neon_packed.h: pairs of products in int16, then pairs of pairs in int32.
struct Dot {
    int32x4_t first = vdupq_n_s32(0), second = vdupq_n_s32(0);  // two lanes for each of two columns

    WHISPERQ_INLINE void add(int8x16_t columns, int8x16_t values) {
        first = vpadalq_s16(first, vmull_s8(vget_low_s8(columns), vget_low_s8(values)));
        second = vpadalq_s16(second, vmull_high_s8(columns, values));
    }
    WHISPERQ_INLINE int32x4_t sums() const { return vpaddq_s32(first, second); }
    WHISPERQ_INLINE static int64_t code_at(int64_t row, int64_t group) { return row * kBlock + group * kGroup; }
};

// Attention is always exact here, because products of int8 are no faster than those of f32.
void attention(const HeadRows& head, bool, float* out, int64_t out_stride, float* scratch) {
    attend<FloatKeys>(head, out, out_stride, scratch);
}

}  // namespace

extern const KernelTable kNeonTable = {
    "neon",
    quantize_strip<Order>,
    expand_tile<Order>,
    multiply_strip<Product>,
    kTilesPerCall,
    multiply_packed<Dot>,
    multiply_float,
    multiply_half,
    half_to_float,
    float_to_half,
    layer_norm,
    gelu,
    attention,
    quantize_head<Lanes>,
    score_keys<Lanes>,
    softmax<Lanes>,
    mix_values<Lanes>,
};

}  // namespace whisperq::kernels
