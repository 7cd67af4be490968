// pack_rows and scalar's expanded tiles, as pack.h and kernels.h write them.
#include <algorithm>
#include <cstring>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "ggml_blocks.h"
#include "kernels/pack.h"
#include "kernels/tables.h"

namespace check {
namespace {

struct PackedCode {
    int code;
    double scale, minimum;
};

PackedCode read_packed(const k::FormatInfo& format, const uint8_t* block, int64_t column, int64_t value) {
    const int64_t g = value / 4, j = value % 4;
    const int64_t code_bytes = format.bits == 8 ? 8 * 16 * 4 : 4 * 16 * 4;
    int code;
    if (format.bits == 8) {
        code = block[(g * 16 + column) * 4 + j];
    } else {
        const int both = block[(g % 4 * 16 + column) * 4 + j];
        code = g < 4 ? both & 15 : both >> 4;
    }
    const uint8_t* halves = block + code_bytes;
    if (format.bits == 5) {
        const int64_t bit = 4 * column + j;
        code += 16 * (halves[g * (16 * 4 / 8) + bit / 8] >> bit % 8 & 1);
        halves += 8 * (16 * 4 / 8);
    }
    uint16_t scale, minimum = 0;
    std::memcpy(&scale, halves + 2 * column, 2);
    if (format.has_minimum) std::memcpy(&minimum, halves + 2 * (16 + column), 2);
    return {code, half_value(scale), half_value(minimum)};
}

void check_packed_blocks(const k::FormatInfo& f, const std::vector<uint8_t>& rows, int64_t n, int64_t n_values,
                         const uint8_t* packed, const k::KernelTable& scalar, Report& report) {
    const int64_t n_blocks = n_values / kBlock;
    Guarded<uint8_t> expanded(static_cast<int64_t>(k::expanded_bytes(n_values)));
    for (int64_t c = 0; c < k::n_tiles(n) * kTileColumns; ++c) {
        const uint8_t* tile = packed + static_cast<size_t>(c / kTileColumns) * k::tile_bytes(f.format, n_values);
        scalar.expand_tile(f.format, tile, n_values, expanded.data());
        for (int64_t i = 0; i < n_values; ++i) {
            const int64_t b = i / kBlock, column = c % kTileColumns;
            const PackedCode found = read_packed(f, tile + b * f.tile_bytes, column, i % kBlock);
            const double value = found.scale * (found.code - f.zero_point) + found.minimum;
            const double want =
                c < n ? ggml_value(f, rows.data() + (c * n_blocks + b) * f.ggml_bytes, i % kBlock) : 0.0;
            report.compare(value, want, 0.0, f.name, c, i);

            const uint8_t* block = expanded.data() + b * k::kExpandedBlockBytes;
            float numbers[2];
            std::memcpy(&numbers[0], block + kBlock * 16 + 4 * column, 4);
            std::memcpy(&numbers[1], block + kBlock * 16 + 4 * (16 + column), 4);
            const auto code = static_cast<int8_t>(block[(i % kBlock / 4 * 16 + column) * 4 + i % 4]);
            report.compare(static_cast<double>(numbers[0]) * code + static_cast<double>(numbers[1]), want, 0.0,
                           "expanded by scalar", c, i);
        }
    }
    report.require(expanded.intact(), "wrote outside the expanded tile");
}

template <typename Value>
void check_packed_values(const std::vector<uint8_t>& rows, int64_t n, int64_t n_values, const uint8_t* packed,
                         Report& report) {
    const auto size = static_cast<int64_t>(sizeof(Value));
    for (int64_t c = 0; c < k::n_tiles(n) * kTileColumns; ++c) {
        for (int64_t i = 0; i < n_values; ++i) {
            Value found, want = 0;
            std::memcpy(&found, packed + ((c / kTileColumns * n_values + i) * kTileColumns + c % kTileColumns) * size,
                        sizeof found);
            if (c < n) std::memcpy(&want, rows.data() + (c * n_values + i) * size, sizeof want);
            report.require(found == want, "value in a tile");
        }
    }
}

// In two calls, as a matrix is read; what lies behind must stay.
void check_pack_case(const k::FormatInfo& f, int64_t n, int64_t n_values, Report& report) {
    Random random(static_cast<uint64_t>(n * n_values));
    const std::vector<uint8_t> rows = random_rows(f, Weights::random, n, n_values, random);
    Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(f.format, n, n_values)));
    const int64_t first = std::min(n, kTileColumns), row_bytes = static_cast<int64_t>(rows.size()) / n;
    k::pack_rows(f.format, rows.data(), 0, first, n_values, packed.data());
    if (first < n) k::pack_rows(f.format, rows.data() + first * row_bytes, first, n - first, n_values, packed.data());
    report.require(packed.intact(), "wrote outside the matrix");
    if (f.bits != 0) {
        check_packed_blocks(f, rows, n, n_values, packed.data(), k::kScalarTable, report);
    } else if (f.format == Format::f32) {
        check_packed_values<uint32_t>(rows, n, n_values, packed.data(), report);
    } else {
        check_packed_values<uint16_t>(rows, n, n_values, packed.data(), report);
    }
}

}  // namespace

void check_pack(Checker& checker) {
    Report report(checker.table.isa, "pack_rows");
    for (const k::FormatInfo& format : kFormats) {
        for (const int64_t n : {1, 15, 16, 17, 48}) {
            for (const int64_t n_values : {32, 96, 512}) {
                if (checker.quick && n_values > 96) continue;
                report.at("%s, n=%d, k=%d", format.name, static_cast<int>(n), static_cast<int>(n_values));
                check_pack_case(format, n, n_values, report);
            }
        }
    }
    checker.close(report);
}

}  // namespace check
