// Products of quantised inputs with quantised weights, without a dot product instruction.
//
// vpmaddubsw multiplies unsigned bytes with signed ones and adds pairs into int16, where it saturates. There are two
// ways around that, by the width of the weights' codes:
//
// Wide (q8_0): |w| times (w < 0 ? -a : a), then pairs are widened to int32. |w| <= 128 and |a| <= 127, so a pair is at
// most 32512. -a is computed as ~a, without the + 1. The ~ is an xor, which every port does, while vpsignb shares two
// ports with the multiplications (1.6 times the speed, measured on Zen 4). The missing + 1 is the same for every input:
// the sum of |w| over w < 0. It is computed when the tile is expanded, and the int32 sum starts with it. ~a >= -128, so
// a pair is at least -32768.
//
// Narrow (q5_x, q4_x): codes from 0 to 31 times a are at most 31 * 127 * 2 = 7874 a pair. One int16 sum takes 8 pairs.
// With signed codes, code - 16, these are at most 16 * 127 * 16 = 32512. The sum starts with -16 * sum(a) (the strip's
// offsets). It may wrap around on its way, but its result is right. A block thus needs one widening instead of eight.
//
// A strip's block in this order (the sizes are those of kernels.h):
//
//   int8  codes[kStripRows][kBlock]
//   float scales[kStripRows], sums[kStripRows]
//   int16 offsets[kStripRows][2]       -16 * sum of the codes that even (odd) pairs hold
//
// and of an expanded block:
//
//   int8  codes[2][8][8][4]            wide: [half of the columns][group][column][value of k]
//   uint8 codes[8][16][4]              narrow: [group][column][value of k]; q4_0 has 8 added
//   float scales[kTileColumns]
//   float minima[kTileColumns]         formats with a minimum
//   int32 starts[kTileColumns]         wide, in place of minima: >= 0
//   int32 marker                       narrow, in place of minima: < 0
#pragma once

#include <float.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/block_formats.h"
#include "kernels/kernels.h"
#include "kernels/x86/avx2_float.h"
#include "kernels/x86/avx2_math.h"

namespace whisperq::kernels {
namespace {

constexpr int kGroups = 8;               // of kGroup values of a block
constexpr int kGroup = 4;                // values of k that meet in one int32
constexpr int64_t kGroupBytes = 64;      // of a tile
constexpr int64_t kHalfTileBytes = 256;  // codes of 8 columns of a block
constexpr int kNarrowZeroPoint = 16;
constexpr int32_t kNarrowMarker = -1;
constexpr int64_t kPanelTiles = 4;  // a strip stays in L1 for as many tiles, which stay in L2

struct StripBlock {
    int8_t codes[kStripRows][kBlock];
    float scales[kStripRows];
    float sums[kStripRows];
    int32_t offsets[kStripRows];  // two int16
};
static_assert(sizeof(StripBlock) == kStripBlockBytes, "as kernels.h has it");

struct ExpandedBlock {
    uint8_t codes[kBlock * kTileColumns];
    float scales[kTileColumns];
    union {
        float minima[kTileColumns];
        int32_t starts[kTileColumns];
        int32_t marker;
    };
};
static_assert(sizeof(ExpandedBlock) == kExpandedBlockBytes, "as kernels.h has it");

inline __m256i load_bytes(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

inline __m256i broadcast_group(const int8_t* codes) {
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return _mm256_set1_epi32(four);
}

// ---- Quantised inputs -----------------------------------------------------------------------------------------------

// Return the sums of the int16 lanes of the same parity, times -16, as two int16.
inline int32_t offsets_of(__m256i pairs) {
    __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0xb1));
    sum = _mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(sum, 4));
    return _mm_cvtsi128_si32(sum);
}

inline int32_t sum_of_offsets(int32_t offsets) {
    return static_cast<int16_t>(offsets & 0xffff) + (offsets >> 16);
}

