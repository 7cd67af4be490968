// multiply_packed and multiply_half: the same to the bit as products with expanded weights, which check_products.cpp
// proves.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "ggml_blocks.h"
#include "kernels/pack.h"

namespace check {
namespace {

// All epilogues at once: a bias, GELU, and a residual.
struct AllEndings {
    Guarded<float> bias, residual;
    k::Epilogue epilogue;

    AllEndings(int64_t n, int64_t out_values, Random& random) : bias(n), residual(out_values) {
        fill(Pattern::normal, bias.data(), n, random);
        fill(Pattern::normal, residual.data(), out_values, random);
        epilogue.bias = bias.data();
        epilogue.residual = residual.data();
        epilogue.gelu = true;
    }
};

void check_same_rows(const Guarded<float>& got, const Guarded<float>& want, int64_t n_rows, int64_t n, int64_t stride,
                     Report& report) {
    report.require(got.intact(), "wrote outside");
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < n; ++c) report.require(got[r * stride + c] == want[r * stride + c], "another sum");
        if (r + 1 < n_rows) report.require(got.untouched(r * stride + n, (r + 1) * stride), "wrote behind its columns");
    }
}

void check_packed_case(Checker& checker, const k::FormatInfo& f, Weights weights, int64_t n, int64_t n_values,
                       int64_t n_rows, Report& report) {
    Random random(static_cast<uint64_t>(n * 1000 + n_values + n_rows));
    const std::vector<uint8_t> rows = random_rows(f, weights, n, n_values, random);
    Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(f.format, n, n_values)));
    k::pack_rows(f.format, rows.data(), 0, n, n_values, packed.data());
    Guarded<float> input(n_rows * n_values);
    fill(weights == Weights::random ? Pattern::normal : Pattern::all_max, input.data(), input.size(), random);
    const auto strip_bytes = static_cast<int64_t>(k::strip_bytes(n_values));
    const int64_t n_strips = (n_rows + kStripRows - 1) / kStripRows;
    const auto rows_of_strip = [&](int64_t s) { return std::min(kStripRows, n_rows - s * kStripRows); };
    Guarded<uint8_t> strips(n_strips * strip_bytes);
    for (int64_t s = 0; s < n_strips; ++s) {
        checker.table.quantize_strip(input.data() + s * kStripRows * n_values, n_values, rows_of_strip(s), n_values,
                                     strips.data() + s * strip_bytes);
    }

    const int64_t stride = n + 5, out_values = (n_rows - 1) * stride + n;
    const AllEndings ending(n, out_values, random);
    Guarded<float> got(out_values), want(out_values);
    checker.table.multiply_packed(f.format, strips.data(), packed.data(), k::n_tiles(n), n_values, n_rows, n,
                                  got.data(), stride, ending.epilogue);
    Guarded<uint8_t> expanded(checker.table.tiles_per_call * static_cast<int64_t>(k::expanded_bytes(n_values)));
    for (int64_t t = 0; t < k::n_tiles(n); t += checker.table.tiles_per_call) {
        const int64_t n_tiles = std::min(checker.table.tiles_per_call, k::n_tiles(n) - t), first = t * kTileColumns;
        for (int64_t i = 0; i < n_tiles; ++i) {
            checker.table.expand_tile(
                f.format, packed.data() + (t + i) * static_cast<int64_t>(k::tile_bytes(f.format, n_values)), n_values,
                expanded.data() + i * static_cast<int64_t>(k::expanded_bytes(n_values)));
        }
        for (int64_t s = 0; s < n_strips; ++s) {
            const int64_t at = s * kStripRows * stride + first;
            k::Epilogue epilogue = k::moved_to(ending.epilogue, first);
            epilogue.residual = ending.residual.data() + at;
            checker.table.multiply_strip(strips.data() + s * strip_bytes, expanded.data(), n_tiles, n_values,
                                         f.has_minimum, rows_of_strip(s), std::min(n - first, n_tiles * kTileColumns),
                                         want.data() + at, stride, epilogue);
        }
    }
    check_same_rows(got, want, n_rows, n, stride, report);
}

void check_half_case(Checker& checker, int64_t n, int64_t n_values, int64_t n_rows, Report& report) {
    report.at("n=%d, k=%d, %d rows", static_cast<int>(n), static_cast<int>(n_values), static_cast<int>(n_rows));
    Random random(static_cast<uint64_t>(n * 1000 + n_values + n_rows));
    Guarded<uint16_t> tiles(k::n_tiles(n) * n_values * kTileColumns);
    for (int64_t i = 0; i < tiles.size(); ++i) tiles[i] = random.half(8, 16);
    Guarded<float> panel(tiles.size());
    checker.table.half_to_float(tiles.data(), tiles.size(), panel.data());
    const int64_t input_stride = n_values + 3, stride = n + 5, out_values = (n_rows - 1) * stride + n;
    Guarded<float> input((n_rows - 1) * input_stride + n_values), got(out_values), want(out_values);
    fill(Pattern::normal, input.data(), input.size(), random);
    const AllEndings ending(n, out_values, random);
    checker.table.multiply_half(input.data(), input_stride, tiles.data(), k::n_tiles(n), n_values, n_rows, n,
                                got.data(), stride, ending.epilogue);
    for (int64_t t = 0; t < k::n_tiles(n); t += checker.table.tiles_per_call) {
        const int64_t n_tiles = std::min(checker.table.tiles_per_call, k::n_tiles(n) - t), first = t * kTileColumns;
        checker.table.multiply_float(input.data(), input_stride, panel.data() + first * n_values, n_tiles, n_values,
                                     n_rows, std::min(n - first, n_tiles * kTileColumns), want.data() + first, stride,
                                     k::moved_to(ending.epilogue, first));
    }
    check_same_rows(got, want, n_rows, n, stride, report);
}

}  // namespace

void check_multiply_packed(Checker& checker) {
    for (const k::FormatInfo& format : kFormats) {
        if (format.bits == 0) continue;
        char name[32];
        std::snprintf(name, sizeof name, "multiply_packed %s", format.name);
        Report report(checker.table.isa, name);
        for (const int64_t n_values : {32, 64, 512}) {
            if (checker.quick && n_values > 64) continue;
            for (const int64_t n : {1, 15, 16, 17, 48, 81}) {
                for (int64_t n_rows = 1; n_rows <= k::kPackedRows; ++n_rows) {
                    for (const Weights weights : {Weights::random, Weights::all_min, Weights::all_max}) {
                        report.at("n=%d, k=%d, %d rows", static_cast<int>(n), static_cast<int>(n_values),
                                  static_cast<int>(n_rows));
                        check_packed_case(checker, format, weights, n, n_values, n_rows, report);
                    }
                }
            }
        }
        checker.close(report);
    }
}

void check_multiply_half(Checker& checker) {
    Report report(checker.table.isa, "multiply_half");
    for (const int64_t n_values : {1, 33, 64, 512}) {
        if (checker.quick && n_values > 64) continue;
        for (const int64_t n : {1, 15, 16, 17, 48, 81, 130}) {
            for (int64_t n_rows = 1; n_rows <= kStripRows; ++n_rows)
                check_half_case(checker, n, n_values, n_rows, report);
        }
    }
    checker.close(report);
}

}  // namespace check
