#include "kernels/self_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/aligned.h"
#include "kernels/pack.h"
#include "kernels/tolerances.h"

namespace whisperq::kernels {
namespace {

// Whoever adds a kernel adds its test to self_test() below, and to the faults of tests/cpp/check_self_test.cpp.
static_assert(sizeof(KernelTable) == 17 * sizeof(void*), "a kernel that the self-test does not know");

// ---- Numbers that are the same everywhere
// -----------------------------------------------------------------------------

// Pseudo-random whole number in [0, n); scripts/self_test_answers.py has the same.
int64_t draw(int64_t seed, int64_t i, int64_t n) {
    return (i * 7919 + seed * 104729 + i * i % 1009 * 31) % 15485863 % n;
}

// In (-1, 1), and as exact in f16 as in f32.
float number(int64_t seed, int64_t i) {
    return static_cast<float>(draw(seed, i, 2047) - 1023) / 1024.0f;
}

// The f16 of a number that is one and normal, or 0.
uint16_t half_of(float value) {
    if (value == 0.0f) return 0;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (((bits & 0x7fffffffu) - 0x38000000u) >> 13));
}

// Floats that start where kernels want them, a vector's room behind them.
class Floats {
  public:
    explicit Floats(int64_t n) : buffer_(static_cast<size_t>(n) * sizeof(float)) {
        std::fill_n(buffer_.floats(), n, 0.0f);
    }
    template <class Value>
    Floats(int64_t n, const Value& value) : Floats(n) {
        for (int64_t i = 0; i < n; ++i) buffer_.floats()[i] = value(i);
    }
    float* data() { return buffer_.floats(); }
    float& operator[](int64_t i) { return buffer_.floats()[i]; }

  private:
    AlignedBuffer buffer_;
};

double exact(float value) {
    return static_cast<double>(value);
}

// ---- Inputs whose codes are known
// -------------------------------------------------------------------------------------

// Values in runs of `run` that share a scale, a power of two: each is so close to its code times the scale that every
// table rounds it there, or lies between two of which the even one is its code. One in a run has the code 127.
struct Quantised {
    static constexpr int kMost = 127;
    int64_t seed, run;

    float scale(int64_t i) const { return std::ldexp(1.0f, -static_cast<int>(i / run % 4)); }
    int code(int64_t i) const {
        if (is_greatest(i)) return i / run % 2 == 0 ? kMost : -kMost;
        return static_cast<int>(draw(seed, i, 2 * kMost - 3)) - (kMost - 2);
    }
    float value(int64_t i) const {
        if (is_greatest(i)) return scale(i) * static_cast<float>(code(i));
        const auto sixteenths = static_cast<float>(draw(seed + 1, i, 13) - 6);
        const bool is_tie = draw(seed + 2, i, 8) == 0 && code(i) % 2 == 0;
        return scale(i) * (static_cast<float>(code(i)) + (is_tie ? 0.5f : sixteenths / 16.0f));
    }

  private:
    bool is_greatest(int64_t i) const { return i % run == (i / run * 5 + seed) % run; }
};

// ---- Answers in digits: scripts/self_test_answers.py computes them
// -----------------------------------------------------

constexpr double kKnownAccuracy = 1e-10;  // of sums in double precision

struct KnownProduct {
    Format format;
    double sum;  // of row kKnownRow and the last column
};
constexpr int64_t kKnownRow = 4;
constexpr KnownProduct kKnownProducts[] = {{Format::q8_0, -656.13213729858398}, {Format::q5_1, 376.74606323242188},
                                           {Format::q5_0, 24.763946533203125},  {Format::q4_1, 417.22560501098633},
                                           {Format::q4_0, 50.887378692626953},  {Format::f32, 1.6635751724243164}};
constexpr double kKnownNorm = -1.3626797340985619;        // the last one
constexpr double kKnownAttention = 0.019336664181185292;  // the last one

// ---- Products
// ---------------------------------------------------------------------------------------------------------

constexpr int64_t kRows = kStripRows;
constexpr int64_t kColumns = 5 * kTileColumns - 3;  // groups of tiles, and what is left of one
constexpr int64_t kStride = kColumns + 2;

// out[r][c] = sum, and the sum of the terms' magnitudes.
struct Answer {
    std::vector<double> sums = std::vector<double>(kRows * kColumns), terms = sums;

