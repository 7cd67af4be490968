#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/aligned.h"
#include "kernels/pack.h"
#include "kernels/self_test/families.h"
#include "kernels/self_test/numbers.h"
#include "kernels/tolerances.h"

namespace whisperq::kernels::self_tests {
namespace {

constexpr double kKnownAccuracy = 1e-10;  // accuracy of sums in double precision

struct KnownProduct {
    Format format;
    double sum;  // of row kKnownRow and the last column
};
constexpr int64_t kKnownRow = 4;
constexpr KnownProduct kKnownProducts[] = {{Format::q8_0, -656.13213729858398}, {Format::q5_1, 376.74606323242188},
                                           {Format::q5_0, 24.763946533203125},  {Format::q4_1, 417.22560501098633},
                                           {Format::q4_0, 50.887378692626953},  {Format::f32, 1.6635751724243164}};

constexpr int64_t kRows = kStripRows;
constexpr int64_t kColumns = 5 * kTileColumns - 3;  // groups of tiles, and what is left of one
constexpr int64_t kStride = kColumns + 2;

// A product's answer: out[r][c] = sum, and the sum of the terms' magnitudes.
struct Answer {
    std::vector<double> sums = std::vector<double>(kRows * kColumns), terms = sums;

    void add(int64_t r, int64_t c, double term, double magnitude) {
        sums[static_cast<size_t>(r * kColumns + c)] += term;
        terms[static_cast<size_t>(r * kColumns + c)] += magnitude;
    }
};

// Compare the answers themselves with the digits that were written down.
void compare_known(const char* kernel, Format format, const Answer& answer, Findings& findings) {
    findings.at(kernel, std::string(info(format).name) + ", computed without kernels");
    for (const KnownProduct& known : kKnownProducts) {
        if (known.format != format) continue;
        const double sum = answer.sums[static_cast<size_t>(kKnownRow * kColumns + kColumns - 1)];
        findings.compare(sum, known.sum, kKnownAccuracy * std::fabs(known.sum));
    }
}

// The ending of a call's sums: the next one for each number of rows.
struct Ending {
    bool bias, gelu, residual, in_place;
};
constexpr Ending kEndings[kRows] = {{false, false, false, false}, {true, false, false, false},
                                    {true, true, false, false},   {false, false, true, false},
                                    {true, true, true, true},     {false, true, true, false}};

// Run `product(n_rows, out, out_stride, epilogue)` for each number of rows up to `most_rows`, and compare. Rows behind
// kRows are those from the first on again.
template <class Product>
void compare_products(const char* kernel, const std::string& what, int64_t k, int64_t most_rows, const Answer& answer,
                      const Product& product, Findings& findings) {
    Floats bias(kColumns, [](int64_t i) { return number(11, i); });
    Floats residual(most_rows * kStride, [](int64_t i) { return number(12, i); });
    for (int64_t n_rows = 1; n_rows <= most_rows; ++n_rows) {
        const Ending& ending = kEndings[(n_rows - 1) % kRows];
        Floats out(most_rows * kStride, [&](int64_t i) { return residual[i]; });
        Epilogue epilogue;
        if (ending.bias) epilogue.bias = bias.data();
        if (ending.residual) epilogue.residual = ending.in_place ? out.data() : residual.data();
        epilogue.gelu = ending.gelu;
        product(n_rows, out.data(), kStride, epilogue);

        findings.at(kernel, what + ", " + std::to_string(n_rows) + " rows");
        for (int64_t r = 0; r < most_rows; ++r) {
            for (int64_t c = 0; c < kStride; ++c) {
                const int64_t at = r * kStride + c;
                const double before = exact(residual[at]);
                if (r >= n_rows || c >= kColumns) {  // not to be touched
                    findings.compare(exact(out[at]), before, 0.0, at);
                    continue;
                }
                const auto i = static_cast<size_t>(r % kRows * kColumns + c);
                const double b = ending.bias ? exact(bias[c]) : 0.0;
                double want = answer.sums[i] + b, tolerance = product_tolerance(k, answer.terms[i] + std::fabs(b));
                if (ending.gelu) {
                    tolerance = kGeluSlope * tolerance + gelu_tolerance(want);
                    want = gelu_of(want);
                }
                if (ending.residual) {
                    tolerance += kEps * (std::fabs(want) + std::fabs(before));
                    want += before;
                }
                findings.compare(exact(out[at]), want, tolerance, at);
            }
        }
    }
}

// Call `multiply(first_tile, n_tiles, n_columns, out, epilogue)` for groups of tiles, as the engine does.
template <class Multiply>
void by_groups(int64_t tiles_per_call, float* out, const Epilogue& epilogue, const Multiply& multiply) {
    const int64_t all = n_tiles(kColumns);
    for (int64_t t = 0; t < all; t += tiles_per_call) {
        const int64_t n = std::min(tiles_per_call, all - t), first = t * kTileColumns;
        multiply(t, n, std::min(n * kTileColumns, kColumns - first), out + first, moved_to(epilogue, first));
    }
}

// A matrix of a block format whose codes, scales and minima are known.
struct Weights {
    static constexpr int64_t kValues = 3 * kBlock, kBlocks = kValues / kBlock;
    const FormatInfo& format;