inline void quantize_row_of_block(const float* values, int64_t row, StripBlock* block) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 x[4], greatest = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_loadu_ps(values + i * kLanes);
        greatest = _mm256_max_ps(greatest, _mm256_and_ps(x[i], magnitude));
    }
    // A scale below the normal floats has too few bits to divide by, as in scalar.
    const float scale = greatest_lane(greatest) / 127.0f;
    if (scale < FLT_MIN) return;  // the block is zero already

    const __m256 divisor = _mm256_set1_ps(scale);
    __m256i n[4];
    for (int i = 0; i < 4; ++i) n[i] = _mm256_cvtps_epi32(_mm256_div_ps(x[i], divisor));
    const __m256i low = _mm256_packs_epi32(n[0], n[1]), high = _mm256_packs_epi32(n[2], n[3]);
    const __m256i codes =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block->codes[row]), codes);
    const int32_t offsets = offsets_of(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes));
    block->scales[row] = scale;
    block->sums[row] = scale * static_cast<float>(sum_of_offsets(offsets) / -kNarrowZeroPoint);
    block->offsets[row] = offsets;
}

inline void quantize_strip(const float* input, int64_t row_stride, int64_t n_rows, int64_t k, uint8_t* strip) {
    for (int64_t b = 0; b < k / kBlock; ++b, strip += kStripBlockBytes) {
        memset(strip, 0, sizeof(StripBlock));  // rows that do not exist stay zero
        auto* block = reinterpret_cast<StripBlock*>(strip);
        for (int64_t r = 0; r < n_rows; ++r) quantize_row_of_block(input + r * row_stride + b * kBlock, r, block);
    }
}

// ---- Weights --------------------------------------------------------------------------------------------------------

inline void expand_halves(const uint8_t* halves, float* floats) {
    for (int64_t c = 0; c < kTileColumns; c += kLanes) {
        const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + 2 * c));
        _mm256_storeu_ps(floats + c, _mm256_cvtph_ps(eight));
    }
}

// Expand eight columns of an 8-bit block. A start is the sum of |w| over w < 0.
inline void expand_wide_half(const uint8_t* packed, uint8_t* codes, int32_t* starts) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i start = zero;
    for (int g = 0; g < kGroups; ++g) {
        const __m256i w = _mm256_xor_si256(load_bytes(packed + g * kGroupBytes), _mm256_set1_epi8(-128));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + g * kGroupBytes / 2), w);
        const __m256i negative = _mm256_min_epi8(w, zero);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), negative);
        start = _mm256_sub_epi32(start, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(starts), start);
}

inline void expand_wide(const uint8_t* packed, ExpandedBlock* block) {
    for (int half = 0; half < 2; ++half) {
        expand_wide_half(packed + half * kGroupBytes / 2, block->codes + half * kHalfTileBytes,
                         block->starts + half * kLanes);
    }
    expand_halves(packed + kBlock * kTileColumns, block->scales);
}

// Return 16 in each byte whose bit of the 32 is set, else 0.
inline __m256i fifth_bits(const uint8_t* bits) {
    int32_t all;
    memcpy(&all, bits, sizeof all);
    // Byte i of a register looks at byte i / 8 of the bits, at its bit i % 8.
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3,
                                             3, 3, 3, 3, 3, 3, 3);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(all), byte_of);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
    return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

// Return half of a group of codes: `part` is 0 or 1. `added` makes the zero point 16.
template <int kBits>
__m256i narrow_codes(const uint8_t* packed, int g, int part, __m256i added) {
    constexpr int kPairs = kGroups / 2;
    const int64_t at = part * kGroupBytes / 2;
    __m256i codes = load_bytes(packed + g % kPairs * kGroupBytes + at);
    if (g >= kPairs) codes = _mm256_srli_epi16(codes, 4);
    codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
    if (kBits == 5)
        codes = _mm256_or_si256(codes, fifth_bits(packed + kPairs * kGroupBytes + (g * kGroupBytes + at) / 8));
    return _mm256_add_epi8(codes, added);
}