    void add(int64_t r, int64_t c, double term, double magnitude) {
        sums[static_cast<size_t>(r * kColumns + c)] += term;
        terms[static_cast<size_t>(r * kColumns + c)] += magnitude;
    }
};

// Whether the answers themselves are what they were where this was written.
void compare_known(const char* kernel, Format format, const Answer& answer, Findings& findings) {
    findings.at(kernel, std::string(info(format).name) + ", computed without kernels");
    for (const KnownProduct& known : kKnownProducts) {
        if (known.format != format) continue;
        const double sum = answer.sums[static_cast<size_t>(kKnownRow * kColumns + kColumns - 1)];
        findings.compare(sum, known.sum, kKnownAccuracy * std::fabs(known.sum));
    }
}

// What is done to the sums of a call: the next for each number of rows.
struct Ending {
    bool bias, gelu, residual, in_place;
};
constexpr Ending kEndings[kRows] = {{false, false, false, false}, {true, false, false, false},
                                    {true, true, false, false},   {false, false, true, false},
                                    {true, true, true, true},     {false, true, true, false}};

double gelu_of(double x) {
    return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
}

// Runs `product(n_rows, out, out_stride, epilogue)` for each number of rows up to `most_rows` and compares. Rows
// behind kRows are those from the first on again.
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

// Calls `multiply(first_tile, n_tiles, n_columns, out, epilogue)` for groups of tiles, as the engine does.
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

