// Products of a few rows with weights as they are packed. Every byte of the weights is loaded once, and only sums are
// stored. A sum's float operations are those of avx512_product.h, so that it is the same to the bit.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/block_formats.h"
#include "kernels/x86/avx512_product.h"
#include "kernels/x86/avx512_rows.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kPackedGroupBytes = 64;  // 16 columns of 4 values: a register

// Return codes from 0 of a group g and, where two share a byte, of the group g + 4.
template <int kBits>
struct PackedPair {
    __m512i low, high;

    PackedPair(const uint8_t* packed, int g) {
        const __m512i nibble = _mm512_set1_epi8(15);
        const __m512i both = _mm512_loadu_si512(packed + g * kPackedGroupBytes);
        low = _mm512_and_si512(both, nibble);
        high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        if (kBits == 5) {
            const uint8_t* bits = packed + kGroups / 2 * kPackedGroupBytes;
            const __m512i fifth = _mm512_set1_epi8(16);
            uint64_t low_bits, high_bits;
            memcpy(&low_bits, bits + g * 8, 8);
            memcpy(&high_bits, bits + (g + kGroups / 2) * 8, 8);
            low = _mm512_mask_add_epi8(low, low_bits, low, fifth);
            high = _mm512_mask_add_epi8(high, high_bits, high, fifth);
        }
    }
};

// A block in one or two strips of the input: row r is row r % kStripRows of strip r / kStripRows.
template <int kCount>
struct InputBlock {
    static constexpr int kStrips = (kCount + kRows - 1) / kRows;
    const uint8_t* codes[kStrips];
    const uint8_t* numbers[kStrips];

    InputBlock(const uint8_t* strips, int64_t k, int64_t b) {
        for (int i = 0; i < kStrips; ++i) {
            const uint8_t* strip = strips + static_cast<size_t>(i) * strip_bytes(k);
            codes[i] = strip + b * kStripCodeBytes;
            numbers[i] = strip + k / kBlock * kStripCodeBytes + b * kStripNumberBytes;
        }
    }

    __m512i four_codes(int g, int r) const { return broadcast_word(codes[r / kRows] + code_at(g, r % kRows)); }
    __m512 scale(int r) const { return _mm512_castsi512_ps(broadcast_word(numbers[r / kRows] + r % kRows * 4)); }
    __m512 sum(int r) const {
        return _mm512_castsi512_ps(broadcast_word(numbers[r / kRows] + kSumsAt + r % kRows * 4));
    }

    // Return the start of a block's sums, so that codes from 0 count as code - zero point. offsets[] is -128 *
    // sum(input).
    template <int kZeroPoint>
    __m512i offset(int r) const {
        static_assert(kZeroPoint == 128 || kZeroPoint == 16 || kZeroPoint == 8 || kZeroPoint == 0, "a shift below");
        if (kZeroPoint == 0) return _mm512_setzero_si512();
        constexpr int kShift = kZeroPoint == 128 ? 0 : kZeroPoint == 16 ? 3 : 4;
        int32_t offset;
        memcpy(&offset, numbers[r / kRows] + kOffsetsAt + r % kRows * 4, sizeof offset);
        return _mm512_set1_epi32(offset >> kShift);
    }
};

static inline __m512 halves_at(const uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

template <Format kFormat, int kCount>
static inline void add_packed_block(const InputBlock<kCount>& input, const uint8_t* packed, __m512 (&sums)[kCount][1]) {
    constexpr FormatInfo kInfo = info(kFormat);
    constexpr int kBits = kInfo.bits;
    __m512i dots[kCount];
#pragma GCC unroll 12
    for (int r = 0; r < kCount; ++r) dots[r] = input.template offset<kInfo.zero_point>(r);
    if (kBits == 8) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) {
            const __m512i weights = _mm512_loadu_si512(packed + g * kPackedGroupBytes);
#pragma GCC unroll 12
            for (int r = 0; r < kCount; ++r) dots[r] = _mm512_dpbusd_epi32(dots[r], weights, input.four_codes(g, r));
        }
    } else {
#pragma GCC unroll 4
        for (int g = 0; g < kGroups / 2; ++g) {
            const PackedPair<kBits> weights(packed, g);
#pragma GCC unroll 12
            for (int r = 0; r < kCount; ++r) {
                dots[r] = _mm512_dpbusd_epi32(dots[r], weights.low, input.four_codes(g, r));
                dots[r] = _mm512_dpbusd_epi32(dots[r], weights.high, input.four_codes(g + kGroups / 2, r));
            }
        }
    }
    const uint8_t* halves = packed + kBlock * kTileColumns * kBits / 8;
    const __m512 weight_scale = halves_at(halves);
#pragma GCC unroll 12
    for (int r = 0; r < kCount; ++r) {
        const __m512 scale = _mm512_mul_ps(input.scale(r), weight_scale);
        sums[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r][0]);
        if (kInfo.has_minimum) {
            sums[r][0] = _mm512_fmadd_ps(input.sum(r), halves_at(halves + kTileColumns * 2), sums[r][0]);
        }
    }
}

