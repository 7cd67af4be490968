// Quantisation of inputs to strips of int8, and expansion of packed weights to unsigned bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/block_formats.h"
#include "kernels/x86/avx512_math.h"

namespace whisperq::kernels {
namespace {

// A strip as these tables order it: the codes of all blocks, then the three numbers a row of all blocks. The codes are
// as the pack instructions leave them, so that no permutation is needed. With 192 bytes a block they stay aligned.
//
//   int8 codes of a block       lane 0      lane 1      lane 2      lane 3       (lanes of 16 bytes: 4 values a row)
//     groups 0-3, rows 0-3     g0 r0..r3   g1 r0..r3   g2 r0..r3   g3 r0..r3
//     groups 4-7, rows 0-3     g4 r0..r3   g5 r0..r3   g6 r0..r3   g7 r0..r3
//     rows 4 and 5             g0 r4 r5    g1 r4 r5    g2 r4 r5    g3 r4 r5
//                              g4 r4 r5    g5 r4 r5    g6 r4 r5    g7 r4 r5
constexpr int64_t kGroups = kBlock / 4;
constexpr int64_t kStripCodeBytes = kBlock * kStripRows;                      // of a block
constexpr int64_t kStripNumberBytes = kStripBlockBytes - kStripCodeBytes;     // of a block
constexpr int64_t kSumsAt = kStripRows * 4, kOffsetsAt = 2 * kStripRows * 4;  // in a block's numbers, behind the scales

// Return where the four codes of a group and row lie in a block.
constexpr int64_t code_at(int64_t group, int64_t row) {
    return row < 4 ? group * 16 + row * 4 : 128 + group % 4 * 16 + group / 4 * 8 + (row - 4) * 4;
}

// ---- Inputs

// Return rows 0-5 in the first six places. This function and the next take [x of rows 0-3] and [rows 4, 5, 4, 5], each
// in each of the four lanes. The latter has two different halves for each row.
static inline __m256 greatest_of_rows(__m512 rows03, __m512 rows45) {
    rows45 = _mm512_max_ps(rows45, _mm512_permute_ps(rows45, 0x4e));
    __m512 both = _mm512_max_ps(_mm512_shuffle_f32x4(rows03, rows45, 0x88), _mm512_shuffle_f32x4(rows03, rows45, 0xdd));
    both = _mm512_max_ps(both, _mm512_shuffle_f32x4(both, both, 0xb1));
    return _mm512_castps512_ps256(_mm512_shuffle_f32x4(both, both, 0x88));
}

static inline __m256i sum_of_rows(__m512i rows03, __m512i rows45) {
    rows45 = _mm512_add_epi32(rows45, _mm512_shuffle_epi32(rows45, static_cast<_MM_PERM_ENUM>(0x4e)));
    __m512i both =
        _mm512_add_epi32(_mm512_shuffle_i32x4(rows03, rows45, 0x88), _mm512_shuffle_i32x4(rows03, rows45, 0xdd));
    both = _mm512_add_epi32(both, _mm512_shuffle_i32x4(both, both, 0xb1));
    return _mm512_castsi512_si256(_mm512_shuffle_i32x4(both, both, 0x88));
}

// Return the greater ones of half of the lanes of two rows: [a b a b] four times.
static inline __m512 greater_pairs(__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

struct BlockValues {
    __m512 low[kStripRows], high[kStripRows];  // values 0-15 and 16-31 of each row
};

// The rows of a strip. A row that does not exist reads row 0 under a mask without lanes.
struct InputRows {
    const float* rows[kStripRows];
    __mmask16 exists[kStripRows];

    InputRows(const float* input, int64_t row_stride, int64_t n_rows) {
        for (int r = 0; r < kStripRows; ++r) {
            rows[r] = r < n_rows ? input + r * row_stride : input;
            exists[r] = r < n_rows ? 0xffff : 0;
        }
    }

    BlockValues block(int64_t b) const {
        BlockValues values;
#pragma GCC unroll 6
        for (int r = 0; r < kStripRows; ++r) {
            values.low[r] = _mm512_maskz_loadu_ps(exists[r], rows[r] + b * kBlock);
            values.high[r] = _mm512_maskz_loadu_ps(exists[r], rows[r] + b * kBlock + kLanes);
        }
        return values;
    }
};

static inline __m256 greatest_magnitudes(const BlockValues& values) {
    constexpr int kGreatestMagnitude = 0x0b;  // of vrangeps: the greater magnitude, sign cleared
    __m512 greatest[kStripRows];
#pragma GCC unroll 6
    for (int r = 0; r < kStripRows; ++r) {
        greatest[r] = _mm512_range_ps(values.low[r], values.high[r], kGreatestMagnitude);
    }
    const __m512 rows01 = greater_pairs(greatest[0], greatest[1]), rows23 = greater_pairs(greatest[2], greatest[3]);
    const __m512d a = _mm512_castps_pd(rows01), b = _mm512_castps_pd(rows23);
    const __m512 rows03 =
        _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    return greatest_of_rows(rows03, greater_pairs(greatest[4], greatest[5]));
}

constexpr __mmask8 kSixRows = (1 << kStripRows) - 1;

static inline void scale_block(const BlockValues& values, uint8_t* numbers, float* inverses) {
    // A scale below the normal floats has no inverse to rely on. Such a block becomes a block of zeros.
    const __m256 exact_scale = _mm256_div_ps(greatest_magnitudes(values), _mm256_set1_ps(127.0f));
    const __mmask8 normal = _mm256_cmp_ps_mask(exact_scale, _mm256_set1_ps(1.17549435e-38f), _CMP_GE_OQ);
    const __m256 scale = _mm256_maskz_mov_ps(normal, exact_scale);
    _mm256_mask_storeu_ps(numbers, kSixRows, scale);
    _mm256_storeu_ps(inverses, _mm256_maskz_div_ps(normal, _mm256_set1_ps(1.0f), scale));
}

static inline void quantize_block(const BlockValues& values, const float* inverses, uint8_t* codes, uint8_t* numbers) {
    __m512i low[kStripRows], high[kStripRows];
#pragma GCC unroll 6
    for (int r = 0; r < kStripRows; ++r) {
        const __m512 inverse = _mm512_set1_ps(inverses[r]);
        low[r] = _mm512_cvtps_epi32(_mm512_mul_ps(values.low[r], inverse));
        high[r] = _mm512_cvtps_epi32(_mm512_mul_ps(values.high[r], inverse));
    }
    const __m512i rows03_low =
        _mm512_packs_epi16(_mm512_packs_epi32(low[0], low[1]), _mm512_packs_epi32(low[2], low[3]));
    const __m512i rows03_high =
        _mm512_packs_epi16(_mm512_packs_epi32(high[0], high[1]), _mm512_packs_epi32(high[2], high[3]));
    const __m512i rows45 = _mm512_packs_epi16(_mm512_packs_epi32(low[4], low[5]), _mm512_packs_epi32(high[4], high[5]));
    _mm512_store_si512(codes, rows03_low);
    _mm512_store_si512(codes + 64, rows03_high);
    _mm512_store_si512(codes + 128, rows45);

    const __m512i ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
    const __m256i sum = sum_of_rows(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, ones, rows03_low), ones, rows03_high),
                                    _mm512_dpbusd_epi32(zero, ones, rows45));
    const __m256 scale = _mm256_maskz_loadu_ps(kSixRows, numbers);
    _mm256_mask_storeu_ps(numbers + kSumsAt, kSixRows, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sum)));
    _mm256_mask_storeu_epi32(numbers + kOffsetsAt, kSixRows,
                             _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sum, 7)));
}