    // In ggml's order: scale, minimum, fifth bits, codes.
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

// quantize_strip, expand_tile, multiply_strip and multiply_packed: what is wrong in one of the first two is seen in the
// products, which name the kernel that multiplies.
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

// ---- Values one by one
// ------------------------------------------------------------------------------------------------

struct HalfPair {
    uint16_t half;
    float value;
};
constexpr HalfPair kHalves[] = {
    {0x0000, 0.0f},
    {0x3c00, 1.0f},
    {0xbc00, -1.0f},
    {0x3555, 0.333251953125f},
    {0x4248, 3.140625f},
    {0x7bff, 65504.f},
    {0xfbff, -65504.0f},
    {0x0400, 6.103515625e-5f},
    {0x2e66, 0.0999755859375f},
    {0x0001, 5.9604644775390625e-8f},
    {0x83ff, -6.097555160522461e-5f},
    {0x7c00, HUGE_VALF},
    {0xfc00, -HUGE_VALF},
};
// Not halves themselves: to nearest, and the even one from the middle.
constexpr HalfPair kRounded[] = {
    {0x3c00, 1.00048828125f}, {0x3c02, 1.00146484375f}, {0x3c01, 1.0005f}, {0x7bff, 65519.0f},
    {0x7c00, 65520.0f},       {0xfc00, -1e30f},         {0x3a66, 0.8f},    {0x0000, 2.98e-8f},
};

void test_halves(const KernelTable& table, Findings& findings) {
    std::vector<HalfPair> all(std::begin(kHalves), std::end(kHalves));
    for (int64_t i = 0; i < 30; ++i) all.push_back({half_of(number(51, i)), number(51, i)});
    const auto n = static_cast<int64_t>(all.size());
    std::vector<uint16_t> halves(all.size());
    Floats values(n), out(n + 1, [](int64_t) { return 7.0f; });
    for (size_t i = 0; i < all.size(); ++i) halves[i] = all[i].half;
    table.half_to_float(halves.data(), n, out.data());
    findings.at("half_to_float", "known values");
    for (int64_t i = 0; i < n; ++i) findings.compare(exact(out[i]), exact(all[static_cast<size_t>(i)].value), 0.0, i);
    findings.compare(exact(out[n]), 7.0, 0.0, n);

    all.insert(all.end(), std::begin(kRounded), std::end(kRounded));
    const auto n_all = static_cast<int64_t>(all.size());
    Floats given(n_all);
    for (int64_t i = 0; i < n_all; ++i) given[i] = all[static_cast<size_t>(i)].value;
    std::vector<uint16_t> got(all.size() + 1, 7);
    table.float_to_half(given.data(), n_all, got.data());
    findings.at("float_to_half", "known values");
    for (size_t i = 0; i < all.size(); ++i) {
        findings.compare(got[i], all[i].half, 0.0, static_cast<int64_t>(i));
    }
    findings.compare(got.back(), 7, 0.0, n_all);
}

void test_gelu(const KernelTable& table, Findings& findings) {
    struct Known {
        float x;
        double gelu;
    };
    constexpr Known kKnown[] = {{1.0f, 0.8413447460685429},
                                {-1.0f, -0.15865525393145707},
                                {0.5f, 0.34573123063700656},
                                {-3.0f, -0.00404969409489031},
                                {0.0f, 0.0},
                                {100.0f, 100.0}};
    constexpr int64_t kKnownCount = sizeof kKnown / sizeof kKnown[0], kSweep = 71, n = kKnownCount + kSweep;
    Floats x(n + 1, [&](int64_t i) {
        return i < kKnownCount ? kKnown[i].x : i < n ? static_cast<float>(i - kKnownCount - 35) / 5.0f : 7.0f;
    });
    Floats values(n + 1, [&](int64_t i) { return x[i]; });
    table.gelu(values.data(), n);
    findings.at("gelu", "-7 to 7");
    for (int64_t i = 0; i < n; ++i) {
        const double want = i < kKnownCount ? kKnown[i].gelu : gelu_of(exact(x[i]));
        findings.compare(exact(values[i]), want, gelu_tolerance(exact(x[i])), i);
    }
    findings.compare(exact(values[n]), 7.0, 0.0, n);
}

// The values are of size 1 and their mean is near 0: sqrt(n) roundings of what a value is made of.
void test_layer_norm(const KernelTable& table, Findings& findings) {
    constexpr int64_t kNormRows = 3, n = 71;
    Floats x(kNormRows * n, [](int64_t i) { return number(61, i); });
    Floats weight(n, [](int64_t i) { return number(62, i); }), bias(n, [](int64_t i) { return number(63, i); });
    Floats out(kNormRows * n + 1, [](int64_t) { return 7.0f; });
    table.layer_norm(x.data(), kNormRows, n, weight.data(), bias.data(), out.data());
    findings.at("layer_norm", "3 rows of 71");
    for (int64_t r = 0; r < kNormRows; ++r) {
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < n; ++i) mean += exact(x[r * n + i]) / n;
        for (int64_t i = 0; i < n; ++i) variance += (exact(x[r * n + i]) - mean) * (exact(x[r * n + i]) - mean) / n;
        const double factor = 1.0 / std::sqrt(variance + 1e-5);
        for (int64_t i = 0; i < n; ++i) {
            const double scaled = (exact(x[r * n + i]) - mean) * factor * exact(weight[i]);
            findings.compare(exact(out[r * n + i]), scaled + exact(bias[i]),
                             product_tolerance(n, 2.0 + std::fabs(scaled)), r * n + i);
        }
    }
    findings.compare(exact(out[kNormRows * n - 1]), kKnownNorm, 1e-5, kNormRows * n - 1);
    findings.compare(exact(out[kNormRows * n]), 7.0, 0.0, kNormRows * n);
}

// ---- Attention
// --------------------------------------------------------------------------------------------------------

// Roundings of a value and a probability to bf16, of 2^-8 each, and as much again for those of a query and a key to
// int8, which add up in a score in random directions; int16's are smaller.
constexpr double kHalfPrecision = 4 * 0x1p-8;

