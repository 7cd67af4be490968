// Packing of weights from ggml's order into ours, once, when a model is loaded. The bytes stay as few as in the file.
//
// A matrix of n rows (output columns of the product) and k values a row becomes ceil(n / 16) tiles. A tile of a block
// format holds these for each block of 32 along k, block after block. Columns that do not exist have scale 0.
//
//   codes    8 bits: [8][16][4]      code + 128 of (group g, column c, value j), that is value 4 g + j of the block
//            4 bits: [4][16][4]      low nibble: group g; high nibble: group g + 4
//   fifth    5 bits: [8][16 * 4 / 8] bit (4 c + j) % 8 of byte (4 c + j) / 8 of group g: bit 4 of the code
//   scales   uint16[16]              f16
//   minima   uint16[16]              f16, formats with a minimum only
//
// A tile of f32 or f16 holds value[k][16].
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace whisperq::kernels {

static constexpr int64_t n_tiles(int64_t n) {
    return (n + kTileColumns - 1) / kTileColumns;
}

// Return the bytes of one tile, and of a whole matrix.
static constexpr size_t tile_bytes(Format format, int64_t k) {
    return static_cast<size_t>(info(format).tile_bytes * (info(format).bits == 0 ? k : k / kBlock));
}
static constexpr size_t packed_bytes(Format format, int64_t n, int64_t k) {
    return static_cast<size_t>(n_tiles(n)) * tile_bytes(format, k);
}

// Pack rows [first, first + count) of a matrix in ggml's order into their place in `packed`. `rows` points to row
// `first`, which must be a multiple of kTileColumns. The last rows of the matrix may be fewer than a tile.
void pack_rows(Format format, const uint8_t* rows, int64_t first, int64_t count, int64_t k, uint8_t* packed);

// Unpack one row of a packed matrix of any format: k values.
void unpack_row(Format format, const uint8_t* packed, int64_t row, int64_t k, float* values);

}  // namespace whisperq::kernels