template <int kBits>
void expand_narrow(const uint8_t* packed, int8_t added, bool has_minimum, ExpandedBlock* block) {
    for (int g = 0; g < kGroups; ++g) {
        for (int part = 0; part < 2; ++part) {
            const __m256i codes = narrow_codes<kBits>(packed, g, part, _mm256_set1_epi8(added));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(block->codes + g * kGroupBytes + part * kGroupBytes / 2),
                                codes);
        }
    }
    const uint8_t* halves = packed + kBlock * kTileColumns * kBits / 8;
    expand_halves(halves, block->scales);
    if (has_minimum) {
        expand_halves(halves + 2 * kTileColumns, block->minima);
    } else {
        block->marker = kNarrowMarker;
    }
}

// Expand blocks. Codes of a format without minimum are raised so that their zero point is 16.
template <Format kFormat>
void expand_blocks(const uint8_t* tile, int64_t k, uint8_t* expanded) {
    constexpr FormatInfo kInfo = info(kFormat);
    for (int64_t b = 0; b < k / kBlock; ++b, tile += kInfo.tile_bytes, expanded += kExpandedBlockBytes) {
        auto* block = reinterpret_cast<ExpandedBlock*>(expanded);
        if constexpr (kInfo.bits == 8) {
            expand_wide(tile, block);
        } else {
            constexpr int kAdded = kInfo.has_minimum ? 0 : kNarrowZeroPoint - kInfo.zero_point;
            expand_narrow<kInfo.bits>(tile, kAdded, kInfo.has_minimum, block);
        }
    }
}

inline void expand_tile(Format format, const uint8_t* tile, int64_t k, uint8_t* expanded) {
    with_block_format(format, [&](auto block) { expand_blocks<decltype(block)::kFormat>(tile, k, expanded); });
}

// ---- Products -------------------------------------------------------------------------------------------------------

// Multiply eight columns at a time. Six int32 and six float sums, |w|, the mask of w < 0, the ones that widen and one
// product fill the 16 registers.
template <int kRows>
void multiply_wide_half(const StripBlock* strip, const ExpandedBlock* tile, int64_t half, int64_t n_blocks,
                        TileSums* out) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = _mm256_setzero_ps();
    for (int64_t b = 0; b < n_blocks; ++b) {
        const StripBlock& input = strip[b];
        const ExpandedBlock& weight = tile[b];
        __m256i products[kRows];
        for (int r = 0; r < kRows; ++r) products[r] = load_bytes(weight.starts + half * kLanes);
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) {
            const __m256i w = load_bytes(weight.codes + half * kHalfTileBytes + g * kGroupBytes / 2);
            const __m256i size = _mm256_abs_epi8(w);
            const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w);
#pragma GCC unroll 6
            for (int r = 0; r < kRows; ++r) {
                const __m256i a = _mm256_xor_si256(broadcast_group(input.codes[r] + g * kGroup), negative);
                const __m256i pairs = _mm256_maddubs_epi16(size, a);
                add_int32(products[r], _mm256_madd_epi16(pairs, ones));
            }
        }
        const __m256 weight_scale = _mm256_loadu_ps(weight.scales + half * kLanes);
        for (int r = 0; r < kRows; ++r) {
            const __m256 scale = _mm256_mul_ps(weight_scale, _mm256_broadcast_ss(input.scales + r));
            sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r]), scale, sum[r]);
        }
    }
    for (int r = 0; r < kRows; ++r) _mm256_store_ps(&out->at[r][half * kLanes], sum[r]);
}

template <int kRows>
void multiply_wide(const StripBlock* strip, const ExpandedBlock* tile, int64_t n_blocks, TileSums* out) {
    multiply_wide_half<kRows>(strip, tile, 0, n_blocks, out);
    multiply_wide_half<kRows>(strip, tile, 1, n_blocks, out);
}