void test_attention(const KernelTable& table, bool is_exact, Findings& findings) {
    constexpr int64_t kQueries = 19, kKeys = 70, kWide = kHeadSize + 24;
    Floats q(kQueries * kWide, [](int64_t i) { return 2.0f * number(71, i); });
    Floats key(kKeys * kWide, [](int64_t i) { return number(72, i); });
    Floats value(kKeys * kWide, [](int64_t i) { return number(73, i); });
    Floats out(kQueries * kWide, [](int64_t) { return 7.0f; });
    Floats scratch(static_cast<int64_t>(attention_scratch_floats(kKeys)), [](int64_t) { return NAN; });
    table.attention(q.data(), kWide, key.data(), kWide, value.data(), kWide, kQueries, kKeys, is_exact, out.data(),
                    kWide, scratch.data());
    findings.at("attention", is_exact ? "exact" : "of quantised models");
    for (int64_t m = 0; m < kQueries; ++m) {
        std::vector<double> p(kKeys);
        double greatest = -HUGE_VAL, sum = 0.0;
        for (int64_t j = 0; j < kKeys; ++j) {
            double score = 0.0;
            for (int64_t i = 0; i < kHeadSize; ++i) score += exact(q[m * kWide + i]) * exact(key[j * kWide + i]) / 8;
            p[static_cast<size_t>(j)] = score;
            greatest = std::max(greatest, score);
        }
        for (double& score : p) sum += score = std::exp(score - greatest);
        for (int64_t i = 0; i < kHeadSize; ++i) {
            double want = 0.0, terms = 0.0;
            for (int64_t j = 0; j < kKeys; ++j) {
                const double term = p[static_cast<size_t>(j)] / sum * exact(value[j * kWide + i]);
                want += term;
                terms += std::fabs(term);
            }
            // A score is a sum of 64 terms whose magnitudes come to 8 at the most, and moves what it weighs.
            const double tolerance =
                (16 * kEps * std::sqrt(double{kKeys + kHeadSize}) + (is_exact ? 0.0 : kHalfPrecision)) *
                (terms + std::fabs(want));
            findings.compare(exact(out[m * kWide + i]), want, tolerance, m * kWide + i);
        }
        if (m == kQueries - 1) {
            const double tolerance = is_exact ? 1e-5 : 2 * kHalfPrecision;
            findings.compare(exact(out[m * kWide + kHeadSize - 1]), kKnownAttention, tolerance,
                             m * kWide + kHeadSize - 1);
        }
        for (int64_t i = kHeadSize; i < kWide; ++i)
            findings.compare(exact(out[m * kWide + i]), 7.0, 0.0, m * kWide + i);
    }
}

void test_quantize_head(const KernelTable& table, Findings& findings) {
    for (int64_t seed = 81; seed < 84; ++seed) {
        const Quantised head{seed, kHeadSize};
        Floats values(kHeadSize, [&](int64_t i) { return seed == 83 ? 0.0f : head.value(i); });
        const auto test = [&](const char* what, int most, float want_scale, const auto& want_code) {
            AlignedBuffer codes(kHeadSize);
            float scale = NAN;
            table.quantize_head(values.data(), most, reinterpret_cast<int8_t*>(codes.data()), &scale);
            findings.at("quantize_head", what);
            findings.compare(exact(scale), exact(want_scale), 0.0, kHeadSize);
            for (int64_t i = 0; i < kHeadSize; ++i) {
                findings.compare(static_cast<int8_t>(codes.data()[i]), want_code(i), 0.0, i);
            }
        };
        if (seed == 83) {
            test("zeros", Quantised::kMost, 0.0f, [](int64_t) { return 0; });
        } else {
            test("known codes", Quantised::kMost, head.scale(0), [&](int64_t i) { return head.code(i); });
            // Values are sixteenths of a 127th of the greatest: none of them is within 1 / (16 * 127) of a tie.
            const float step = Quantised::kMost * head.scale(0) / 31;
            test("31 codes", 31, step,
                 [&](int64_t i) { return static_cast<int>(std::nearbyint(exact(values[i]) / exact(step))); });
        }
    }
}

const char* name_of(CacheType type) {
    constexpr const char* kNames[] = {"f32", "f16", "int8", "int6"};
    return kNames[static_cast<int>(type)];
}

// Keys or values of a head in blocks, as a cache has them, and what they are.
class Cache {
  public:
    static constexpr int64_t kTokens = 35;
    static constexpr size_t kOffset = 128;

    Cache(CacheType type, bool has_keys) : type_(type), has_keys_(has_keys) {
        const size_t n_bytes = kOffset + key_block_bytes(type);
        for (int64_t b = 0; b < n_key_blocks(kTokens); ++b) {
            memory_.emplace_back(n_bytes);
            std::memset(memory_.back().data(), 0, n_bytes);
            fill(b, memory_.back().data() + kOffset);
        }
        for (const AlignedBuffer& block : memory_) blocks_.push_back(block.data());
    }

    CacheType type() const { return type_; }
    const uint8_t* const* blocks() const { return blocks_.data(); }
    double value(int64_t token, int64_t i) const {
        return has_codes(type_) ? exact(scale(token)) * code(token, i) : exact(number(91, token * kHeadSize + i));
    }