// With so many rows a core computes for as long as it waits for memory. Its prefetcher does not look far enough ahead
// then. With fewer rows the prefetcher has the time to, and a second prefetch costs more than it gains.
constexpr int kRowsToFetchFor = 3;
constexpr int64_t kBlocksAhead = 16;

template <Format kFormat>
static inline void fetch_ahead(const uint8_t* packed) {
    constexpr int64_t kBytes = info(kFormat).tile_bytes;
    for (int64_t i = 0; i < kBytes; i += static_cast<int64_t>(kAlignment)) {
        Lanes::fetch(packed + kBlocksAhead * kBytes + i);
    }
}

// Multiply kCount rows, of which n_rows are there.
template <Format kFormat, int kCount>
static void multiply_packed_rows(const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                                 int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                                 const Epilogue& epilogue) {
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        __m512 sums[kCount][1];
#pragma GCC unroll 12
        for (int r = 0; r < kCount; ++r) sums[r][0] = _mm512_setzero_ps();
        for (int64_t b = 0; b < k / kBlock; ++b, tiles += info(kFormat).tile_bytes) {
            if (kCount >= kRowsToFetchFor) fetch_ahead<kFormat>(tiles);
            add_packed_block<kFormat>(InputBlock<kCount>(strips, k, b), tiles, sums);
        }
        const int64_t first = tile * kTileColumns;
        store_sums(sums, n_rows, n_columns - first, out + first, out_stride, moved_to(epilogue, first));
    }
}

template <Format kFormat>
static void multiply_packed_format(const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                                   int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                                   const Epilogue& epilogue) {
    using Rows = decltype(&multiply_packed_rows<kFormat, 1>);
    static constexpr Rows kByRows[kPackedRows] = {
        multiply_packed_rows<kFormat, 1>,  multiply_packed_rows<kFormat, 2>,  multiply_packed_rows<kFormat, 3>,
        multiply_packed_rows<kFormat, 4>,  multiply_packed_rows<kFormat, 5>,  multiply_packed_rows<kFormat, 6>,
        multiply_packed_rows<kFormat, 8>,  multiply_packed_rows<kFormat, 8>,  multiply_packed_rows<kFormat, 10>,
        multiply_packed_rows<kFormat, 10>, multiply_packed_rows<kFormat, 12>, multiply_packed_rows<kFormat, 12>};
    kByRows[n_rows - 1](strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
}

static void multiply_packed(Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                            int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                            const Epilogue& epilogue) {
    using Multiply =
        void (*)(const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, float*, int64_t, const Epilogue&);
    Multiply multiply = nullptr;
    with_block_format(format, [&](auto block) { multiply = multiply_packed_format<decltype(block)::kFormat>; });
    if (multiply == nullptr) return;
    multiply(strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
}

// ---- f16

// Multiply tiles side by side, which gives a row that is alone more sums than one.
template <int kCount, int kTiles>
static void multiply_half_tiles(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t k,
                                int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    __m512 sums[kTiles][kRows][1];
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) sums[t][r][0] = _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) {
            const auto* from = reinterpret_cast<const __m256i*>(tiles + (t * k + i) * kTileColumns);
            const __m512 weights = _mm512_cvtph_ps(_mm256_load_si256(from));
#pragma GCC unroll 6
            for (int r = 0; r < kCount; ++r) {
                sums[t][r][0] = _mm512_fmadd_ps(_mm512_set1_ps(input[r * input_stride + i]), weights, sums[t][r][0]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
        const int64_t first = t * kTileColumns;
        store_sums(sums[t], kCount, n_columns - first, out + first, out_stride, moved_to(epilogue, first));
    }
}

template <int kCount>
static void multiply_half_rows(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles,
                               int64_t k, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    constexpr int64_t kTogether = 4;
    int64_t tile = 0;
    for (; tile + kTogether <= n_tiles; tile += kTogether) {
        const int64_t first = tile * kTileColumns;
        multiply_half_tiles<kCount, kTogether>(input, input_stride, tiles + first * k, k, n_columns - first,
                                               out + first, out_stride, moved_to(epilogue, first));
    }
    for (; tile < n_tiles; ++tile) {
        const int64_t first = tile * kTileColumns;
        multiply_half_tiles<kCount, 1>(input, input_stride, tiles + first * k, k, n_columns - first, out + first,
                                       out_stride, moved_to(epilogue, first));
    }
}

static void multiply_half(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles, int64_t k,
                          int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Rows =
        void (*)(const float*, int64_t, const uint16_t*, int64_t, int64_t, int64_t, float*, int64_t, const Epilogue&);
    static constexpr Rows kByRows[kStripRows] = {multiply_half_rows<1>, multiply_half_rows<2>, multiply_half_rows<3>,
                                                 multiply_half_rows<4>, multiply_half_rows<5>, multiply_half_rows<6>};
    kByRows[n_rows - 1](input, input_stride, tiles, n_tiles, k, n_columns, out, out_stride, epilogue);
}

}  // namespace
}  // namespace whisperq::kernels
