// The epilogue of a tile's sums, before they are stored.
#pragma once

#include "kernels/arm/neon_math.h"

namespace whisperq::kernels {
namespace {

// The sums of a strip times a tile, in the first-level cache. They are written and read once for thousands of products.
// The products' loops are spared the cases of a matrix's last rows and columns.
struct TileSums {
    alignas(16) float rows[kStripRows][kTileColumns];
};

WHISPERQ_INLINE Row16 add(const Row16& a, const Row16& b) {
    return {{vaddq_f32(a.quad[0], b.quad[0]), vaddq_f32(a.quad[1], b.quad[1]), vaddq_f32(a.quad[2], b.quad[2]),
             vaddq_f32(a.quad[3], b.quad[3])}};
}

WHISPERQ_INLINE void finish_row(const float* sums, const float* bias, const float* residual, bool gelu, float* out) {
    Row16 row = load_row(sums);
    if (bias != nullptr) row = add(row, load_row(bias));
    if (gelu) row = gelu_of(row);
    if (residual != nullptr) row = add(row, load_row(residual));
    store_row(out, row);
}

// Finish fewer columns than a register row has. They go through a row of their own, so that nothing beyond them is read
// or written.
void finish_part_of_row(const float* sums, const float* bias, const float* residual, bool gelu, int64_t n_columns,
                        float* out) {
    const size_t bytes = static_cast<size_t>(n_columns) * sizeof(float);
    float some_bias[kTileColumns] = {}, some_residual[kTileColumns] = {}, row[kTileColumns];
    if (bias != nullptr) memcpy(some_bias, bias, bytes);
    if (residual != nullptr) memcpy(some_residual, residual, bytes);
    finish_row(sums, some_bias, some_residual, gelu, row);
    memcpy(out, row, bytes);
}

// Store rows [0, n_rows) of columns [first, first + kTileColumns), or up to n_columns.
void finish_tile(const TileSums& sums, int64_t first, int64_t n_rows, int64_t n_columns, const Epilogue& epilogue,
                 float* out, int64_t out_stride) {
    const float* bias = epilogue.bias == nullptr ? nullptr : epilogue.bias + first;
    for (int64_t r = 0; r < n_rows; ++r) {
        const int64_t at = r * out_stride + first;
        const float* residual = epilogue.residual == nullptr ? nullptr : epilogue.residual + at;
        if (n_columns - first >= kTileColumns) {
            finish_row(sums.rows[r], bias, residual, epilogue.gelu, out + at);
        } else {
            finish_part_of_row(sums.rows[r], bias, residual, epilogue.gelu, n_columns - first, out + at);
        }
    }
}

}  // namespace
}  // namespace whisperq::kernels
