// Products of floats: the inner loop of multiply_float and of attention.
#pragma once

#include "kernels/arm/neon_epilogue.h"
#include "kernels/arm/neon_layout.h"

namespace whisperq::kernels {
namespace {

// Sum kRows x 16 products. The sums take 24 of the 32 registers, and four values of each row 6 more. 2 are left for
// weights: one that is multiplied and one that is loaded.
//
//                      panel[i]  | w0 | w1 | w2 | w3 |   a register at a time
//   rows[r][i..i + 3]  |abcd|    |    |    |    |    |
//   by lane            |abcd|    |    |sums|    |    |
template <int kRows>
struct FloatSums {
    float32x4_t sum[kRows][kQuads];
};

// Compute sum += weight * value[kLane]. This is no intrinsic, because GCC 12 takes the lane out to a register of its
// own when segments end between its uses.
template <int kLane>
WHISPERQ_INLINE void add_product(float32x4_t& sum, float32x4_t weight, float32x4_t value) {
    __asm__("fmla %0.4s, %1.4s, %2.s[%c3]" : "+w"(sum) : "w"(weight), "w"(value), "n"(kLane));
}

// `next` holds the first weights of panel[kLane], and is left with those of the row behind it, if there is one.
template <int kLane, bool kHasNext, int kRows>
WHISPERQ_INLINE void add_products(const float* weights, const float32x4_t (&values)[kRows], float32x4_t& next,
                                  FloatSums<kRows>& sums) {
    for (int64_t j = 0; j < kQuads; ++j) {
        const float32x4_t weight = next;
        if (kHasNext || j + 1 < kQuads) next = vld1q_f32(weights + (j + 1) * kLanes);
        for (int r = 0; r < kRows; ++r) add_product<kLane>(sums.sum[r][j], weight, values[r]);
        end_segment();
    }
}

// Compute sums += rows[r][0..k) * panel[k][kTileColumns]
template <int kRows>
WHISPERQ_INLINE void multiply_rows(const float* const (&rows)[kRows], const float* panel, int64_t k,
                                   FloatSums<kRows>& sums) {
    float32x4_t values[kRows];
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes, panel += kLanes * kTileColumns) {
        float32x4_t next = vld1q_f32(panel);
        for (int r = 0; r < kRows; ++r) values[r] = vld1q_f32(rows[r] + i);
        end_segment();
        add_products<0, true>(panel, values, next, sums);
        add_products<1, true>(panel + kTileColumns, values, next, sums);
        add_products<2, true>(panel + 2 * kTileColumns, values, next, sums);
        add_products<3, false>(panel + 3 * kTileColumns, values, next, sums);
    }
    for (; i < k; ++i, panel += kTileColumns) {
        float32x4_t next = vld1q_f32(panel);
        for (int r = 0; r < kRows; ++r) values[r] = vld1q_dup_f32(rows[r] + i);
        add_products<0, false>(panel, values, next, sums);
    }
}

template <int kRows>
void multiply_float_tile(const float* const (&rows)[kRows], const float* panel, int64_t k, TileSums& to) {
    FloatSums<kRows> sums;
    for (auto& row : sums.sum) {
        for (float32x4_t& sum : row) sum = vdupq_n_f32(0.0f);
    }
    multiply_rows(rows, panel, k, sums);
    for (int r = 0; r < kRows; ++r) {
        for (int64_t j = 0; j < kQuads; ++j) vst1q_f32(to.rows[r] + j * kLanes, sums.sum[r][j]);
    }
}

// A list of pointers to kRows rows. The last row that exists stands for those that do not.
template <int kRows>
WHISPERQ_INLINE void point_to_rows(const float* first, int64_t stride, int64_t n_rows, const float* (&rows)[kRows]) {
    for (int64_t r = 0; r < kRows; ++r) rows[r] = first + (r < n_rows ? r : n_rows - 1) * stride;
}

void multiply_float(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t k,
                    int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    with_row_count(n_rows, [&](auto count) {
        const float* rows[decltype(count)::kRows];
        point_to_rows(input, input_stride, n_rows, rows);
        for (int64_t tile = 0; tile < n_tiles; ++tile) {
            TileSums sums;
            multiply_float_tile(rows, panel + tile * k * kTileColumns, k, sums);
            finish_tile(sums, tile * kTileColumns, n_rows, n_columns, epilogue, out, out_stride);
        }
    });
}

}  // namespace
}  // namespace whisperq::kernels
