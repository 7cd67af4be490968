// Kernels for CPUs with the dot product of bytes (sdot: Cortex-A55, A75, A76 and later, Apple's since the M1).
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_DOTPROD)
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

// Four tiles of k = 512 fit an A76's first-level cache, and the strips are read from memory once for 64 columns.
constexpr int64_t kTilesPerCall = 4;
constexpr int64_t kColumns = 8;
constexpr int64_t kPartQuads = kColumns / kLanes;

// sdot multiplies four values of each of four columns with four values of a row, by lane. Columns are as pack.h has
// them:
//
//   strip[row][32]   part[group][column][4]
struct Order {
    using Part = kernels::Part<kColumns>;

    WHISPERQ_INLINE static void store_row(int8_t* codes, int64_t row, int8x16_t low, int8x16_t high) {
        vst1q_s8(codes + row * kBlock, low);
        vst1q_s8(codes + row * kBlock + 16, high);
    }

    WHISPERQ_INLINE static void store_quad(int8_t* codes, int64_t column, const QuadCodes& quad) {
        for (int64_t g = 0; g < kGroups; ++g) vst1q_s8(codes + (g * kColumns + column) * kGroup, quad.group[g]);
    }
};

template <int kRows>
struct Dots {
    int32x4_t dot[kRows][kPartQuads];
};

// `next` holds the first codes of the group, and is left with those of the group behind it, if there is one.
template <int kLane, bool kHasNext, int kRows>
WHISPERQ_INLINE void add_group(const int8_t* codes, const int8x16_t (&rows)[kRows], int8x16_t& next,
                               Dots<kRows>& dots) {
    for (int64_t j = 0; j < kPartQuads; ++j) {
        const int8x16_t columns = next;
        if (kHasNext || j + 1 < kPartQuads) next = vld1q_s8(codes + (j + 1) * kLanes * kGroup);
        for (int r = 0; r < kRows; ++r) {
            dots.dot[r][j] = vdotq_laneq_s32(dots.dot[r][j], columns, rows[r], kLane);
        }
        if (kHasNext || j + 1 < kPartQuads) end_segment();
    }
}

// Multiply four groups: 16 values of each row.
template <int kRows>
WHISPERQ_INLINE void add_half(const int8_t* strip, const int8_t* codes, Dots<kRows>& dots) {
    constexpr int64_t kGroupBytes = kColumns * kGroup;
    int8x16_t rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = vld1q_s8(strip + r * kBlock);
    int8x16_t next = vld1q_s8(codes);
    end_segment();
    add_group<0, true>(codes, rows, next, dots);
    add_group<1, true>(codes + kGroupBytes, rows, next, dots);
    add_group<2, true>(codes + 2 * kGroupBytes, rows, next, dots);
    add_group<3, false>(codes + 3 * kGroupBytes, rows, next, dots);
}

// Take a row's scale or sum by lane: rows 0 to 3 are in one register, 4 and 5 in another.
template <int kRow>
WHISPERQ_INLINE float32x4_t multiply_by_row(float32x4_t x, const float32x4_t (&rows)[2]) {
    return vmulq_laneq_f32(x, rows[kRow / kLanes], kRow % kLanes);
}
template <int kRow>
WHISPERQ_INLINE float32x4_t add_times_row(float32x4_t sum, float32x4_t x, const float32x4_t (&rows)[2]) {
    return vfmaq_laneq_f32(sum, x, rows[kRow / kLanes], kRow % kLanes);
}

struct Product {
    using Part = Order::Part;

    // Multiply kRows x 8 columns. 12 registers of int32 for a block, 12 of floats and 6 of the rows' codes leave 2 for
    // the columns' codes.
    //
    //               | w0 | w1 |   4 values of 4 columns each
    //   row |abcd|  |dots|    |   a: the first 4 of 16 values of the row
    //       |abcd|  |    |    |
    template <int kRows, bool kHasMinimum>
    static void multiply(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, float* sums) {
        float32x4_t total[kRows][kPartQuads];
        for (auto& row : total) {
            for (float32x4_t& quad : row) quad = vdupq_n_f32(0.0f);
        }
        for (int64_t b = 0; b < n_blocks; ++b, strip += kStripBlock, part += Part::kBlockBytes) {
            Dots<kRows> dots;
            for (auto& row : dots.dot) {
                for (int32x4_t& quad : row) quad = vdupq_n_s32(0);
            }
            add_half(codes_of_strip(strip), Part::codes(part), dots);
            add_half(codes_of_strip(strip) + kBlock / 2, Part::codes(part) + kColumns * kBlock / 2, dots);
            add_block<0, kRows, kHasMinimum>(strip, part, dots, total);
        }
        for (int r = 0; r < kRows; ++r) {
            for (int64_t j = 0; j < kPartQuads; ++j) vst1q_f32(sums + r * kTileColumns + j * kLanes, total[r][j]);
        }
    }

    // Compute total += dots * scales of rows and columns, for rows from kRow on. Lanes are constants, so this is no
    // loop.
    template <int kRow, int kRows, bool kHasMinimum>
    WHISPERQ_INLINE static void add_block(const uint8_t* strip, const uint8_t* part, const Dots<kRows>& dots,
                                          float32x4_t (&total)[kRows][kPartQuads]) {
        const float* row_scales = scales_of_strip(strip);
        const float* row_sums = sums_of_strip(strip);
        const float32x4_t scales[2] = {vld1q_f32(row_scales), vld1q_f32(row_scales + kLanes)};
        const float32x4_t sums[2] = {vld1q_f32(row_sums), vld1q_f32(row_sums + kLanes)};
        for (int64_t j = 0; j < kPartQuads; ++j) {
            const float32x4_t scale = multiply_by_row<kRow>(vld1q_f32(Part::scales(part) + j * kLanes), scales);
            total[kRow][j] = vfmaq_f32(total[kRow][j], vcvtq_f32_s32(dots.dot[kRow][j]), scale);
            if (kHasMinimum) {
                const float32x4_t minima = vld1q_f32(Part::minima(part) + j * kLanes);
                total[kRow][j] = add_times_row<kRow>(total[kRow][j], minima, sums);
            }
        }
        if constexpr (kRow + 1 < kRows) add_block<kRow + 1, kRows, kHasMinimum>(strip, part, dots, total);
    }

    static void multiply_part(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, bool has_minimum,
                              int64_t n_rows, float* sums) {
        multiply_rows<Product, 1>(strip, part, n_blocks, has_minimum, n_rows, sums);
    }
};

// A Dot for neon_packed.h.
struct Dot {
    int32x4_t sum = vdupq_n_s32(0);

    WHISPERQ_INLINE void add(int8x16_t columns, int8x16_t values) { sum = vdotq_s32(sum, columns, values); }
    WHISPERQ_INLINE int32x4_t sums() const { return sum; }
    WHISPERQ_INLINE static int64_t code_at(int64_t row, int64_t group) { return row * kBlock + group * kGroup; }
};

}  // namespace

extern const KernelTable kNeonDotprodTable = {
    "neon_dotprod",
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
    attention<Order, Product>,
    quantize_head<Lanes>,
    score_keys<Lanes>,
    softmax<Lanes>,
    mix_values<Lanes>,
};

}  // namespace whisperq::kernels