// Quantise a strip: the scales of a few blocks, then their codes. A value goes to its block's scale and back to its
// code in a chain of about 100 cycles. A core holds too few operations at once to overlap two blocks' chains by itself.
static void quantize_strip(const float* input, int64_t row_stride, int64_t n_rows, int64_t k, uint8_t* strip) {
    constexpr int64_t kBlocksAtOnce = 8;
    alignas(32) float inverses[kBlocksAtOnce][8];
    const InputRows rows(input, row_stride, n_rows);
    const int64_t n_blocks = k / kBlock;
    uint8_t* numbers = strip + n_blocks * kStripCodeBytes;
    for (int64_t first = 0; first < n_blocks; first += kBlocksAtOnce) {
        const int64_t end = first + kBlocksAtOnce < n_blocks ? first + kBlocksAtOnce : n_blocks;
        for (int64_t b = first; b < end; ++b) {
            scale_block(rows.block(b), numbers + b * kStripNumberBytes, inverses[b - first]);
        }
        for (int64_t b = first; b < end; ++b) {
            quantize_block(rows.block(b), inverses[b - first], strip + b * kStripCodeBytes,
                           numbers + b * kStripNumberBytes);
        }
    }
}

// ---- Weights

// Expand the codes of group g and, with 4 bits, of group g + 4 beside it: all columns.
template <int kBits, int kZeroPoint, bool kMinimum>
static inline void expand_block(const uint8_t* packed, uint8_t* expanded) {
    constexpr int64_t kGroupBytes = 64;  // 16 columns of 4 values: a register
    constexpr int64_t kCodeBytes = kBlock * kTileColumns * kBits / 8;
    if (kBits == 8) {
        for (int64_t g = 0; g < kGroups; ++g) {
            _mm512_store_si512(expanded + g * kGroupBytes, _mm512_loadu_si512(packed + g * kGroupBytes));
        }
    } else {
        const __m512i nibble = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
        const __m512i from_zero_point = _mm512_set1_epi8(static_cast<char>(128 - kZeroPoint));
        for (int64_t g = 0; g < kGroups / 2; ++g) {
            const __m512i pair = _mm512_loadu_si512(packed + g * kGroupBytes);
            __m512i low = _mm512_and_si512(pair, nibble);
            __m512i high = _mm512_and_si512(_mm512_srli_epi16(pair, 4), nibble);
            if (kBits == 5) {
                const uint8_t* bits = packed + kGroups / 2 * kGroupBytes;
                uint64_t low_bits, high_bits;
                memcpy(&low_bits, bits + g * 8, 8);
                memcpy(&high_bits, bits + (g + kGroups / 2) * 8, 8);
                low = _mm512_mask_add_epi8(low, low_bits, low, fifth);
                high = _mm512_mask_add_epi8(high, high_bits, high, fifth);
            }
            _mm512_store_si512(expanded + g * kGroupBytes, _mm512_add_epi8(low, from_zero_point));
            _mm512_store_si512(expanded + (g + kGroups / 2) * kGroupBytes, _mm512_add_epi8(high, from_zero_point));
        }
    }
    const auto half_at = [](const uint8_t* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    };
    float* scales = reinterpret_cast<float*>(expanded + kGroups * kGroupBytes);
    _mm512_store_ps(scales, half_at(packed + kCodeBytes));
    _mm512_store_ps(scales + kLanes, kMinimum ? half_at(packed + kCodeBytes + 32) : _mm512_setzero_ps());
}

template <Format kFormat>
static void expand_blocks(const uint8_t* tile, int64_t k, uint8_t* expanded) {
    constexpr FormatInfo kInfo = info(kFormat);
    for (int64_t b = 0; b < k / kBlock; ++b) {
        expand_block<kInfo.bits, kInfo.zero_point, kInfo.has_minimum>(tile, expanded);
        tile += kInfo.tile_bytes;
        expanded += kExpandedBlockBytes;
    }
}

static void expand_tile(Format format, const uint8_t* tile, int64_t k, uint8_t* expanded) {
    with_block_format(format, [&](auto block) { expand_blocks<decltype(block)::kFormat>(tile, k, expanded); });
}

}  // namespace
}  // namespace whisperq::kernels