  private:
    int code(int64_t token, int64_t i) const {
        const int most = most_code(type_);
        return static_cast<int>(draw(92, token * kHeadSize + i, static_cast<uint32_t>(2 * most + 1))) - most;
    }
    // Those of values are all the same, so that it is known which codes probabilities get.
    float scale(int64_t token) const { return has_keys_ ? (1.0f + number(93, token) / 2) / 64 : 1.0f / 128; }

    void fill(int64_t b, uint8_t* block) const {
        for (int64_t j = 0; j < kKeyBlock; ++j) {
            const int64_t token = b * kKeyBlock + j;
            for (int64_t i = 0; i < kHeadSize; ++i) put(token, j, i, block);
            const float s = scale(token);
            if (has_codes(type_)) std::memcpy(block + code_bytes(type_) + j * 4, &s, sizeof s);
        }
    }
    void put(int64_t token, int64_t j, int64_t i, uint8_t* block) const {
        const int64_t place = has_keys_ ? i * kKeyBlock + j : j * kHeadSize + i;
        const float x = number(91, token * kHeadSize + i);
        const uint16_t half = half_of(x);
        if (type_ == CacheType::f32) std::memcpy(block + place * 4, &x, sizeof x);
        if (type_ == CacheType::f16) std::memcpy(block + place * 2, &half, sizeof half);
        if (!has_codes(type_)) return;
        const int64_t at =
            has_keys_ ? (i / 4 * kKeyBlock + j) * 4 + i % 4 : ((i / 16 * 4 + j / 4) * 16 + i % 16) * 4 + j % 4;
        if (type_ == CacheType::int8) {
            block[at] = static_cast<uint8_t>(code(token, i));
        } else {
            put_six_bits(static_cast<unsigned>(code(token, i) + 32), at, block);
        }
    }

    // Without six_bits.h: four rows of 64 codes in three of 64 bytes, into a block of zeros.
    static void put_six_bits(unsigned bits, int64_t at, uint8_t* block) {
        uint8_t* four_rows = block + at / 256 * 192 + at % 64;
        const auto row = static_cast<unsigned>(at / 64 % 4);
        four_rows[row / 2 * 64] |= static_cast<uint8_t>((bits & 15) << row % 2 * 4);
        four_rows[128] |= static_cast<uint8_t>((bits >> 4) << row * 2);
    }

    CacheType type_;
    bool has_keys_;
    std::vector<AlignedBuffer> memory_;
    std::vector<const uint8_t*> blocks_;
};

constexpr int64_t kQueries = 5, kPadded = 48;  // kTokens in whole blocks

void test_score_keys(const KernelTable& table, CacheType type, Findings& findings) {
    const Cache keys(type, true);
    const Quantised query{101, kHeadSize};
    constexpr int64_t kGap = 3, kQueryStride = kHeadSize + kGap, kScoreStride = kPadded + 16;
    Floats q(kQueries * kQueryStride, [&](int64_t i) {
        const int64_t at = i / kQueryStride * kHeadSize + i % kQueryStride;
        return i % kQueryStride < kHeadSize ? query.value(at) : NAN;
    });
    Floats scores(kQueries * kScoreStride, [](int64_t) { return 7.0f; });
    table.score_keys(q.data(), kQueryStride, kQueries, keys.blocks(), Cache::kOffset, type, Cache::kTokens,
                     scores.data(), kScoreStride);
    findings.at("score_keys", name_of(type));
    for (int64_t m = 0; m < kQueries; ++m) {
        for (int64_t j = 0; j < Cache::kTokens; ++j) {
            double want = 0.0, terms = 0.0;
            for (int64_t i = 0; i < kHeadSize; ++i) {
                const int64_t at = m * kHeadSize + i;
                const double x =
                    type == CacheType::int8 ? exact(query.scale(at)) * query.code(at) : exact(query.value(at));
                want += x * keys.value(j, i) / 8;
                terms += std::fabs(x * keys.value(j, i)) / 8;
            }
            findings.compare(exact(scores[m * kScoreStride + j]), want, product_tolerance(kHeadSize, terms),
                             m * kScoreStride + j);
        }
        for (int64_t j = kPadded; j < kScoreStride; ++j) {
            findings.compare(exact(scores[m * kScoreStride + j]), 7.0, 0.0, m * kScoreStride + j);
        }
    }
}