    int code(int64_t column, int64_t i) const {  // as the file has it, from 0
        return static_cast<int>(draw(21 + format.bits, column * kValues + i, int64_t{1} << format.bits));
    }
    float scale(int64_t column, int64_t b) const {
        const float size = 1.0f + static_cast<float>(draw(22, column * kBlocks + b, 1024)) / 1024.0f;
        return size / (column % 3 == 0 ? -256.0f : 128.0f);
    }
    float minimum(int64_t column, int64_t b) const {
        return format.has_minimum ? number(23, column * kBlocks + b) : 0.0f;
    }
    double value(int64_t column, int64_t i) const {
        const double signed_code = code(column, i) - format.zero_point;
        return exact(scale(column, i / kBlock)) * signed_code + exact(minimum(column, i / kBlock));
    }
    double magnitude(int64_t column, int64_t i) const {
        const double signed_code = code(column, i) - format.zero_point;
        return std::fabs(exact(scale(column, i / kBlock)) * signed_code) +
               std::fabs(exact(minimum(column, i / kBlock)));
    }

    // Write a block in ggml's order: scale, minimum, fifth bits, codes.
    void write_block(int64_t column, int64_t b, uint8_t* to) const {
        const uint16_t scale_bits = half_of(scale(column, b)), minimum_bits = half_of(minimum(column, b));
        std::memcpy(to, &scale_bits, sizeof scale_bits);
        to += sizeof scale_bits;
        if (format.has_minimum) {
            std::memcpy(to, &minimum_bits, sizeof minimum_bits);
            to += sizeof minimum_bits;
        }
        const auto code_at = [&](int64_t i) { return code(column, b * kBlock + i); };
        if (format.bits == 8) {
            for (int64_t i = 0; i < kBlock; ++i) to[i] = static_cast<uint8_t>(code_at(i) - format.zero_point);
            return;
        }
        if (format.bits == 5) {
            for (int64_t i = 0; i < kBlock; ++i) to[i / 8] = static_cast<uint8_t>(to[i / 8] | code_at(i) >> 4 << i % 8);
            to += kBlock / 8;
        }
        for (int64_t i = 0; i < kBlock / 2; ++i) {
            to[i] = static_cast<uint8_t>((code_at(i) & 15) | (code_at(i + kBlock / 2) & 15) << 4);
        }
    }

    AlignedBuffer packed() const {
        std::vector<uint8_t> rows(static_cast<size_t>(kColumns * kBlocks * format.ggml_bytes));
        for (int64_t i = 0; i < kColumns * kBlocks; ++i) {
            write_block(i / kBlocks, i % kBlocks, rows.data() + i * format.ggml_bytes);
        }
        AlignedBuffer tiles(packed_bytes(format.format, kColumns, kValues));
        pack_rows(format.format, rows.data(), 0, kColumns, kValues, tiles.data());
        return tiles;
    }
};

Answer block_answer(const Weights& weights, const Quantised& input) {
    Answer answer;
    std::vector<double> x(kRows * Weights::kValues);
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] = exact(input.scale(static_cast<int64_t>(i))) * input.code(static_cast<int64_t>(i));
    }
    for (int64_t c = 0; c < kColumns; ++c) {
        for (int64_t i = 0; i < Weights::kValues; ++i) {
            const double w = weights.value(c, i), magnitude = weights.magnitude(c, i);
            for (int64_t r = 0; r < kRows; ++r) {
                const double value = x[static_cast<size_t>(r * Weights::kValues + i)];
                answer.add(r, c, value * w, std::fabs(value) * magnitude);
            }
        }
    }
    return answer;
}

}  // namespace