// Multiply sixteen columns at a time, so that one input feeds two products. A core does no more than 2 loads a cycle.
// Twelve int16 sums leave no room for floats, which the compiler keeps on the stack until a block's end.
template <int kRows, bool kHasMinimum>
void multiply_narrow(const StripBlock* strip, const ExpandedBlock* tile, int64_t n_blocks, TileSums* out) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int64_t b = 0; b < n_blocks; ++b) {
        const StripBlock& input = strip[b];
        const ExpandedBlock& weight = tile[b];
        __m256i pairs[kRows][2];
        for (int r = 0; r < kRows; ++r) pairs[r][0] = pairs[r][1] = _mm256_set1_epi32(input.offsets[r]);
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) {
            const __m256i w0 = load_bytes(weight.codes + g * kGroupBytes);
            const __m256i w1 = load_bytes(weight.codes + g * kGroupBytes + kGroupBytes / 2);
#pragma GCC unroll 6
            for (int r = 0; r < kRows; ++r) {
                const __m256i a = broadcast_group(input.codes[r] + g * kGroup);
                add_int16(pairs[r][0], _mm256_maddubs_epi16(w0, a));
                add_int16(pairs[r][1], _mm256_maddubs_epi16(w1, a));
            }
        }
        for (int r = 0; r < kRows; ++r) {
            // A minimum belongs to codes from 0, so 16 * sum(a) is added again, in int32, where it fits.
            const __m256i back = _mm256_madd_epi16(_mm256_set1_epi32(input.offsets[r]), ones);
            for (int i = 0; i < 2; ++i) {
                __m256i products = _mm256_madd_epi16(pairs[r][i], ones);
                if (kHasMinimum) products = _mm256_sub_epi32(products, back);
                const __m256 scale =
                    _mm256_mul_ps(_mm256_loadu_ps(weight.scales + i * kLanes), _mm256_broadcast_ss(input.scales + r));
                sum[r][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, sum[r][i]);
                if (kHasMinimum) {
                    const __m256 minima = _mm256_loadu_ps(weight.minima + i * kLanes);
                    sum[r][i] = _mm256_fmadd_ps(_mm256_broadcast_ss(input.sums + r), minima, sum[r][i]);
                }
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int i = 0; i < 2; ++i) _mm256_store_ps(&out->at[r][i * kLanes], sum[r][i]);
    }
}

using MultiplyTile = void (*)(const StripBlock*, const ExpandedBlock*, int64_t, TileSums*);

// Return the function for a tile. Rows that do not exist are multiplied too, unless there is only one row, as in a
// decoder's step.
inline MultiplyTile choose_tile(const ExpandedBlock& first, bool has_minimum, bool one_row) {
    if (has_minimum) return one_row ? multiply_narrow<1, true> : multiply_narrow<kStripRows, true>;
    if (first.marker == kNarrowMarker) return one_row ? multiply_narrow<1, false> : multiply_narrow<kStripRows, false>;
    return one_row ? multiply_wide<1> : multiply_wide<kStripRows>;
}

inline void multiply_strip(const uint8_t* strip, const uint8_t* expanded, int64_t n_tiles, int64_t k, bool has_minimum,
                           int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                           const Epilogue& epilogue) {
    const int64_t n_blocks = k / kBlock;
    const auto* input = reinterpret_cast<const StripBlock*>(strip);
    const auto* tiles = reinterpret_cast<const ExpandedBlock*>(expanded);
    const MultiplyTile multiply_tile = choose_tile(*tiles, has_minimum, n_rows == 1);
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        TileSums sums;
        multiply_tile(input, tiles + tile * n_blocks, n_blocks, &sums);
        const int64_t first = tile * kTileColumns;
        finish_tile(sums, n_rows, first, n_columns - first, epilogue, out, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