void test_mix_values(const KernelTable& table, CacheType type, Findings& findings) {
    const Cache values(type, false);
    const Quantised codes{111, kKeyBlock};
    constexpr int64_t kOutStride = kHeadSize + 16;
    const auto is_there = [](int64_t i) { return i % kPadded < Cache::kTokens; };
    const auto is_last = [](int64_t i) { return i % kPadded == Cache::kTokens - 1; };  // the greatest of its block
    const auto probability = [&](int64_t i) {
        const float codes_of = is_last(i) ? Quantised::kMost * codes.scale(i) : std::fabs(codes.value(i));
        return is_there(i) ? codes_of / 4096 : 0.0f;
    };
    const auto rounded = [&](int64_t i) {
        const int code = is_last(i) ? Quantised::kMost : std::abs(codes.code(i));
        return is_there(i) ? exact(codes.scale(i)) * code / 4096 : 0.0;
    };
    Floats p(kQueries * kPadded, probability);
    Floats out(kQueries * kOutStride, [](int64_t) { return 7.0f; });
    table.mix_values(p.data(), kPadded, kQueries, values.blocks(), Cache::kOffset, type, Cache::kTokens, out.data(),
                     kOutStride);
    findings.at("mix_values", name_of(type));
    for (int64_t m = 0; m < kQueries; ++m) {
        for (int64_t i = 0; i < kHeadSize; ++i) {
            double want = 0.0, terms = 0.0;
            for (int64_t j = 0; j < Cache::kTokens; ++j) {
                const int64_t at = m * kPadded + j;
                const double term = (has_codes(type) ? rounded(at) : exact(p[at])) * values.value(j, i);
                want += term;
                terms += std::fabs(term);
            }
            findings.compare(exact(out[m * kOutStride + i]), want, product_tolerance(Cache::kTokens, terms),
                             m * kOutStride + i);
        }
        for (int64_t i = kHeadSize; i < kOutStride; ++i) {
            findings.compare(exact(out[m * kOutStride + i]), 7.0, 0.0, m * kOutStride + i);
        }
    }
}

void test_softmax(const KernelTable& table, Findings& findings) {
    Floats two(kKeyBlock, [](int64_t i) { return i == 0 ? 0.0f : i == 1 ? 1.0986122887f : 7.0f; });  // ln 3
    table.softmax(two.data(), 2);
    findings.at("softmax", "0 and ln 3");
    for (int64_t i = 0; i < kKeyBlock; ++i)
        findings.compare(exact(two[i]), i == 0 ? 0.25 : i == 1 ? 0.75 : 0.0, 5e-7, i);

    constexpr int64_t n = Cache::kTokens;
    Floats x(n, [](int64_t i) { return 9.0f * number(121, i); });
    Floats scores(kPadded, [&](int64_t i) { return i < n ? x[i] : 7.0f; });
    table.softmax(scores.data(), n);
    double greatest = -HUGE_VAL, sum = 0.0;
    for (int64_t i = 0; i < n; ++i) greatest = std::max(greatest, exact(x[i]));
    for (int64_t i = 0; i < n; ++i) sum += std::exp(exact(x[i]) - greatest);
    findings.at("softmax", "35 scores");
    for (int64_t i = 0; i < n; ++i) {
        const double want = std::exp(exact(x[i]) - greatest) / sum;
        findings.compare(exact(scores[i]), want, softmax_tolerance(want, greatest - exact(x[i]), n), i);
    }
    for (int64_t i = n; i < kPadded; ++i) findings.compare(exact(scores[i]), 0.0, 0.0, i);
}

}  // namespace

void self_test(const KernelTable& table, Findings& findings) {
    for (const FormatInfo& format : kFormats) {
        if (format.bits != 0) test_block_products(table, format, findings);
    }
    test_float_products(table, findings);
    test_halves(table, findings);
    test_layer_norm(table, findings);
    test_gelu(table, findings);
    for (const bool is_exact : {true, false}) test_attention(table, is_exact, findings);
    test_quantize_head(table, findings);
    test_softmax(table, findings);
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8, CacheType::int6}) {
        if (type != CacheType::int6) test_score_keys(table, type, findings);
        test_mix_values(table, type, findings);
    }
}

}  // namespace whisperq::kernels
