// Kernels for CPUs that multiply matrices of bytes (smmla: Cortex-A510, A710, X2, Neoverse N2, V1 and later, Apple's
// since the M2).
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_MATMUL_INT8)
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

// Four tiles of k = 512 fit a first-level cache of 64 KiB, and the strips are read from memory once for 64 columns.
constexpr int64_t kTilesPerCall = 4;
constexpr int64_t kColumns = 8;
constexpr int64_t kColumnPairs = kColumns / 2;
constexpr int64_t kStep = 8;  // values of k that smmla takes at a time
constexpr int64_t kSteps = kBlock / kStep;

// smmla multiplies two rows of eight values with two columns of eight:
//
//   strip[pair of rows][step][2][8]   part[step][pair of columns][2][8]
struct Order {
    using Part = kernels::Part<kColumns>;

    WHISPERQ_INLINE static void store_row(int8_t* codes, int64_t row, int8x16_t low, int8x16_t high) {
        int8_t* to = codes + row / 2 * 2 * kBlock + row % 2 * kStep;
        vst1_s8(to, vget_low_s8(low));
        vst1_s8(to + 2 * kStep, vget_high_s8(low));
        vst1_s8(to + 4 * kStep, vget_low_s8(high));
        vst1_s8(to + 6 * kStep, vget_high_s8(high));
    }

    // A step is two groups of four.
    WHISPERQ_INLINE static void store_quad(int8_t* codes, int64_t column, const QuadCodes& quad) {
        for (int64_t s = 0; s < kSteps; ++s) {
            const int32x4_t first = vreinterpretq_s32_s8(quad.group[2 * s]);
            const int32x4_t second = vreinterpretq_s32_s8(quad.group[2 * s + 1]);
            int8_t* to = codes + (s * kColumns + column) * kStep;
            vst1q_s8(to, vreinterpretq_s8_s32(vzip1q_s32(first, second)));
            vst1q_s8(to + 2 * kStep, vreinterpretq_s8_s32(vzip2q_s32(first, second)));
        }
    }
};

template <int kPairs>
struct Dots {
    int32x4_t dot[kPairs][kColumnPairs];
};

template <int kPairs>
WHISPERQ_INLINE void add_step(const int8_t* strip, const int8_t* codes, Dots<kPairs>& dots) {
    int8x16_t rows[kPairs];
    int8x16_t next = vld1q_s8(codes);
    for (int p = 0; p < kPairs; ++p) rows[p] = vld1q_s8(strip + p * 2 * kBlock);
    for (int64_t c = 0; c < kColumnPairs; ++c) {
        const int8x16_t columns = next;
        if (c + 1 < kColumnPairs) next = vld1q_s8(codes + (c + 1) * 2 * kStep);
        for (int p = 0; p < kPairs; ++p) dots.dot[p][c] = vmmlaq_s32(dots.dot[p][c], rows[p], columns);
        if (c + 1 < kColumnPairs) end_segment();
    }
}

// Arrange numbers a and b of two columns as a b a b, and of two rows as a a b b. A 2 x 2 of smmla is multiplied with
// them.
WHISPERQ_INLINE float32x4_t repeat_columns(const float* two) {
    double pair;
    memcpy(&pair, two, sizeof pair);
    return vreinterpretq_f32_f64(vdupq_n_f64(pair));
}
WHISPERQ_INLINE float32x4_t repeat_rows(const float* two) {
    const float32x4_t pair = vcombine_f32(vld1_f32(two), vdup_n_f32(0.0f));
    return vzip1q_f32(pair, pair);
}

struct Product {
    using Part = Order::Part;

    // Multiply 2 kPairs rows x 8 columns: 12 registers of int32 for a block, 12 of floats, 3 of the rows' codes, 4 of
    // the columns'.
    //
    //                  | c0 c1 | c2 c3 | c4 c5 | c6 c7 |   8 values of each
    //   r0 r1 | a a |  | 2 x 2 |       |       |       |
    template <int kPairs, bool kHasMinimum>
    static void multiply(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, float* sums) {
        float32x4_t total[kPairs][kColumnPairs];
        for (auto& row : total) {
            for (float32x4_t& pair : row) pair = vdupq_n_f32(0.0f);
        }
        for (int64_t b = 0; b < n_blocks; ++b, strip += kStripBlock, part += Part::kBlockBytes) {
            Dots<kPairs> dots;
            for (auto& row : dots.dot) {
                for (int32x4_t& pair : row) pair = vdupq_n_s32(0);
            }
            for (int64_t s = 0; s < kSteps; ++s) {
                add_step(codes_of_strip(strip) + s * 2 * kStep, Part::codes(part) + s * kColumns * kStep, dots);
            }
            add_block<kPairs, kHasMinimum>(strip, part, dots, total);
        }
        for (int p = 0; p < kPairs; ++p) {
            for (int64_t c = 0; c < kColumnPairs; ++c) {
                float* to = sums + 2 * p * kTileColumns + 2 * c;
                vst1_f32(to, vget_low_f32(total[p][c]));
                vst1_f32(to + kTileColumns, vget_high_f32(total[p][c]));
            }
        }
    }

    // Compute total += dots * scales of rows and columns
    template <int kPairs, bool kHasMinimum>
    WHISPERQ_INLINE static void add_block(const uint8_t* strip, const uint8_t* part, const Dots<kPairs>& dots,
                                          float32x4_t (&total)[kPairs][kColumnPairs]) {
        for (int p = 0; p < kPairs; ++p) {
            const float32x4_t row_scales = repeat_rows(scales_of_strip(strip) + 2 * p);
            for (int64_t c = 0; c < kColumnPairs; ++c) {
                const float32x4_t scale = vmulq_f32(row_scales, repeat_columns(Part::scales(part) + 2 * c));
                total[p][c] = vfmaq_f32(total[p][c], vcvtq_f32_s32(dots.dot[p][c]), scale);
            }
        }
        if (!kHasMinimum) return;
        for (int p = 0; p < kPairs; ++p) {
            const float32x4_t row_sums = repeat_rows(sums_of_strip(strip) + 2 * p);
            for (int64_t c = 0; c < kColumnPairs; ++c) {
                total[p][c] = vfmaq_f32(total[p][c], row_sums, repeat_columns(Part::minima(part) + 2 * c));
            }
        }
    }

    static void multiply_part(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, bool has_minimum,
                              int64_t n_rows, float* sums) {
        multiply_rows<Product, 2>(strip, part, n_blocks, has_minimum, n_rows, sums);
    }
};

// A Dot for neon_packed.h.
struct Dot {
    int32x4_t sum = vdupq_n_s32(0);

    WHISPERQ_INLINE void add(int8x16_t columns, int8x16_t values) { sum = vdotq_s32(sum, columns, values); }
    WHISPERQ_INLINE int32x4_t sums() const { return sum; }
    WHISPERQ_INLINE static int64_t code_at(int64_t row, int64_t group) {
        return row / 2 * 2 * kBlock + group / 2 * 2 * kStep + row % 2 * kStep + group % 2 * kGroup;
    }
};

}  // namespace

extern const KernelTable kNeonI8mmTable = {
    "neon_i8mm",
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
