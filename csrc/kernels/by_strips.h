// multiply_packed of the tables that take one strip at a time. Only the tables' sources include it.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace whisperq::kernels {
namespace {

// Multiply one strip or two. `multiply` is multiply_packed for one strip and one format. The second strip follows the
// first tile by tile, while the tile is in the cache.
template <class Multiply>
void by_strips(const Multiply& multiply, Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles,
               int64_t k, int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    if (n_rows <= kStripRows) {
        return multiply(strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
    }
    for (int64_t tile = 0; tile < n_tiles; ++tile, tiles += k / kBlock * info(format).tile_bytes) {
        const int64_t first = tile * kTileColumns;
        const int64_t n_own = n_columns - first < kTileColumns ? n_columns - first : kTileColumns;
        const uint8_t* strip = strips;
        for (int64_t row = 0; row < n_rows; row += kStripRows, strip += strip_bytes(k)) {
            Epilogue own = moved_to(epilogue, first);
            if (own.residual != nullptr) own.residual += row * out_stride;
            multiply(strip, tiles, 1, k, n_rows - row < kStripRows ? n_rows - row : kStripRows, n_own,
                     out + row * out_stride + first, out_stride, own);
        }
    }
}

}  // namespace
}  // namespace whisperq::kernels
