// Products of a few rows with weights as they are packed. Every byte of the weights is loaded once, and only sums are
// stored. A sum's float operations are those of avx2_quantised.h, so that it is the same to the bit.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/block_formats.h"
#include "kernels/by_strips.h"
#include "kernels/x86/avx2_quantised.h"

namespace whisperq::kernels {
namespace {

inline __m256 load_eight_halves(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// Multiply eight columns (`part` is 0 or 1) of a block with each row, in int32. Codes of eight bits give their sign to
// the input, as in multiply_wide. Others count from 0, and zero_point * sum(input) is taken away.
template <int kBits, int kZeroPoint, int kRows>
void multiply_packed_block(const StripBlock& input, const uint8_t* packed, int part, __m256i (&products)[kRows]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int r = 0; r < kRows; ++r) {
        const int32_t sum = kBits == 8 ? 0 : sum_of_offsets(input.offsets[r]) / kNarrowZeroPoint * kZeroPoint;
        products[r] = _mm256_set1_epi32(sum);
    }
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
        __m256i w, size;
        if (kBits == 8) {
            w = _mm256_xor_si256(load_bytes(packed + g * kGroupBytes + part * kGroupBytes / 2), _mm256_set1_epi8(-128));
            size = _mm256_abs_epi8(w);
        } else {
            w = size = narrow_codes<kBits>(packed, g, part, _mm256_setzero_si256());
        }
        for (int r = 0; r < kRows; ++r) {
            __m256i a = broadcast_group(input.codes[r] + g * kGroup);
            if (kBits == 8) a = _mm256_sign_epi8(a, w);
            add_int32(products[r], _mm256_madd_epi16(_mm256_maddubs_epi16(size, a), ones));
        }
    }
}

template <Format kFormat, int kRows>
void multiply_packed_tile(const StripBlock* strip, const uint8_t* tile, int64_t n_blocks, TileSums* out) {
    constexpr FormatInfo kInfo = info(kFormat);
    __m256 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int64_t b = 0; b < n_blocks; ++b, tile += kInfo.tile_bytes) {
        const StripBlock& input = strip[b];
        const uint8_t* halves = tile + kBlock * kTileColumns * kInfo.bits / 8;
        for (int part = 0; part < 2; ++part) {
            __m256i products[kRows];
            multiply_packed_block<kInfo.bits, kInfo.zero_point>(input, tile, part, products);
            const __m256 weight_scale = load_eight_halves(halves + part * kLanes * 2);
            for (int r = 0; r < kRows; ++r) {
                const __m256 scale = _mm256_mul_ps(weight_scale, _mm256_broadcast_ss(input.scales + r));
                sum[r][part] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r]), scale, sum[r][part]);
                if (kInfo.has_minimum) {
                    const __m256 minima = load_eight_halves(halves + (kTileColumns + part * kLanes) * 2);
                    sum[r][part] = _mm256_fmadd_ps(_mm256_broadcast_ss(input.sums + r), minima, sum[r][part]);
                }
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int part = 0; part < 2; ++part) _mm256_store_ps(&out->at[r][part * kLanes], sum[r][part]);
    }
}

template <Format kFormat>
void multiply_packed_format(const uint8_t* strip, const uint8_t* tiles, int64_t n_tiles, int64_t k, int64_t n_rows,
                            int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Tile = void (*)(const StripBlock*, const uint8_t*, int64_t, TileSums*);
    static constexpr Tile kByRows[kStripRows] = {multiply_packed_tile<kFormat, 1>, multiply_packed_tile<kFormat, 2>,
                                                 multiply_packed_tile<kFormat, 3>, multiply_packed_tile<kFormat, 4>,
                                                 multiply_packed_tile<kFormat, 5>, multiply_packed_tile<kFormat, 6>};
    const auto* input = reinterpret_cast<const StripBlock*>(strip);
    const int64_t n_blocks = k / kBlock;
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        TileSums sums;
        kByRows[n_rows - 1](input, tiles + tile * n_blocks * info(kFormat).tile_bytes, n_blocks, &sums);
        const int64_t first = tile * kTileColumns;
        finish_tile(sums, n_rows, first, n_columns - first, epilogue, out, out_stride);
    }
}

void multiply_packed(Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                     int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Multiply =
        void (*)(const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, float*, int64_t, const Epilogue&);
    Multiply multiply = nullptr;
    with_block_format(format, [&](auto block) { multiply = multiply_packed_format<decltype(block)::kFormat>; });
    if (multiply == nullptr) return;
    by_strips(multiply, format, strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
}

// ---- f16

template <int kRows>
void multiply_half_tile(const float* input, int64_t input_stride, const uint16_t* tile, int64_t k, TileSums* out) {
    __m256 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int64_t i = 0; i < k; ++i) {
        const Lanes::Row weights = Lanes::load(tile + i * kTileColumns);
        for (int r = 0; r < kRows; ++r) {
            const __m256 value = _mm256_broadcast_ss(input + r * input_stride + i);
            sum[r][0] = _mm256_fmadd_ps(value, weights.low, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(value, weights.high, sum[r][1]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        _mm256_store_ps(&out->at[r][0], sum[r][0]);
        _mm256_store_ps(&out->at[r][kLanes], sum[r][1]);
    }
}

inline void multiply_half(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles, int64_t k,
                          int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Tile = void (*)(const float*, int64_t, const uint16_t*, int64_t, TileSums*);
    static constexpr Tile kByRows[kStripRows] = {multiply_half_tile<1>, multiply_half_tile<2>, multiply_half_tile<3>,
                                                 multiply_half_tile<4>, multiply_half_tile<5>, multiply_half_tile<6>};
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        const int64_t first = tile * kTileColumns;
        TileSums sums;
        kByRows[n_rows - 1](input, input_stride, tiles + first * k, k, &sums);
        finish_tile(sums, n_rows, first, n_columns - first, epilogue, out, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
