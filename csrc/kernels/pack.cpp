#include "kernels/pack.h"

#include <algorithm>
#include <cstring>

#include "kernels/half.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kGroup = 4;  // values of k that a dot product instruction takes at once, and bytes that move together
constexpr int64_t kGroupBytes = kTileColumns * kGroup;
constexpr int64_t kHalfBytes = 2;

// Copy the bytes of a column's codes, four at a time, to where the column's groups lie. `flip` is applied to them.
void spread(const uint8_t* codes, int64_t n_bytes, uint32_t flip, int64_t c, uint8_t* to) {
    for (int64_t i = 0; i < n_bytes; i += kGroup) {
        uint32_t four;
        std::memcpy(&four, codes + i, sizeof four);
        four ^= flip;
        std::memcpy(to + i / kGroup * kGroupBytes + c * kGroup, &four, sizeof four);
    }
}

// Copy fifth bits. Bit 4 of code i is bit i of a little-endian number of 32 bits. A group's four bits make half a byte,
// in ggml's order and in ours.
void spread_fifth_bits(const uint8_t* bits, int64_t c, uint8_t* to) {
    for (int64_t group = 0; group < kBlock / kGroup; ++group) {
        const int four = bits[group / 2] >> 4 * (group % 2) & 15;
        to[group * (kGroupBytes / 8) + c / 2] |= static_cast<uint8_t>(four << 4 * (c % 2));
    }
}

// Put a block of ggml into column c of a packed block whose bytes are still 0. A block is: scale, minimum if the format
// has one, fifth bits if there are five, codes.
void pack_block(const FormatInfo& format, const uint8_t* block, int64_t c, uint8_t* to) {
    uint8_t* scales = to + kTileColumns * kBlock * format.bits / 8;
    std::memcpy(scales + c * kHalfBytes, block, kHalfBytes);
    block += kHalfBytes;
    if (format.has_minimum) {
        std::memcpy(scales + (kTileColumns + c) * kHalfBytes, block, kHalfBytes);
        block += kHalfBytes;
    }
    if (format.bits == 8) {
        spread(block, kBlock, 0x80808080u, c, to);  // from int8 to code + 128
        return;
    }
    constexpr int64_t kNibbleBytes = kBlock / 2;
    if (format.bits == 5) {
        spread_fifth_bits(block, c, to + kNibbleBytes * kTileColumns);
        block += kBlock / 8;
    }
    // ggml has value i low and value i + 16 high in byte i. These are groups g and g + 4, which share a byte here, too.
    spread(block, kNibbleBytes, 0, c, to);
}

// Pack all columns of a block before the next block, so that the written block stays in the cache.
void pack_blocks(const FormatInfo& format, const uint8_t* rows, int64_t n_columns, int64_t k, uint8_t* tile) {
    const int64_t n_blocks = k / kBlock;
    for (int64_t b = 0; b < n_blocks; ++b) {
        for (int64_t c = 0; c < n_columns; ++c) {
            pack_block(format, rows + (c * n_blocks + b) * format.ggml_bytes, c, tile + b * format.tile_bytes);
        }
    }
}

template <typename Value>
void pack_values(const uint8_t* rows, int64_t n_columns, int64_t k, uint8_t* tile) {
    for (int64_t i = 0; i < k; ++i) {
        for (int64_t c = 0; c < n_columns; ++c) {
            std::memcpy(tile + (i * kTileColumns + c) * static_cast<int64_t>(sizeof(Value)),
                        rows + (c * k + i) * static_cast<int64_t>(sizeof(Value)), sizeof(Value));
        }
    }
}

uint16_t load_half(const uint8_t* from) {
    uint16_t half;
    std::memcpy(&half, from, sizeof half);
    return half;
}

// Return the code of group g, value j, of column c.
int code_of(const FormatInfo& format, const uint8_t* block, int64_t c, int64_t g, int64_t j) {
    const int64_t at = c * kGroup + j;
    if (format.bits == 8) return block[g * kGroupBytes + at];
    constexpr int64_t kHalfGroups = kBlock / kGroup / 2;
    const int both = block[g % kHalfGroups * kGroupBytes + at];
    const int nibble = g < kHalfGroups ? both & 15 : both >> 4;
    if (format.bits == 4) return nibble;
    const uint8_t* fifth = block + kHalfGroups * kGroupBytes + g * (kGroupBytes / 8);
    return nibble | (fifth[at / 8] >> at % 8 & 1) << 4;
}

void unpack_block(const FormatInfo& format, const uint8_t* block, int64_t c, float* values) {
    const uint8_t* halves = block + kTileColumns * kBlock * format.bits / 8;
    const float scale = half_value(load_half(halves + c * kHalfBytes));
    const float minimum = format.has_minimum ? half_value(load_half(halves + (kTileColumns + c) * kHalfBytes)) : 0.0f;
    for (int64_t i = 0; i < kBlock; ++i) {
        const int code = code_of(format, block, c, i / kGroup, i % kGroup) - format.zero_point;
        values[i] = scale * static_cast<float>(code) + minimum;
    }
}

}  // namespace

void pack_rows(Format format, const uint8_t* rows, int64_t first, int64_t count, int64_t k, uint8_t* packed) {
    const FormatInfo& f = info(format);
    const int64_t row_bytes = f.ggml_bytes * (f.bits == 0 ? k : k / kBlock);
    const size_t bytes = tile_bytes(format, k);
    uint8_t* tile = packed + static_cast<size_t>(first / kTileColumns) * bytes;
    for (int64_t done = 0; done < count; done += kTileColumns, tile += bytes) {
        const int64_t n_columns = std::min(kTileColumns, count - done);
        const uint8_t* from = rows + done * row_bytes;
        std::memset(tile, 0, bytes);
        if (f.bits != 0) {
            pack_blocks(f, from, n_columns, k, tile);
        } else if (format == Format::f32) {
            pack_values<float>(from, n_columns, k, tile);
        } else {
            pack_values<uint16_t>(from, n_columns, k, tile);
        }
    }
}

void unpack_row(Format format, const uint8_t* packed, int64_t row, int64_t k, float* values) {
    const FormatInfo& f = info(format);
    const uint8_t* tile = packed + static_cast<size_t>(row / kTileColumns) * tile_bytes(format, k);
    const int64_t c = row % kTileColumns;
    if (f.bits != 0) {
        for (int64_t b = 0; b < k / kBlock; ++b) unpack_block(f, tile + b * f.tile_bytes, c, values + b * kBlock);
        return;
    }
    for (int64_t i = 0; i < k; ++i) {
        const int64_t at = i * kTileColumns + c;
        if (format == Format::f16) {
            values[i] = half_value(load_half(tile + at * kHalfBytes));
        } else {
            std::memcpy(values + i, tile + at * static_cast<int64_t>(sizeof(float)), sizeof(float));
        }
    }
}

}  // namespace whisperq::kernels
