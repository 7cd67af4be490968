// A strip times a group of tiles: the loop around each instruction's own inner loop.
#pragma once

#include "kernels/arm/neon_epilogue.h"
#include "kernels/arm/neon_layout.h"

namespace whisperq::kernels {
namespace {

// Call `Product::multiply<n, has_minimum>(strip, part, n_blocks, sums)` for as many times kRowsAtOnce rows as there
// are.
template <class Product, int kRowsAtOnce>
WHISPERQ_INLINE void multiply_rows(const uint8_t* strip, const uint8_t* part, int64_t n_blocks, bool has_minimum,
                                   int64_t n_rows, float* sums) {
    with_row_count(n_rows, [&](auto count) {
        constexpr int kCount = (decltype(count)::kRows + kRowsAtOnce - 1) / kRowsAtOnce;
        if (has_minimum) {
            Product::template multiply<kCount, true>(strip, part, n_blocks, sums);
        } else {
            Product::template multiply<kCount, false>(strip, part, n_blocks, sums);
        }
    });
}

// `Product::multiply_part(strip, part, n_blocks, has_minimum, n_rows, sums)` writes the sums of the part's columns to
// sums[r][0..].
template <class Product>
void multiply_strip(const uint8_t* strip, const uint8_t* expanded, int64_t n_tiles, int64_t k, bool has_minimum,
                    int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    using Part = typename Product::Part;
    const int64_t n_blocks = k / kBlock;
    const uint8_t* part = expanded;
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        TileSums sums;
        for (int64_t p = 0; p < Part::kPerTile; ++p, part += n_blocks * Part::kBlockBytes) {
            Product::multiply_part(strip, part, n_blocks, has_minimum, n_rows,
                                   &sums.rows[0][p * kTileColumns / Part::kPerTile]);
        }
        finish_tile(sums, tile * kTileColumns, n_rows, n_columns, epilogue, out, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
