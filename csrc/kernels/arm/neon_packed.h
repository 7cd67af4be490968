// Products of a few rows with weights as they are packed. Every byte of the weights is loaded once, and only sums are
// stored. A sum's float operations are those of the table's multiply_strip, so that it is the same to the bit.
#pragma once

#include "kernels/arm/neon_epilogue.h"
#include "kernels/arm/neon_expand.h"
#include "kernels/arm/neon_layout.h"
#include "kernels/block_formats.h"
#include "kernels/by_strips.h"

namespace whisperq::kernels {
namespace {

// `Dot` is a table's way to sum the products of a quad of columns with a row:
//   Dot()                          nothing so far
//   add(columns, values)           four values of each of four columns times four values of the row, in every lane
//   sums()                         of the four columns
//   code_at(row, group)            where a strip's block has the four codes
template <class Dot, Format kFormat, int kRows>
void multiply_packed_tile(const uint8_t* strip, const uint8_t* tile, int64_t n_blocks, TileSums& to) {
    constexpr FormatInfo f = info(kFormat);
    constexpr int64_t kCodeBytes = kTileColumns * kBlock * f.bits / 8;
    float32x4_t total[kRows][kQuads];
    for (auto& row : total) {
        for (float32x4_t& quad : row) quad = vdupq_n_f32(0.0f);
    }
    for (int64_t b = 0; b < n_blocks; ++b, tile += f.tile_bytes, strip += kStripBlock) {
        for (int64_t quad = 0; quad < kQuads; ++quad) {
            const QuadCodes columns = load_quad<kFormat>(tile, quad);
            const uint8_t* halves = tile + kCodeBytes + quad * kLanes * 2;
            const float32x4_t scales = load_halves(halves);
            for (int r = 0; r < kRows; ++r) {
                Dot dot;
                for (int64_t g = 0; g < kGroups; ++g) {
                    int32_t values;
                    memcpy(&values, codes_of_strip(strip) + Dot::code_at(r, g), sizeof values);
                    dot.add(columns.group[g], vreinterpretq_s8_s32(vdupq_n_s32(values)));
                }
                const float32x4_t scale = vmulq_n_f32(scales, scales_of_strip(strip)[r]);
                total[r][quad] = vfmaq_f32(total[r][quad], vcvtq_f32_s32(dot.sums()), scale);
                if (f.has_minimum) {
                    const float32x4_t minima = load_halves(halves + kTileColumns * 2);
                    total[r][quad] = vfmaq_n_f32(total[r][quad], minima, sums_of_strip(strip)[r]);
                }
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int64_t quad = 0; quad < kQuads; ++quad) vst1q_f32(to.rows[r] + quad * kLanes, total[r][quad]);
    }
}

template <class Dot, Format kFormat>
void multiply_packed_format(const uint8_t* strip, const uint8_t* tiles, int64_t n_tiles, int64_t k, int64_t n_rows,
                            int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    const int64_t n_blocks = k / kBlock;
    for (int64_t tile = 0; tile < n_tiles; ++tile, tiles += n_blocks * info(kFormat).tile_bytes) {
        TileSums sums;
        with_row_count(n_rows, [&](auto count) {
            multiply_packed_tile<Dot, kFormat, decltype(count)::kRows>(strip, tiles, n_blocks, sums);
        });
        finish_tile(sums, tile * kTileColumns, n_rows, n_columns, epilogue, out, out_stride);
    }
}

template <class Dot>
void multiply_packed(Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                     int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Multiply =
        void (*)(const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, float*, int64_t, const Epilogue&);
    Multiply multiply = nullptr;
    with_block_format(format, [&](auto block) { multiply = multiply_packed_format<Dot, decltype(block)::kFormat>; });
    if (multiply == nullptr) return;
    by_strips(multiply, format, strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
}

// ---- f16

template <int kRows>
void multiply_half_tile(const float* input, int64_t input_stride, const uint16_t* tile, int64_t k, int64_t n_rows,
                        TileSums& to) {
    Row16 sums[kRows];
    for (Row16& sum : sums) sum = Lanes::zero();
    for (int64_t i = 0; i < k; ++i) {
        const Row16 weights = Lanes::load(tile + i * kTileColumns);
        for (int64_t r = 0; r < kRows; ++r) {
            const int64_t row = r < n_rows ? r : n_rows - 1;  // the last one stands for those that do not exist
            sums[r] = Lanes::add_product(sums[r], weights, input[row * input_stride + i]);
        }
    }
    for (int64_t r = 0; r < kRows; ++r) store_row(to.rows[r], sums[r]);
}

void multiply_half(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles, int64_t k,
                   int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    with_row_count(n_rows, [&](auto count) {
        for (int64_t tile = 0; tile < n_tiles; ++tile) {
            TileSums sums;
            multiply_half_tile<decltype(count)::kRows>(input, input_stride, tiles + tile * k * kTileColumns, k, n_rows,
                                                       sums);
            finish_tile(sums, tile * kTileColumns, n_rows, n_columns, epilogue, out, out_stride);
        }
    });
}

}  // namespace
}  // namespace whisperq::kernels
