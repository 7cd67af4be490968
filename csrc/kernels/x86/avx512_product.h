// The matrix products: a strip of 6 rows times 1 or 2 tiles of 16 columns.
//
//               w0 (16 columns)   w1               One register of weights a tile, one value (or four int8) of a row in
//             +----------------+----------------+   every lane of another: 6 x 2 sums. With 12 int32 sums of a block
//   row 0     |  sums[0][0]    |  sums[0][1]    |   beside them 24 of 32 registers are taken. Each step loads 2 + 6
//   ...       |                |                |   registers for 12 multiplications, which a core's load ports keep up
//   row 5     |  sums[5][0]    |  sums[5][1]    |   with, and 12 chains of sums hide a latency of 4 to 5 twice over.
//             +----------------+----------------+
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/avx512_quantize.h"

namespace whisperq::kernels {
namespace {

constexpr int kRows = kStripRows;
constexpr int64_t kTilesPerCall = 2;

// ---- The epilogue of the sums

template <int kCount, int kTiles>
static inline void store_sums(const __m512 (&sums)[kCount][kTiles], int64_t n_rows, int64_t n_columns, float* out,
                              int64_t out_stride, const Epilogue& epilogue) {
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) {
        const __mmask16 columns = first_lanes(n_columns - t * kTileColumns);
        const __m512 bias = epilogue.bias == nullptr ? _mm512_setzero_ps()
                                                     : _mm512_maskz_loadu_ps(columns, epilogue.bias + t * kTileColumns);
#pragma GCC unroll 12
        for (int r = 0; r < kCount; ++r) {
            if (r >= n_rows) break;
            const int64_t at = r * out_stride + t * kTileColumns;
            __m512 sum = _mm512_add_ps(sums[r][t], bias);
            if (epilogue.gelu) sum = gelu(sum);
            if (epilogue.residual != nullptr) {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(columns, epilogue.residual + at));
            }
            _mm512_mask_storeu_ps(out + at, columns, sum);
        }
    }
}

// ---- Quantised

// Multiply one block: eight steps of int32, exact, then two or three float operations a sum for the scales.
template <bool kMinimum, int kTiles>
static inline void add_block(const uint8_t* codes, const uint8_t* numbers, const uint8_t* const (&tiles)[kTiles],
                             __m512 (&sums)[kRows][kTiles]) {
    constexpr int64_t kGroupBytes = 64;
    __m512i dots[kRows][kTiles];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
        const __m512i offset = broadcast_word(numbers + kOffsetsAt + r * 4);
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) dots[r][t] = offset;
    }
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
        __m512i weights[kTiles];
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) weights[t] = _mm512_load_si512(tiles[t] + g * kGroupBytes);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m512i input = broadcast_word(codes + code_at(g, r));
#pragma GCC unroll 2
            for (int t = 0; t < kTiles; ++t) dots[r][t] = _mm512_dpbusd_epi32(dots[r][t], weights[t], input);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
        const __m512 input_scale = _mm512_castsi512_ps(broadcast_word(numbers + r * 4));
        const __m512 input_sum = _mm512_castsi512_ps(broadcast_word(numbers + kSumsAt + r * 4));
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) {
            const float* weight_scales = reinterpret_cast<const float*>(tiles[t] + kGroups * kGroupBytes);
            const __m512 scale = _mm512_mul_ps(input_scale, _mm512_load_ps(weight_scales));
            sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][t]), scale, sums[r][t]);
            if (kMinimum) sums[r][t] = _mm512_fmadd_ps(input_sum, _mm512_load_ps(weight_scales + kLanes), sums[r][t]);
        }
    }
}

template <bool kMinimum, int kTiles>
static void multiply_tiles(const uint8_t* strip, const uint8_t* expanded, int64_t k, int64_t n_rows, int64_t n_columns,
                           float* out, int64_t out_stride, const Epilogue& epilogue) {
    __m512 sums[kRows][kTiles];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) sums[r][t] = _mm512_setzero_ps();
    }
    const uint8_t* numbers = strip + k / kBlock * kStripCodeBytes;
    const int64_t tile_stride = static_cast<int64_t>(expanded_bytes(k));
    for (int64_t b = 0; b < k / kBlock; ++b) {
        const uint8_t* tiles[kTiles];
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) tiles[t] = expanded + t * tile_stride;
        add_block<kMinimum, kTiles>(strip, numbers, tiles, sums);
        strip += kStripCodeBytes;
        numbers += kStripNumberBytes;
        expanded += kExpandedBlockBytes;
    }
    store_sums(sums, n_rows, n_columns, out, out_stride, epilogue);
}

static void multiply_strip(const uint8_t* strip, const uint8_t* expanded, int64_t n_tiles, int64_t k, bool has_minimum,
                           int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                           const Epilogue& epilogue) {
    if (n_tiles == 1) {
        (has_minimum ? multiply_tiles<true, 1> : multiply_tiles<false, 1>)(strip, expanded, k, n_rows, n_columns, out,
                                                                           out_stride, epilogue);
    } else {
        (has_minimum ? multiply_tiles<true, 2> : multiply_tiles<false, 2>)(strip, expanded, k, n_rows, n_columns, out,
                                                                           out_stride, epilogue);
    }
}

// ---- Floats

template <int kTiles>
static void multiply_float_tiles(const float* input, int64_t input_stride, const float* panel, int64_t k,
                                 int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                                 const Epilogue& epilogue) {
    __m512 sums[kRows][kTiles];
    const float* rows[kRows];  // a row that does not exist repeats the last one and is not stored
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
        rows[r] = input + (r < n_rows ? r : n_rows - 1) * input_stride;
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) sums[r][t] = _mm512_setzero_ps();
    }
    const int64_t tile_stride = k * kTileColumns;
#pragma GCC unroll 4
    for (int64_t i = 0; i < k; ++i) {
        __m512 weights[kTiles];
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) weights[t] = _mm512_load_ps(panel + t * tile_stride + i * kTileColumns);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m512 value = _mm512_set1_ps(rows[r][i]);
#pragma GCC unroll 2
            for (int t = 0; t < kTiles; ++t) sums[r][t] = _mm512_fmadd_ps(value, weights[t], sums[r][t]);
        }
    }
    store_sums(sums, n_rows, n_columns, out, out_stride, epilogue);
}

static void multiply_float(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t k,
                           int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                           const Epilogue& epilogue) {
    (n_tiles == 1 ? multiply_float_tiles<1> : multiply_float_tiles<2>)(input, input_stride, panel, k, n_rows, n_columns,
                                                                       out, out_stride, epilogue);
}

}  // namespace
}  // namespace whisperq::kernels
