// Products of floats, and the end and the storing of a tile of sums.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/x86/avx2_math.h"

namespace whisperq::kernels {
namespace {

// The sums of a strip's rows and a tile's columns, on their way to the output.
struct alignas(32) TileSums {
    float at[kStripRows][kTileColumns];
};

// Finish one register of sums: lanes of column c and on. `n` of them exist.
inline void finish_lanes(__m256 sum, int64_t c, int64_t n, const Epilogue& epilogue, int64_t row_offset, float* out) {
    const int64_t at = row_offset + c;
    if (n >= kLanes) {
        if (epilogue.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(epilogue.bias + c));
        if (epilogue.gelu) sum = gelu_of(sum);
        if (epilogue.residual != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(epilogue.residual + at));
        _mm256_storeu_ps(out + at, sum);
        return;
    }
    const __m256i exist = first_lanes(n);
    if (epilogue.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_maskload_ps(epilogue.bias + c, exist));
    if (epilogue.gelu) sum = gelu_of(sum);
    if (epilogue.residual != nullptr) sum = _mm256_add_ps(sum, _mm256_maskload_ps(epilogue.residual + at, exist));
    _mm256_maskstore_ps(out + at, exist, sum);
}

// Finish and store `n_columns` (1 or more; a tile's at most) columns from `first_column` on.
inline void finish_tile(const TileSums& sums, int64_t n_rows, int64_t first_column, int64_t n_columns,
                        const Epilogue& epilogue, float* out, int64_t out_stride) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < kTileColumns && c < n_columns; c += kLanes) {
            finish_lanes(_mm256_load_ps(&sums.at[r][c]), first_column + c, n_columns - c, epilogue, r * out_stride,
                         out);
        }
    }
}

// Twelve sums, two registers of weights and one input value fill the 16 registers but one:
//
//              w0   w1         w: 16 columns of one k
//   a[0][k]   s00  s01
//   a[1][k]   s10  s11
//     ...     ...  ...         twelve sums hide the latency of two FMA units (4 or 5 cycles each)
//   a[5][k]   s50  s51
template <int kRows>
struct FloatTile {
    __m256 sum[kRows][2];

    void clear() {
        for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    }
    void load(const float* from, int64_t stride) {
        for (int r = 0; r < kRows; ++r) {
            sum[r][0] = _mm256_loadu_ps(from + r * stride);
            sum[r][1] = _mm256_loadu_ps(from + r * stride + kLanes);
        }
    }
    void store(float* to, int64_t stride) const {
        for (int r = 0; r < kRows; ++r) {
            _mm256_storeu_ps(to + r * stride, sum[r][0]);
            _mm256_storeu_ps(to + r * stride + kLanes, sum[r][1]);
        }
    }
    void multiply(const float* a, int64_t a_stride, const float* w, int64_t w_stride, int64_t k) {
        for (int64_t i = 0; i < k; ++i, ++a, w += w_stride) {
            const __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + kLanes);
            for (int r = 0; r < kRows; ++r) {
                const __m256 value = _mm256_broadcast_ss(a + r * a_stride);
                sum[r][0] = _mm256_fmadd_ps(value, w0, sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(value, w1, sum[r][1]);
            }
        }
    }
};

template <int kRows>
void multiply_float_rows(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t k,
                         int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        FloatTile<kRows> product;
        product.clear();
        product.multiply(input, input_stride, panel + tile * k * kTileColumns, kTileColumns, k);
        TileSums sums;
        product.store(&sums.at[0][0], kTileColumns);
        const int64_t first = tile * kTileColumns;
        finish_tile(sums, kRows, first, n_columns - first, epilogue, out, out_stride);
    }
}

inline void multiply_float(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t k,
                           int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                           const Epilogue& epilogue) {
    using Rows =
        void (*)(const float*, int64_t, const float*, int64_t, int64_t, int64_t, float*, int64_t, const Epilogue&);
    static constexpr Rows kByRows[kStripRows] = {multiply_float_rows<1>, multiply_float_rows<2>,
                                                 multiply_float_rows<3>, multiply_float_rows<4>,
                                                 multiply_float_rows<5>, multiply_float_rows<6>};
    kByRows[n_rows - 1](input, input_stride, panel, n_tiles, k, n_columns, out, out_stride, epilogue);
}

}  // namespace
}  // namespace whisperq::kernels