// A fault in quantize_strip or expand_tile is seen in the products, which name the kernel that multiplies.
void test_block_products(const KernelTable& table, const FormatInfo& format, Findings& findings) {
    constexpr int64_t k = Weights::kValues, kGap = 5;
    const Quantised input{31, kBlock};
    const Weights weights{format};
    const Answer answer = block_answer(weights, input);
    compare_known("multiply_strip", format.format, answer, findings);
    const AlignedBuffer tiles = weights.packed();
    Floats rows(kRows * (k + kGap));
    for (int64_t i = 0; i < kRows * k; ++i) rows[i / k * (k + kGap) + i % k] = input.value(i);

    AlignedBuffer expanded(static_cast<size_t>(n_tiles(kColumns)) * expanded_bytes(k));
    for (int64_t t = 0; t < n_tiles(kColumns); ++t) {
        table.expand_tile(format.format, tiles.data() + static_cast<size_t>(t) * tile_bytes(format.format, k), k,
                          expanded.data() + static_cast<size_t>(t) * expanded_bytes(k));
    }
    AlignedBuffer strip(kPackedRows / kRows * strip_bytes(k));
    const auto quantise = [&](int64_t n_rows) {
        std::memset(strip.data(), 0xff, strip.size());
        uint8_t* to = strip.data();
        for (; n_rows > 0; n_rows -= kRows, to += strip_bytes(k)) {
            table.quantize_strip(rows.data(), k + kGap, std::min(n_rows, kRows), k, to);
        }
    };
    const auto with_expanded = [&](int64_t n_rows, float* out, int64_t stride, const Epilogue& epilogue) {
        quantise(n_rows);
        by_groups(table.tiles_per_call, out, epilogue,
                  [&](int64_t tile, int64_t n, int64_t n_columns, float* to, const Epilogue& part) {
                      table.multiply_strip(strip.data(),
                                           expanded.data() + static_cast<size_t>(tile) * expanded_bytes(k), n, k,
                                           format.has_minimum, n_rows, n_columns, to, stride, part);
                  });
    };
    const auto with_packed = [&](int64_t n_rows, float* out, int64_t stride, const Epilogue& epilogue) {
        quantise(n_rows);
        table.multiply_packed(format.format, strip.data(), tiles.data(), n_tiles(kColumns), k, n_rows, kColumns, out,
                              stride, epilogue);
    };
    const std::string what = std::string(format.name) + " after quantize_strip";
    compare_products("multiply_strip", what + " and expand_tile", k, kRows, answer, with_expanded, findings);
    compare_products("multiply_packed", what, k, kPackedRows, answer, with_packed, findings);
}

void test_float_products(const KernelTable& table, Findings& findings) {
    constexpr int64_t k = 37, kInputStride = 23;  // rows overlap, as a convolution's do
    Floats input(kRows * kInputStride + k, [](int64_t i) { return number(41, i); });
    Floats panel(n_tiles(kColumns) * k * kTileColumns, [](int64_t i) { return number(42, i); });
    AlignedBuffer halves(static_cast<size_t>(n_tiles(kColumns) * k * kTileColumns) * sizeof(uint16_t));
    auto* tiles = reinterpret_cast<uint16_t*>(halves.data());
    for (int64_t i = 0; i < n_tiles(kColumns) * k * kTileColumns; ++i) tiles[i] = half_of(panel[i]);

    Answer answer;
    for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kColumns; ++c) {
            const float* column = panel.data() + c / kTileColumns * k * kTileColumns + c % kTileColumns;
            for (int64_t i = 0; i < k; ++i) {
                const double term = exact(input[r * kInputStride + i]) * exact(column[i * kTileColumns]);
                answer.add(r, c, term, std::fabs(term));
            }
        }
    }
    compare_known("multiply_float", Format::f32, answer, findings);
    const auto floats = [&](int64_t n_rows, float* out, int64_t stride, const Epilogue& epilogue) {
        by_groups(table.tiles_per_call, out, epilogue,
                  [&](int64_t tile, int64_t n, int64_t n_columns, float* to, const Epilogue& part) {
                      table.multiply_float(input.data(), kInputStride, panel.data() + tile * k * kTileColumns, n, k,
                                           n_rows, n_columns, to, stride, part);
                  });
    };
    const auto half = [&](int64_t n_rows, float* out, int64_t stride, const Epilogue& epilogue) {
        table.multiply_half(input.data(), kInputStride, tiles, n_tiles(kColumns), k, n_rows, kColumns, out, stride,
                            epilogue);
    };
    compare_products("multiply_float", "f32", k, kRows, answer, floats, findings);
    compare_products("multiply_half", "f16", k, kRows, answer, half, findings);
}

void test_products(const KernelTable& table, Findings& findings) {
    for (const FormatInfo& format : kFormats) {
        if (format.bits != 0) test_block_products(table, format, findings);
    }
    test_float_products(table, findings);
}

}  // namespace whisperq::kernels::self_tests
