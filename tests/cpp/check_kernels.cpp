// check_kernels [--isa=NAME] [--quick] [--readable-guards] [--bench] [--json] [--list]
//
// Proves every kernel of every ISA that is built and supported here (or of NAME, where auto is the one that the engine
// would take): against double precision, against the scalar kernels, and for touching nothing outside. Only then, and
// only if asked, measures them (bench_kernels.cpp). --quick takes fewer shapes, for emulators; --list only says what
// there is. --readable-guards lets kernels read behind their arrays, because qemu reads the values that AVX's masked
// loads leave out; writing there still ends the program.
//
// Tolerances are formulas, `c * eps * sqrt(k) * sum|terms|` at their core: k roundings of random direction, each of at
// most half an eps of the terms summed so far. One line an ISA and kernel: comparisons, and the worst error as a share
// of its tolerance. Exit code 0: all right; 1: a kernel is wrong; 2: a bad option, or an ISA that cannot be had here.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench_kernels.h"
#include "core/status.h"
#include "ggml_blocks.h"
#include "kernels/dispatch.h"
#include "kernels/pack.h"
#include "kernels/tables.h"
#include "kernels/tolerances.h"
#include "support.h"

namespace check {
namespace {

using k::Format;
using k::kBlock;
using k::kFormats;
using k::kStripRows;
using k::kTileColumns;

struct Result {
    std::string isa, kernel;
    int64_t count, failures;
    double worst;
};

// Of one ISA: its kernels, and what was found.
struct Checker {
    const k::KernelTable& table;
    bool quick;
    std::vector<Result> results;

    void close(const Report& report) {
        results.push_back({report.isa(), report.kernel(), report.count(), report.failures(), report.worst()});
    }
};

using k::kGeluSlope;

// ---- Inputs
// -----------------------------------------------------------------------------------------------------------

enum class Pattern { normal, zeros, all_min, all_max, outliers, denormals, ties, large };
constexpr Pattern kPatterns[] = {Pattern::normal,   Pattern::zeros,     Pattern::all_min, Pattern::all_max,
                                 Pattern::outliers, Pattern::denormals, Pattern::ties,    Pattern::large};
constexpr const char* kPatternNames[] = {"normal",   "zeros",     "all min", "all max",
                                         "outliers", "denormals", "ties",    "large"};

const char* name_of(Pattern pattern) {
    return kPatternNames[static_cast<int>(pattern)];
}

float value_of(Pattern pattern, int64_t i, Random& random) {
    switch (pattern) {
        case Pattern::normal:
            return random.normal();
        case Pattern::zeros:
            return i % 2 ? -0.0f : 0.0f;
        case Pattern::all_min:
            return -1.5f;
        case Pattern::all_max:
            return 1.5f;
        case Pattern::outliers:
            return random.below(40) == 0 ? 1e4f * random.normal() : random.normal();
        case Pattern::denormals:
            return 1e-39f * random.normal();
        case Pattern::ties:  // the scale of each block is 1
            return i % kBlock == 0 ? 127.0f : static_cast<float>(random.below(254) - 127) + 0.5f;
        case Pattern::large:
            return 1e30f * random.normal();
    }
    return 0.0f;
}

void fill(Pattern pattern, float* values, int64_t n, Random& random) {
    for (int64_t i = 0; i < n; ++i) values[i] = value_of(pattern, i, random);
}

// ---- quantize_strip
// ---------------------------------------------------------------------------------------------------

// What strips say, without knowing the order of their bytes: a product with the identity (weights of code 1 and scale
// 1) gives the codes times their scales, every other term being an exact 0.
class StripReader {
  public:
    explicit StripReader(const k::KernelTable& table) : table_(table) {}

    // values[kStripRows][n_values]: what all rows of the strip were rounded to.
    std::vector<double> read(const uint8_t* strip, int64_t n_values) {
        if (n_values != n_values_) expand_identity(n_values);
        std::vector<float> out(static_cast<size_t>(kStripRows * n_values));
        for (int64_t t = 0; t < n_values / kTileColumns; t += table_.tiles_per_call) {
            const int64_t n_tiles = std::min(table_.tiles_per_call, n_values / kTileColumns - t);
            table_.multiply_strip(strip, identity_->data() + t * tile_bytes(), n_tiles, n_values, false, kStripRows,
                                  n_tiles * kTileColumns, out.data() + t * kTileColumns, n_values, {});
        }
        return {out.begin(), out.end()};
    }

  private:
    int64_t tile_bytes() const { return static_cast<int64_t>(k::expanded_bytes(n_values_)); }

    void expand_identity(int64_t n_values) {
        const k::FormatInfo& q8_0 = k::info(Format::q8_0);
        const int64_t n_blocks = n_values / kBlock;
        std::vector<uint8_t> rows(static_cast<size_t>(n_values * n_blocks * q8_0.ggml_bytes));
        for (int64_t i = 0; i < n_values; ++i) {
            uint8_t* block = rows.data() + (i * n_blocks + i / kBlock) * q8_0.ggml_bytes;
            block[1] = 0x3c;  // 1.0
            block[2 + i % kBlock] = 1;
        }
        Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(q8_0.format, n_values, n_values)));
        k::pack_rows(q8_0.format, rows.data(), 0, n_values, n_values, packed.data());
        n_values_ = n_values;
        identity_ = std::make_unique<Guarded<uint8_t>>(n_values / kTileColumns * tile_bytes());
        for (int64_t t = 0; t < n_values / kTileColumns; ++t) {
            table_.expand_tile(q8_0.format,
                               packed.data() + t * static_cast<int64_t>(k::tile_bytes(q8_0.format, n_values)), n_values,
                               identity_->data() + t * tile_bytes());
        }
    }

    const k::KernelTable& table_;
    int64_t n_values_ = 0;
    std::unique_ptr<Guarded<uint8_t>> identity_;
};

double greatest_of(const float* values, int64_t n) {
    double greatest = 0.0;
    for (int64_t i = 0; i < n; ++i) greatest = std::max(greatest, std::fabs(static_cast<double>(values[i])));
    return greatest;
}

// Where scales become denormal, and a block may count as zeros.
constexpr double kLeastScale = 0x1p-125;

// x / scale is a few roundings away from the exact quotient, so a value beside a tie may go either way, but no other.
// `exact_ties` says that scale is 1: then these are ties, and go to even.
void check_quantised_block(const float* input, const double* got, const double* scalar, bool exact_ties, int64_t row,
                           Report& report) {
    const double scale = greatest_of(input, kBlock) / 127.0;
    const double slack = 4 * 127 * kEps;  // of a quotient
    for (int64_t i = 0; i < kBlock; ++i) {
        const auto x = static_cast<double>(input[i]);
        if (exact_ties) {
            report.compare(got[i], std::nearbyint(x), 0.0, "tie", row, i);
            continue;
        }
        if (scale < kLeastScale) {
            report.compare(got[i], x, 0.5 * scale + 127 * kLeastScale, "value quantised", row, i);
            continue;
        }
        const double quotient = x / scale, code = std::nearbyint(got[i] / scale);
        report.compare(got[i], x, scale * (0.5 + slack), "value quantised", row, i);
        report.compare(got[i], code * scale, 2 * kEps * std::fabs(got[i]), "code times scale", row, i);
        report.require(std::fabs(code) <= 127, "code outside [-127, 127]");
        const bool near_tie = std::fabs(std::fabs(quotient - std::nearbyint(quotient)) - 0.5) < slack;
        report.compare(got[i], scalar[i], std::fabs(x) * 4 * kEps + (near_tie ? scale * (1 + slack) : 0.0),
                       "against scalar", row, i);
    }
}

void check_quantize_case(Checker& checker, StripReader& reader, StripReader& scalar_reader, Pattern pattern, int64_t n,
                         int64_t n_rows, Report& report) {
    const int64_t stride = n + 7;
    Random random(static_cast<uint64_t>(n * 100 + n_rows));
    Guarded<float> input((n_rows - 1) * stride + n);
    for (int64_t r = 0; r < n_rows; ++r) fill(pattern, input.data() + r * stride, n, random);
    const auto bytes = static_cast<int64_t>(k::strip_bytes(n));
    Guarded<uint8_t> strip(bytes), scalar(bytes);
    checker.table.quantize_strip(input.data(), stride, n_rows, n, strip.data());
    k::kScalarTable.quantize_strip(input.data(), stride, n_rows, n, scalar.data());
    report.require(strip.intact(), "wrote outside the strip");

    const std::vector<double> got = reader.read(strip.data(), n), want = scalar_reader.read(scalar.data(), n);
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t i = 0; i < n; i += kBlock) {
            check_quantised_block(input.data() + r * stride + i, &got[static_cast<size_t>(r * n + i)],
                                  &want[static_cast<size_t>(r * n + i)], pattern == Pattern::ties, r, report);
        }
    }
    for (int64_t i = n_rows * n; i < kStripRows * n; ++i) {
        report.compare(got[static_cast<size_t>(i)], 0.0, 0.0, "rows that do not exist", i / n, i % n);
    }
}

void check_quantize(Checker& checker) {
    Report report(checker.table.isa, "quantize_strip");
    StripReader reader(checker.table), scalar_reader(k::kScalarTable);
    for (const int64_t n : {32, 64, 512, 1280}) {
        if (checker.quick && n > 64) continue;
        for (const Pattern pattern : kPatterns) {
            for (int64_t n_rows = 1; n_rows <= kStripRows; ++n_rows) {
                if (n >= 512 && n_rows > 1 && n_rows < kStripRows - 1) continue;
                report.at("%s, k=%d, %d rows", name_of(pattern), static_cast<int>(n), static_cast<int>(n_rows));
                check_quantize_case(checker, reader, scalar_reader, pattern, n, n_rows, report);
            }
        }
    }
    checker.close(report);
}

// ---- pack_rows and scalar's layouts, as pack.h and kernels.h write them
// -----------------------------------------------

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

// The strip of scalar byte by byte: the other tables may have their own order, this is the one in kernels.h.
void check_scalar_strip(Checker& checker) {
    Report report(checker.table.isa, "strip layout");
    constexpr int64_t kValues = 96, kRows = 5;
    Random random(5);
    Guarded<float> input(kRows * kValues);
    fill(Pattern::normal, input.data(), input.size(), random);
    Guarded<uint8_t> strip(static_cast<int64_t>(k::strip_bytes(kValues)));
    k::kScalarTable.quantize_strip(input.data(), kValues, kRows, kValues, strip.data());
    for (int64_t b = 0; b < kValues / kBlock; ++b) {
        const uint8_t* block = strip.data() + b * k::kStripBlockBytes;
        for (int64_t r = 0; r < kStripRows; ++r) {
            report.at("block %d, row %d", static_cast<int>(b), static_cast<int>(r));
            const float* values = input.data() + r * kValues + b * kBlock;
            float scale, sum;
            int32_t offset, codes = 0;
            std::memcpy(&scale, block + kBlock * kStripRows + 4 * r, 4);
            std::memcpy(&sum, block + kBlock * kStripRows + 4 * (kStripRows + r), 4);
            std::memcpy(&offset, block + kBlock * kStripRows + 4 * (2 * kStripRows + r), 4);
            const double want = r < kRows ? greatest_of(values, kBlock) / 127.0 : 0.0;
            report.compare(static_cast<double>(scale), want, kEps * want, "scale");
            for (int64_t i = 0; i < kBlock; ++i) {
                const auto code = static_cast<int8_t>(block[(i / 4 * kStripRows + r) * 4 + i % 4]);
                codes += code;
                const double x = r < kRows ? static_cast<double>(values[i]) : 0.0;
                report.compare(want * code, x, want * 0.5001, "code", r, i);
            }
            report.compare(static_cast<double>(sum), want * codes, 2 * kEps * want * std::abs(codes),
                           "sum of the codes");
            report.require(offset == -128 * codes, "offset");
        }
    }
    checker.close(report);
}

// ---- Products
// ---------------------------------------------------------------------------------------------------------

// What happens after the sum.
struct Ending {
    bool bias, gelu;
    enum { none, elsewhere, in_place } residual;
};
constexpr Ending kEndings[] = {
    {false, false, Ending::none},     {true, false, Ending::none},    {true, true, Ending::none},
    {true, false, Ending::elsewhere}, {true, true, Ending::in_place}, {false, false, Ending::in_place},
};

// The exact product of one strip, n columns wide: sums, and the tolerance of each.
struct Truth {
    int64_t n = 0, n_values = 0;
    std::vector<double> sums, terms, scalar_off;  // [kStripRows][n]

    Truth(int64_t n_columns, int64_t values) : n(n_columns), n_values(values) {
        for (auto* of : {&sums, &terms, &scalar_off}) of->resize(static_cast<size_t>(kStripRows * n));
    }
};

// A matrix product as the engine runs it, a group of tiles and a strip at a time, whatever the kind of weights.
struct Product {
    int64_t n, tiles_per_call;
    virtual void call(int64_t first_tile, int64_t n_tiles, int64_t n_rows, int64_t n_columns, float* out,
                      int64_t out_stride, const k::Epilogue& epilogue) const = 0;
    virtual ~Product() = default;

    Product(int64_t n_columns, int64_t tiles) : n(n_columns), tiles_per_call(tiles) {}

    void run(int64_t n_rows, float* out, int64_t out_stride, const k::Epilogue& epilogue) const {
        const int64_t all = k::n_tiles(n);
        for (int64_t t = 0; t < all; t += tiles_per_call) {
            const int64_t n_tiles = std::min(tiles_per_call, all - t), column = t * kTileColumns;
            k::Epilogue part = epilogue;
            if (part.bias != nullptr) part.bias += column;
            if (part.residual != nullptr) part.residual += column;
            call(t, n_tiles, n_rows, std::min(n - column, n_tiles * kTileColumns), out + column, out_stride, part);
        }
    }
};

struct BlockProduct : Product {
    const k::KernelTable& table;
    int64_t n_values;
    bool has_minimum;
    const uint8_t* strip;
    Guarded<uint8_t> expanded;

    BlockProduct(const k::KernelTable& kernels, const k::FormatInfo& format, const uint8_t* input,
                 const std::vector<uint8_t>& packed, int64_t n_columns, int64_t values, Report& report)
        : Product(n_columns, kernels.tiles_per_call),
          table(kernels),
          n_values(values),
          has_minimum(format.has_minimum),
          strip(input),
          expanded(k::n_tiles(n_columns) * static_cast<int64_t>(k::expanded_bytes(values))) {
        Guarded<uint8_t> tile(static_cast<int64_t>(k::tile_bytes(format.format, values)));
        for (int64_t t = 0; t < k::n_tiles(n); ++t) {
            std::memcpy(tile.data(), packed.data() + t * tile.size(), static_cast<size_t>(tile.size()));
            table.expand_tile(format.format, tile.data(), values,
                              expanded.data() + static_cast<size_t>(t) * k::expanded_bytes(values));
        }
        report.require(expanded.intact(), "expand_tile wrote outside");
    }

    void call(int64_t first_tile, int64_t n_tiles, int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
              const k::Epilogue& epilogue) const override {
        table.multiply_strip(strip, expanded.data() + static_cast<size_t>(first_tile) * k::expanded_bytes(n_values),
                             n_tiles, n_values, has_minimum, n_rows, n_columns, out, out_stride, epilogue);
    }
};

struct FloatProduct : Product {
    const k::KernelTable& table;
    const float* input;
    int64_t input_stride, n_values;
    const float* panel;

    FloatProduct(const k::KernelTable& kernels, const float* rows, int64_t stride, const float* tiles,
                 int64_t n_columns, int64_t values)
        : Product(n_columns, kernels.tiles_per_call),
          table(kernels),
          input(rows),
          input_stride(stride),
          n_values(values),
          panel(tiles) {}

    void call(int64_t first_tile, int64_t n_tiles, int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
              const k::Epilogue& epilogue) const override {
        table.multiply_float(input, input_stride, panel + first_tile * n_values * kTileColumns, n_tiles, n_values,
                             n_rows, n_columns, out, out_stride, epilogue);
    }
};

constexpr int64_t kGap = 5;  // floats between rows of `out`: rows are not aligned, and the gap must stay untouched

// What the endings of a product write and read.
struct Outputs {
    Guarded<float> out, scalar_out, bias, residual;

    explicit Outputs(int64_t n) : out(kStripRows * (n + kGap)), scalar_out(out.size()), bias(n), residual(out.size()) {
        Random random(static_cast<uint64_t>(n));
        fill(Pattern::normal, bias.data(), n, random);
        fill(Pattern::normal, residual.data(), residual.size(), random);
    }
};

void check_ending(const Product& product, const Product& scalar, const Truth& truth, const Ending& ending,
                  int64_t n_rows, Outputs& outputs, Report& report) {
    const int64_t n = product.n, stride = n + kGap;
    auto& [out, scalar_out, bias, residual] = outputs;
    out.forget();
    scalar_out.forget();
    if (ending.residual == Ending::in_place) {
        for (auto* to : {&out, &scalar_out}) {
            for (int64_t r = 0; r < n_rows; ++r) {
                std::memcpy(to->data() + r * stride, residual.data() + r * stride, static_cast<size_t>(n) * 4);
            }
        }
    }
    k::Epilogue epilogue;
    epilogue.bias = ending.bias ? bias.data() : nullptr;
    epilogue.gelu = ending.gelu;
    epilogue.residual = ending.residual == Ending::elsewhere ? residual.data() : nullptr;
    if (ending.residual == Ending::in_place) epilogue.residual = out.data();
    product.run(n_rows, out.data(), stride, epilogue);
    if (ending.residual == Ending::in_place) epilogue.residual = scalar_out.data();
    scalar.run(n_rows, scalar_out.data(), stride, epilogue);

    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<size_t>(r * n + c);
            const double b = ending.bias ? static_cast<double>(bias[c]) : 0.0;
            double want = truth.sums[i] + b;
            double tolerance = k::product_tolerance(truth.n_values, truth.terms[i] + std::fabs(b));
            if (ending.gelu) {
                tolerance = kGeluSlope * tolerance + k::gelu_tolerance(want);
                want = gelu_value(want);
            }
            if (ending.residual != Ending::none) {
                const auto x = static_cast<double>(residual[r * stride + c]);
                tolerance += kEps * (std::fabs(want) + std::fabs(x));
                want += x;
            }
            report.compare(static_cast<double>(out[r * stride + c]), want, tolerance, "product", r, c);
            report.compare(static_cast<double>(out[r * stride + c]), static_cast<double>(scalar_out[r * stride + c]),
                           2 * tolerance + kGeluSlope * truth.scalar_off[i], "against scalar", r, c);
        }
        report.require(out.untouched(r * stride + n, (r + 1) * stride), "wrote behind its columns");
    }
    report.require(out.intact() && out.untouched(n_rows * stride, kStripRows * stride), "wrote behind its rows");
}

void check_endings(const Product& product, const Product& scalar, const Truth& truth, const char* what, bool quick,
                   Report& report) {
    Outputs outputs(product.n);
    for (int64_t n_rows = 1; n_rows <= kStripRows; ++n_rows) {
        if (quick && n_rows != 1 && n_rows < kStripRows - 1) continue;
        for (const Ending& ending : kEndings) {
            report.at("%s, n=%d, k=%d, %d rows%s%s%s", what, static_cast<int>(product.n),
                      static_cast<int>(truth.n_values), static_cast<int>(n_rows), ending.bias ? ", bias" : "",
                      ending.gelu ? ", gelu" : "",
                      ending.residual == Ending::none       ? ""
                      : ending.residual == Ending::in_place ? ", residual in place"
                                                            : ", residual");
            check_ending(product, scalar, truth, ending, n_rows, outputs, report);
        }
    }
}

// The widths at which tiles and groups of tiles begin and end.
std::vector<int64_t> widths(const Checker& checker) {
    const int64_t group = checker.table.tiles_per_call * kTileColumns;
    std::vector<int64_t> all = {1, 15, 16, 17, 48, 64, group - 1, group, group + 1, 2 * group - 16};
    if (checker.quick) all = {1, 17, group - 1, group + 16};
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

struct BlockCase {
    const k::FormatInfo& format;
    Pattern input;
    Weights weights;
    int64_t n, n_values;
};

// `quantised` and `scalar_quantised` are what each table made of the input: the product is exact from there on.
Truth block_truth(const BlockCase& shape, const std::vector<uint8_t>& rows, const std::vector<double>& quantised,
                  const std::vector<double>& scalar_quantised) {
    const std::vector<double> weights = ggml_values(shape.format, rows, ggml_value);
    const std::vector<double> magnitudes = ggml_values(shape.format, rows, ggml_magnitude);
    Truth truth(shape.n, shape.n_values);
    for (int64_t r = 0; r < kStripRows; ++r) {
        for (int64_t c = 0; c < shape.n; ++c) {
            const double* w = &weights[static_cast<size_t>(c * shape.n_values)];
            const double* w_terms = &magnitudes[static_cast<size_t>(c * shape.n_values)];
            const double* x = &quantised[static_cast<size_t>(r * shape.n_values)];
            const double* x_scalar = &scalar_quantised[static_cast<size_t>(r * shape.n_values)];
            const auto i = static_cast<size_t>(r * shape.n + c);
            for (int64_t j = 0; j < shape.n_values; ++j) {
                truth.sums[i] += x[j] * w[j];
                truth.terms[i] += std::fabs(x[j]) * w_terms[j];
                truth.scalar_off[i] += std::fabs((x[j] - x_scalar[j]) * w[j]);
            }
        }
    }
    return truth;
}

// The inputs of the block products, each quantised and read once.
class QuantisedInputs {
  public:
    explicit QuantisedInputs(const k::KernelTable& table) : table_(table), reader_(table) {}

    struct Entry {
        Guarded<uint8_t> strip;
        std::vector<double> values;
    };

    const Entry& get(Pattern pattern, int64_t n_values) {
        std::unique_ptr<Entry>& entry = entries_[{pattern, n_values}];
        if (!entry) {
            Random random(static_cast<uint64_t>(n_values));
            Guarded<float> input(kStripRows * n_values);
            fill(pattern, input.data(), input.size(), random);
            entry.reset(new Entry{Guarded<uint8_t>(static_cast<int64_t>(k::strip_bytes(n_values))), {}});
            table_.quantize_strip(input.data(), n_values, kStripRows, n_values, entry->strip.data());
            entry->values = exact_values(input.data(), reader_.read(entry->strip.data(), n_values));
        }
        return *entry;
    }

  private:
    // The codes that were read, times the exact scale: the product that is judged must not be its own measure.
    static std::vector<double> exact_values(const float* input, std::vector<double> values) {
        for (size_t b = 0; b < values.size(); b += kBlock) {
            const double scale = greatest_of(input + b, kBlock) / 127.0;
            for (size_t i = b; i < b + kBlock; ++i) values[i] = std::nearbyint(values[i] / scale) * scale;
        }
        return values;
    }

    const k::KernelTable& table_;
    StripReader reader_;
    std::map<std::pair<Pattern, int64_t>, std::unique_ptr<Entry>> entries_;
};

void check_block_case(Checker& checker, QuantisedInputs& inputs, QuantisedInputs& scalar_inputs, const BlockCase& shape,
                      Report& report) {
    const k::FormatInfo& f = shape.format;
    Random random(static_cast<uint64_t>(shape.n * 10000 + shape.n_values));
    const std::vector<uint8_t> rows = random_rows(f, shape.weights, shape.n, shape.n_values, random);
    std::vector<uint8_t> packed(k::packed_bytes(f.format, shape.n, shape.n_values));
    k::pack_rows(f.format, rows.data(), 0, shape.n, shape.n_values, packed.data());

    char what[100];
    std::snprintf(what, sizeof what, "%s (%s) with inputs %s", f.name, name_of(shape.weights), name_of(shape.input));
    report.at("%s, n=%d, k=%d", what, static_cast<int>(shape.n), static_cast<int>(shape.n_values));
    const QuantisedInputs::Entry& input = inputs.get(shape.input, shape.n_values);
    const QuantisedInputs::Entry& scalar_input = scalar_inputs.get(shape.input, shape.n_values);
    const BlockProduct product(checker.table, f, input.strip.data(), packed, shape.n, shape.n_values, report);
    const BlockProduct scalar(k::kScalarTable, f, scalar_input.strip.data(), packed, shape.n, shape.n_values, report);
    const Truth truth = block_truth(shape, rows, input.values, scalar_input.values);
    check_endings(product, scalar, truth, what, checker.quick, report);
}

void check_multiply_strip(Checker& checker) {
    QuantisedInputs inputs(checker.table), scalar_inputs(k::kScalarTable);
    struct Pair {
        Pattern input;
        Weights weights;
    };
    const Pair pairs[] = {{Pattern::normal, Weights::random},   {Pattern::all_min, Weights::all_min},
                          {Pattern::all_max, Weights::all_min}, {Pattern::all_min, Weights::all_max},
                          {Pattern::all_max, Weights::all_max}, {Pattern::outliers, Weights::outliers}};
    for (const k::FormatInfo& format : kFormats) {
        if (format.bits == 0) continue;
        char name[32];
        std::snprintf(name, sizeof name, "multiply_strip %s", format.name);
        Report report(checker.table.isa, name);
        for (const int64_t n_values : {32, 64, 512, 1280}) {
            if (checker.quick && n_values > 512) continue;
            for (const int64_t n : widths(checker)) {
                if (checker.quick && n_values > 64 && n > 17) continue;
                for (const Pair& pair : pairs) {
                    if (n_values > (checker.quick ? 64 : 512) && pair.input != Pattern::normal) continue;
                    check_block_case(checker, inputs, scalar_inputs, {format, pair.input, pair.weights, n, n_values},
                                     report);
                }
            }
        }
        checker.close(report);
    }
}

void check_float_case(Checker& checker, Pattern pattern, int64_t n, int64_t n_values, int64_t stride, Report& report) {
    Random random(static_cast<uint64_t>(n * 10000 + n_values));
    Guarded<float> input((kStripRows - 1) * stride + n_values);
    fill(pattern, input.data(), input.size(), random);
    Guarded<float> panel(k::n_tiles(n) * n_values * kTileColumns);
    fill(pattern, panel.data(), panel.size(), random);

    Truth truth(n, n_values);
    for (int64_t r = 0; r < kStripRows; ++r) {
        for (int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<size_t>(r * n + c);
            for (int64_t j = 0; j < n_values; ++j) {
                const double term =
                    static_cast<double>(input[r * stride + j]) *
                    static_cast<double>(panel[(c / kTileColumns * n_values + j) * kTileColumns + c % kTileColumns]);
                truth.sums[i] += term;
                truth.terms[i] += std::fabs(term);
            }
        }
    }
    char what[100];
    std::snprintf(what, sizeof what, "%s, rows %d apart", name_of(pattern), static_cast<int>(stride));
    check_endings(FloatProduct(checker.table, input.data(), stride, panel.data(), n, n_values),
                  FloatProduct(k::kScalarTable, input.data(), stride, panel.data(), n, n_values), truth, what,
                  checker.quick, report);
}

void check_multiply_float(Checker& checker) {
    Report report(checker.table.isa, "multiply_float");
    struct Shape {
        int64_t n_values, stride;  // a stride below n_values: rows overlap
    };
    const std::vector<Shape> shapes = {{1, 16}, {33, 48}, {240, 80}, {240, 83}, {384, 128}, {512, 512}, {1280, 1280}};
    for (const Shape& shape : shapes) {
        if (checker.quick && shape.n_values > 384) continue;
        for (const int64_t n : widths(checker)) {
            for (const Pattern pattern : {Pattern::normal, Pattern::zeros, Pattern::all_min, Pattern::outliers}) {
                if (shape.n_values > 384 && pattern != Pattern::normal) continue;
                check_float_case(checker, pattern, n, shape.n_values, shape.stride, report);
            }
        }
    }
    checker.close(report);
}

// ---- multiply_packed and multiply_half: the same to the bit as with expanded weights, which were proven above
// -----------------------------------------------------------------------------------------------

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

// ---- half_to_float
// ----------------------------------------------------------------------------------------------------

bool same_half(float got, uint16_t half) {
    const double want = half_value(half);
    if (std::isnan(want)) return std::isnan(got);
    return static_cast<double>(got) == want && std::signbit(got) == std::signbit(want);
}

void check_half_to_float(Checker& checker) {
    Report report(checker.table.isa, "half_to_float");
    constexpr int64_t kAll = 65536;
    Guarded<uint16_t> halves(kAll);
    for (int64_t i = 0; i < kAll; ++i) halves[i] = static_cast<uint16_t>(i);
    Guarded<float> out(kAll);
    report.at("all");
    checker.table.half_to_float(halves.data(), kAll, out.data());
    for (int64_t i = 0; i < kAll; ++i) report.require(same_half(out[i], halves[i]), "value");
    report.require(out.intact(), "wrote outside");

    for (int64_t n = 0; n <= 67; ++n) {
        report.at("%d values", static_cast<int>(n));
        Guarded<uint16_t> few(n);
        for (int64_t i = 0; i < n; ++i) few[i] = static_cast<uint16_t>(i * 977);
        Guarded<float> to(n);
        checker.table.half_to_float(few.data(), n, to.data());
        for (int64_t i = 0; i < n; ++i) report.require(same_half(to[i], few[i]), "value");
        report.require(to.intact(), "wrote outside");
    }
    checker.close(report);
}

// ---- float_to_half
// ----------------------------------------------------------------------------------------------------

void check_float_to_half(Checker& checker) {
    Report report(checker.table.isa, "float_to_half");
    constexpr int64_t kAll = 65536;
    Guarded<float> values(kAll);
    Guarded<uint16_t> halves(kAll);
    report.at("every half");
    for (int64_t i = 0; i < kAll; ++i) values[i] = static_cast<float>(half_value(static_cast<uint16_t>(i)));
    checker.table.float_to_half(values.data(), kAll, halves.data());
    for (int64_t i = 0; i < kAll; ++i) report.require(same_half(values[i], halves[i]), "value");

    report.at("between two halves");  // the middle goes to the even one, its neighbours to theirs
    for (int64_t i = 0; i < 0x7bff; ++i) {
        const double low = half_value(static_cast<uint16_t>(i)), high = half_value(static_cast<uint16_t>(i + 1));
        const auto middle = static_cast<float>(0.5 * (low + high));
        const float around[] = {std::nextafterf(middle, 0.0f), middle, std::nextafterf(middle, HUGE_VALF)};
        uint16_t rounded[3];
        checker.table.float_to_half(around, 3, rounded);
        report.require(rounded[0] == i && rounded[1] == i + i % 2 && rounded[2] == i + 1, "value");
    }
    report.at("too large");
    const float large[] = {65519.99f, 65520.0f, -1e30f, HUGE_VALF};
    uint16_t rounded[4];
    checker.table.float_to_half(large, 4, rounded);
    report.require(rounded[0] == 0x7bff && rounded[1] == 0x7c00 && rounded[2] == 0xfc00 && rounded[3] == 0x7c00,
                   "value");

    for (int64_t n = 0; n <= 67; ++n) {
        report.at("%d values", static_cast<int>(n));
        Guarded<float> few(n);
        Guarded<uint16_t> to(n);
        for (int64_t i = 0; i < n; ++i) few[i] = static_cast<float>(i) - 30.0f;
        checker.table.float_to_half(few.data(), n, to.data());
        for (int64_t i = 0; i < n; ++i) report.require(same_half(few[i], to[i]), "value");
        report.require(to.intact(), "wrote outside");
    }
    checker.close(report);
}

// ---- layer_norm
// -------------------------------------------------------------------------------------------------------

// The mean is off by sqrt(n) roundings of mean |x|, which moves every value; the variance and the rest by the same
// number of roundings of themselves, and by the square of the mean's error.
void check_layer_norm_row(const float* x, int64_t n, const float* weight, const float* bias, const float* got,
                          const float* scalar, int64_t row, Report& report) {
    const auto count = static_cast<double>(n);
    double mean = 0.0, magnitude = 0.0, variance = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        mean += static_cast<double>(x[i]) / count;
        magnitude += std::fabs(static_cast<double>(x[i])) / count;
    }
    for (int64_t i = 0; i < n; ++i) {
        variance += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean) / count;
    }
    const double factor = 1.0 / std::sqrt(variance + 1e-5);
    const double roundings = kEps * std::sqrt(count + 4);
    const double shift = roundings * magnitude * factor;
    for (int64_t i = 0; i < n; ++i) {
        const double normalised = (static_cast<double>(x[i]) - mean) * factor;
        const auto w = static_cast<double>(weight[i]), b = static_cast<double>(bias[i]);
        const double want = normalised * w + b;
        const double moved = shift + kEps * std::fabs(static_cast<double>(x[i])) * factor;
        const double tolerance = std::fabs(w) * (moved + (roundings + shift * shift) * std::fabs(normalised)) +
                                 kEps * (std::fabs(want) + std::fabs(b));
        report.compare(static_cast<double>(got[i]), want, tolerance, "value", row, i);
        report.compare(static_cast<double>(got[i]), static_cast<double>(scalar[i]), tolerance, "against scalar", row,
                       i);
    }
}

void check_layer_norm_case(Checker& checker, Pattern pattern, float offset, int64_t n_rows, int64_t n, bool in_place,
                           Report& report) {
    Random random(static_cast<uint64_t>(n * 10 + n_rows));
    Guarded<float> input(n_rows * n), work(n_rows * n), scalar(n_rows * n), weight(n), bias(n);
    fill(pattern, input.data(), input.size(), random);
    for (int64_t i = 0; i < input.size(); ++i) input[i] += offset;
    fill(Pattern::normal, weight.data(), n, random);
    fill(Pattern::normal, bias.data(), n, random);
    if (in_place) std::memcpy(work.data(), input.data(), static_cast<size_t>(input.size()) * 4);
    checker.table.layer_norm(in_place ? work.data() : input.data(), n_rows, n, weight.data(), bias.data(), work.data());
    k::kScalarTable.layer_norm(input.data(), n_rows, n, weight.data(), bias.data(), scalar.data());
    for (int64_t r = 0; r < n_rows; ++r) {
        check_layer_norm_row(input.data() + r * n, n, weight.data(), bias.data(), work.data() + r * n,
                             scalar.data() + r * n, r, report);
    }
    report.require(work.intact() && input.intact(), "wrote outside");
}

void check_layer_norm(Checker& checker) {
    Report report(checker.table.isa, "layer_norm");
    struct Input {
        Pattern pattern;
        float offset;
    };
    for (const Input& input :
         {Input{Pattern::normal, 0.0f}, Input{Pattern::normal, 1000.0f}, Input{Pattern::zeros, 0.0f},
          Input{Pattern::all_max, 0.0f}, Input{Pattern::outliers, 0.0f}, Input{Pattern::denormals, 0.0f}}) {
        for (const int64_t n : {1, 16, 31, 33, 64, 384, 512, 1280}) {
            for (int64_t n_rows = 1; n_rows <= kStripRows; ++n_rows) {
                if (checker.quick && n_rows != 1 && n_rows != kStripRows - 1) continue;
                for (const bool in_place : {false, true}) {
                    if (checker.quick && in_place && n > 64) continue;
                    report.at("%s + %g, %d rows of %d%s", name_of(input.pattern), static_cast<double>(input.offset),
                              static_cast<int>(n_rows), static_cast<int>(n), in_place ? ", in place" : "");
                    check_layer_norm_case(checker, input.pattern, input.offset, n_rows, n, in_place, report);
                }
            }
        }
    }
    checker.close(report);
}

// ---- gelu
// -------------------------------------------------------------------------------------------------------------

void check_gelu_values(Checker& checker, const std::vector<float>& values, Report& report) {
    const auto n = static_cast<int64_t>(values.size());
    Guarded<float> got(n), scalar(n);
    for (auto* to : {&got, &scalar}) {
        for (int64_t i = 0; i < n; ++i) (*to)[i] = values[static_cast<size_t>(i)];
    }
    checker.table.gelu(got.data(), n);
    k::kScalarTable.gelu(scalar.data(), n);
    for (int64_t i = 0; i < n; ++i) {
        const auto x = static_cast<double>(values[static_cast<size_t>(i)]);
        const double tolerance = k::gelu_tolerance(x);
        report.compare(static_cast<double>(got[i]), gelu_value(x), tolerance, "value", i);
        report.compare(static_cast<double>(got[i]), static_cast<double>(scalar[i]), tolerance, "against scalar", i);
    }
    report.require(got.intact(), "wrote outside");
}

void check_gelu(Checker& checker) {
    Report report(checker.table.isa, "gelu");
    std::vector<float> sweep;
    const double step = checker.quick ? 1e-3 : 2e-5;
    for (double x = -12.0; x <= 12.0; x += step) sweep.push_back(static_cast<float>(x));
    report.at("-12 to 12");
    check_gelu_values(checker, sweep, report);

    report.at("extremes");
    std::vector<float> extremes = {0.0f, -0.0f};
    for (const float x : {1e-45f, 1e-39f, 1e-30f, 1e-8f, 20.0f, 100.0f, 1e4f, 1e18f, 1e20f, 3e38f}) {
        extremes.push_back(x);
        extremes.push_back(-x);
    }
    check_gelu_values(checker, extremes, report);

    Random random(3);
    for (int64_t n = 0; n <= 67; ++n) {
        report.at("%d values", static_cast<int>(n));
        std::vector<float> values(static_cast<size_t>(n));
        fill(Pattern::normal, values.data(), n, random);
        check_gelu_values(checker, values, report);
    }
    checker.close(report);
}

// ---- attention
// --------------------------------------------------------------------------------------------------------

struct AttentionCase {
    int64_t n_queries, n_keys;
    double spread;  // of the scores: their standard deviation; 0: all values the same
    double common;  // what is added to one dimension of all keys
    bool exact;
};

constexpr int64_t kWide = 3 * k::kHeadSize + 7;  // floats between rows: other heads lie beside this one

struct AttentionInput {
    Guarded<float> q, key, value;

    explicit AttentionInput(const AttentionCase& shape)
        : q(rows_floats(shape.n_queries)), key(rows_floats(shape.n_keys)), value(rows_floats(shape.n_keys)) {
        Random random(static_cast<uint64_t>(shape.n_queries * 10000 + shape.n_keys));
        fill_rows(q, shape.n_queries, shape.spread, random);
        fill_rows(key, shape.n_keys, 1.0, random);
        fill_rows(value, shape.n_keys, 1.0, random);
        for (int64_t r = 0; r < shape.n_keys; ++r) key[r * kWide + 5] += static_cast<float>(shape.common);
        if (shape.spread == 0.0) {
            for (auto* all : {&q, &key, &value}) {
                for (int64_t i = 0; i < all->size(); ++i) (*all)[i] = 1.25f;
            }
        }
    }

    // The last row ends where the buffer does.
    static int64_t rows_floats(int64_t n) { return (n - 1) * kWide + k::kHeadSize; }

  private:
    // A sum of 64 products of variance 1, divided by 8, has variance 1.
    static void fill_rows(Guarded<float>& rows, int64_t n, double spread, Random& random) {
        for (int64_t r = 0; r < n; ++r) {
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                rows[r * kWide + i] = static_cast<float>(spread) * random.normal();
            }
        }
    }
};

// One query in double precision, with what rounding may do to it.
//
// In float a score is off by sqrt(64) roundings of its terms, which (with exp's own error) scales the key's probability
// by as much: out moves by p |v - out| times that, and by sqrt(n_keys) roundings of the sum.
//
// Rounding to int8 moves each value of a query and of a key, less the mean of the keys, by an even distribution over
// one step, of which 127 are the row's greatest; rounding to bf16 moves each probability and each value by 2^-8 at
// most. In random directions: variances add up. Eight standard deviations, since millions are compared.
struct AttentionTruth {
    std::vector<double> out, tolerance;

    AttentionTruth(const AttentionCase& shape, const AttentionInput& input, int64_t query)
        : out(k::kHeadSize), tolerance(k::kHeadSize) {
        const auto n = static_cast<size_t>(shape.n_keys);
        std::vector<double> p(n), float_error(n), code_error(n), mean(k::kHeadSize);
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            for (int64_t j = 0; j < shape.n_keys; ++j) {
                mean[static_cast<size_t>(i)] += static_cast<double>(input.key[j * kWide + i]) / static_cast<double>(n);
            }
        }
        double greatest = -HUGE_VAL, sum = 0.0;
        for (size_t j = 0; j < n; ++j) {
            double terms = 0.0;
            Row q, key;
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                const auto a = static_cast<double>(input.q[query * kWide + i]);
                const auto b = static_cast<double>(input.key[static_cast<int64_t>(j) * kWide + i]);
                p[j] += a * b / 8;
                terms += std::fabs(a * b / 8);
                q.add(a);
                key.add(b - mean[static_cast<size_t>(i)]);
            }
            float_error[j] = kEps * 8 * (terms + 1);
            code_error[j] = std::sqrt(q.step_variance() * key.squares + key.step_variance() * q.squares) / 8;
            greatest = std::max(greatest, p[j]);
        }
        for (double& score : p) {
            score = std::exp(score - greatest);
            sum += score;
        }
        for (double& score : p) score /= sum;
        for (int64_t i = 0; i < k::kHeadSize; ++i) add_column(shape, input, p, float_error, code_error, i);
    }

  private:
    static constexpr double kHalfEps = 0x1p-8;  // half an eps of bf16
    static constexpr double kDeviations = 8;

    // What a row of values is known by.
    struct Row {
        double squares = 0.0, greatest = 0.0;

        void add(double value) {
            squares += value * value;
            greatest = std::max(greatest, std::fabs(value));
        }
        double step_variance() const { return greatest * greatest / (127.0 * 127.0) / 12; }
    };

    void add_column(const AttentionCase& shape, const AttentionInput& input, const std::vector<double>& p,
                    const std::vector<double>& float_error, const std::vector<double>& code_error, int64_t i) {
        const auto column = static_cast<size_t>(i);
        double magnitude = 0.0, moved = 0.0, variance = 0.0;
        for (size_t j = 0; j < p.size(); ++j) {
            out[column] += p[j] * static_cast<double>(input.value[static_cast<int64_t>(j) * kWide + i]);
        }
        for (size_t j = 0; j < p.size(); ++j) {
            const auto v = static_cast<double>(input.value[static_cast<int64_t>(j) * kWide + i]);
            const double distance = std::fabs(v) + std::fabs(out[column]);
            magnitude += p[j] * std::fabs(v);
            moved += p[j] * distance * std::expm1(float_error[j]);
            const double score = std::expm1(kDeviations * code_error[j]) * distance;
            const double rounding = kDeviations * kHalfEps * (distance + std::fabs(v));
            variance += p[j] * p[j] * (score * score + rounding * rounding);
        }
        tolerance[column] = moved + 2 * kEps * std::sqrt(static_cast<double>(shape.n_keys + 4)) * magnitude;
        if (!shape.exact) tolerance[column] += std::sqrt(variance);
    }
};

void check_attention_case(Checker& checker, const AttentionCase& shape, Report& report) {
    report.at("%d queries, %d keys, scores +-%g, all keys +%g%s", static_cast<int>(shape.n_queries),
              static_cast<int>(shape.n_keys), 3 * shape.spread, shape.common, shape.exact ? ", exact" : "");
    const AttentionInput input(shape);
    const int64_t stride = k::kHeadSize + kGap;
    Guarded<float> out((shape.n_queries - 1) * stride + k::kHeadSize), scalar(out.size());
    Guarded<float> scratch(static_cast<int64_t>(k::attention_scratch_floats(shape.n_keys)));
    const auto run = [&](const k::KernelTable& table, Guarded<float>& to) {
        scratch.forget();
        table.attention(input.q.data(), kWide, input.key.data(), kWide, input.value.data(), kWide, shape.n_queries,
                        shape.n_keys, shape.exact, to.data(), stride, scratch.data());
    };
    run(k::kScalarTable, scalar);
    run(checker.table, out);
    report.require(scratch.intact(), "wrote outside its scratch");
    report.require(out.intact(), "wrote outside");
    for (int64_t m = 0; m < shape.n_queries; ++m) {
        const AttentionTruth truth(shape, input, m);
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            const auto column = static_cast<size_t>(i);
            const auto got = static_cast<double>(out[m * stride + i]);
            report.compare(got, truth.out[column], truth.tolerance[column], "value", m, i);
            report.compare(got, static_cast<double>(scalar[m * stride + i]), 2 * truth.tolerance[column],
                           "against scalar", m, i);
        }
        if (m + 1 < shape.n_queries) {
            report.require(out.untouched(m * stride + k::kHeadSize, (m + 1) * stride), "wrote behind its columns");
        }
    }
}

void check_attention(Checker& checker) {
    for (const bool exact : {true, false}) {
        Report report(checker.table.isa, exact ? "attention exact" : "attention");
        for (const int64_t n_keys : {1, 2, 31, 63, 64, 65, 200, 1500}) {
            for (const int64_t n_queries : {1, 5, 15, 16, 17, 33}) {
                const bool large = n_keys > 200;
                if (large && n_queries != 1 && n_queries != 17 && n_queries != 33) continue;
                if (checker.quick && n_queries != 1 && n_queries != 17) continue;
                for (const double spread : {0.0, 1.0, 20.0}) {
                    if (checker.quick && large && (n_queries == 1 || spread == 0.0)) continue;
                    check_attention_case(checker, {n_queries, n_keys, spread, 0.0, exact}, report);
                }
                if (n_keys == 200) check_attention_case(checker, {n_queries, n_keys, 1.0, 50.0, exact}, report);
            }
        }
        checker.close(report);
    }
}

// ---- Attention over a cache
// -------------------------------------------------------------------------------------------

// Keys or values in blocks that lie anywhere, as a cache has them, and the numbers that are in them.
class CacheBlocks {
  public:
    CacheBlocks(k::CacheType type, bool keys, int64_t n_keys, Random& random)
        : type_(type), numbers_(static_cast<size_t>(n_keys * k::kHeadSize)) {
        for (int64_t b = 0; b < k::n_key_blocks(n_keys); ++b) {
            const auto bytes = static_cast<int64_t>(k::key_block_bytes(type));
            memory_.push_back(std::make_unique<Guarded<uint8_t>>(kOffset + bytes));
            std::memset(memory_.back()->data(), 0, static_cast<size_t>(kOffset + bytes));
            blocks_.push_back(memory_.back()->data());
        }
        for (int64_t j = 0; j < n_keys; ++j) {
            uint8_t* block = memory_[static_cast<size_t>(j / k::kKeyBlock)]->data() + kOffset;
            const int64_t in_block = j % k::kKeyBlock;
            const float scale = 0.01f + 0.01f * static_cast<float>(random.uniform());
            if (k::has_codes(type)) {
                std::memcpy(block + k::code_bytes(type) + in_block * 4, &scale, sizeof scale);
            }
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                numbers_[static_cast<size_t>(j * k::kHeadSize + i)] =
                    put(block, place(keys, in_block, i), scale, random);
            }
        }
    }

    const uint8_t* const* blocks() const { return blocks_.data(); }
    static constexpr size_t offset() { return kOffset; }
    double number(int64_t j, int64_t i) const { return numbers_[static_cast<size_t>(j * k::kHeadSize + i)]; }

    // How far rounded probabilities may move value i of a mix: half a step a token, times its code, at most. A block's
    // step is the greatest of its probabilities times scales, by 127.
    double rounding(const float* probabilities, int64_t i) const {
        double moved = 0.0;
        for (size_t b = 0; b < blocks_.size(); ++b) {
            double greatest = 0.0, codes = 0.0;
            for (int64_t j = 0; j < k::kKeyBlock; ++j) {
                float scale;
                const uint8_t* block = blocks_[b] + kOffset;
                std::memcpy(&scale, block + k::code_bytes(type_) + j * 4, sizeof scale);
                const float probability = probabilities[static_cast<int64_t>(b) * k::kKeyBlock + j];
                greatest = std::max(greatest, static_cast<double>(scale) * static_cast<double>(probability));
                const int64_t token = static_cast<int64_t>(b) * k::kKeyBlock + j;
                if (token * k::kHeadSize < static_cast<int64_t>(numbers_.size())) {
                    codes += std::fabs(number(token, i)) / static_cast<double>(scale);
                }
            }
            moved += 1.01 * 0.5 * greatest / 127 * codes;
        }
        return moved;
    }

  private:
    static constexpr int64_t kOffset = 128;

    // Of value i of key (or value) j in a block.
    int64_t place(bool keys, int64_t j, int64_t i) const {
        if (k::has_codes(type_)) {
            return keys ? (i / 4 * k::kKeyBlock + j) * 4 + i % 4 : i / 16 * 256 + j / 4 * 64 + i % 16 * 4 + j % 4;
        }
        return keys ? i * k::kKeyBlock + j : j * k::kHeadSize + i;
    }

    double put(uint8_t* block, int64_t at, float scale, Random& random) const {
        const float value = random.normal();
        if (k::has_codes(type_)) {
            const int most = k::most_code(type_);
            const int code = random.below(2 * most + 1) - most;
            if (type_ == k::CacheType::int8) {
                block[at] = static_cast<uint8_t>(code);
            } else {
                put_six_bits(block, at, static_cast<unsigned>(code + 32));
            }
            return static_cast<double>(scale) * code;
        }
        if (type_ == k::CacheType::f16) {
            uint16_t bits;
            k::kScalarTable.float_to_half(&value, 1, &bits);
            std::memcpy(block + at * 2, &bits, sizeof bits);
            return half_value(bits);
        }
        std::memcpy(block + at * 4, &value, sizeof value);
        return static_cast<double>(value);
    }

    // As the contract draws it (six_bits.h), into a block of zeros.
    static void put_six_bits(uint8_t* block, int64_t at, unsigned bits) {
        uint8_t* four_rows = block + at / 256 * 192 + at % 64;
        const auto row = static_cast<unsigned>(at / 64 % 4);
        four_rows[row / 2 * 64] |= static_cast<uint8_t>((bits & 15) << row % 2 * 4);
        four_rows[128] |= static_cast<uint8_t>((bits >> 4) << row * 2);
    }

    k::CacheType type_;
    std::vector<std::unique_ptr<Guarded<uint8_t>>> memory_;
    std::vector<const uint8_t*> blocks_;
    std::vector<double> numbers_;
};

void check_quantize_head_case(Checker& checker, Pattern pattern, int most, Report& report) {
    report.at("%s, codes to %d", name_of(pattern), most);
    Random random(7);
    Guarded<float> values(k::kHeadSize);
    fill(pattern, values.data(), values.size(), random);
    Guarded<int8_t> codes(k::kHeadSize);
    float scale = -1.0f;
    checker.table.quantize_head(values.data(), most, codes.data(), &scale);
    report.require(codes.intact(), "wrote outside");
    const double exact = greatest_of(values.data(), k::kHeadSize) / most;
    if (exact < kLeastScale) {
        report.compare(static_cast<double>(scale), exact, kLeastScale, "scale", 0, 0);
    } else {
        report.compare(static_cast<double>(scale), exact, 2 * kEps * exact, "scale", 0, 0);
    }
    for (int64_t i = 0; i < k::kHeadSize; ++i) {
        report.require(std::abs(codes[i]) <= most, "code beyond the greatest");
        const double tolerance = exact < kLeastScale ? (most + 1) * kLeastScale : exact * (0.5 + 4 * most * kEps);
        report.compare(static_cast<double>(scale) * codes[i], static_cast<double>(values[i]), tolerance, "value", 0, i);
    }
}

void check_quantize_head(Checker& checker) {
    Report report(checker.table.isa, "quantize_head");
    for (const k::CacheType type : {k::CacheType::int8, k::CacheType::int6}) {
        for (const Pattern pattern : kPatterns) check_quantize_head_case(checker, pattern, k::most_code(type), report);
    }
    checker.close(report);
}

void check_score_keys_case(Checker& checker, k::CacheType type, int64_t n_queries, int64_t n_keys, Report& report) {
    Random random(static_cast<uint64_t>(n_keys * 100 + n_queries));
    const CacheBlocks keys(type, true, n_keys, random);
    const int64_t q_stride = k::kHeadSize + 5, padded = k::n_key_blocks(n_keys) * k::kKeyBlock, stride = padded + 16;
    Guarded<float> q((n_queries - 1) * q_stride + k::kHeadSize), scores((n_queries - 1) * stride + padded);
    fill(Pattern::normal, q.data(), q.size(), random);
    checker.table.score_keys(q.data(), q_stride, n_queries, keys.blocks(), keys.offset(), type, n_keys, scores.data(),
                             stride);
    report.require(scores.intact(), "wrote outside");
    for (int64_t m = 0; m < n_queries; ++m) {
        Guarded<float> alone(padded);  // a query's scores do not depend on the others
        checker.table.score_keys(q.data() + m * q_stride, q_stride, 1, keys.blocks(), keys.offset(), type, n_keys,
                                 alone.data(), padded);
        // Half of the step that a query is rounded to moves a score by that much times its key, at most.
        const double step = type == k::CacheType::int8 ? greatest_of(q.data() + m * q_stride, k::kHeadSize) / 127 : 0.0;
        for (int64_t j = 0; j < n_keys; ++j) {
            double want = 0.0, terms = 0.0, moved = 0.0;
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                const double term = static_cast<double>(q[m * q_stride + i]) * keys.number(j, i) / 8;
                want += term;
                terms += std::fabs(term);
                moved += 0.5 * step * std::fabs(keys.number(j, i)) / 8;
            }
            report.compare(static_cast<double>(scores[m * stride + j]), want,
                           1.01 * moved + k::product_tolerance(k::kHeadSize, terms), "score", m, j);
            report.require(scores[m * stride + j] == alone[j], "depends on the other queries");
        }
    }
}

void check_mix_values_case(Checker& checker, k::CacheType type, int64_t n_queries, int64_t n_keys, Report& report) {
    Random random(static_cast<uint64_t>(n_keys * 100 + n_queries));
    const CacheBlocks values(type, false, n_keys, random);
    const int64_t padded = k::n_key_blocks(n_keys) * k::kKeyBlock, out_stride = k::kHeadSize + 16;
    Guarded<float> p((n_queries - 1) * padded + padded), out((n_queries - 1) * out_stride + k::kHeadSize);
    for (int64_t i = 0; i < p.size(); ++i) {
        p[i] = i % padded < n_keys ? static_cast<float>(random.uniform()) / static_cast<float>(n_keys) : 0.0f;
    }
    checker.table.mix_values(p.data(), padded, n_queries, values.blocks(), values.offset(), type, n_keys, out.data(),
                             out_stride);
    report.require(out.intact(), "wrote outside");
    for (int64_t m = 0; m < n_queries; ++m) {
        Guarded<float> alone(k::kHeadSize);
        checker.table.mix_values(p.data() + m * padded, padded, 1, values.blocks(), values.offset(), type, n_keys,
                                 alone.data(), out_stride);
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            double want = 0.0, terms = 0.0;
            for (int64_t j = 0; j < n_keys; ++j) {
                const double term = static_cast<double>(p[m * padded + j]) * values.number(j, i);
                want += term;
                terms += std::fabs(term);
            }
            double tolerance = k::product_tolerance(n_keys, terms);
            if (k::has_codes(type)) tolerance += values.rounding(p.data() + m * padded, i);
            report.compare(static_cast<double>(out[m * out_stride + i]), want, tolerance, "value", m, i);
            report.require(out[m * out_stride + i] == alone[i], "depends on the other queries");
        }
    }
}

template <class Case>
void check_cached(Checker& checker, const char* kernel, std::initializer_list<k::CacheType> types,
                  const Case& check_case) {
    Report report(checker.table.isa, kernel);
    for (const k::CacheType type : types) {
        for (const int64_t n_keys : {1, 15, 16, 17, 63, 64, 100, 448, 1500}) {
            if (checker.quick && n_keys > 100) continue;
            for (const int64_t n_queries : {1, 2, 3, 4, 5, 8}) {
                report.at("type %d, %d queries, %d keys", static_cast<int>(type), static_cast<int>(n_queries),
                          static_cast<int>(n_keys));
                check_case(checker, type, n_queries, n_keys, report);
            }
        }
    }
    checker.close(report);
}

void check_softmax(Checker& checker) {
    Report report(checker.table.isa, "softmax");
    for (const int64_t n : {1, 2, 15, 16, 17, 100, 448, 1500}) {
        for (const float spread : {0.0f, 1.0f, 20.0f}) {
            report.at("%d scores, +-%g", static_cast<int>(n), static_cast<double>(spread));
            Random random(static_cast<uint64_t>(n));
            const int64_t padded = k::n_key_blocks(n) * k::kKeyBlock;
            Guarded<float> scores(padded);
            std::vector<double> exact(static_cast<size_t>(n));
            double greatest = -HUGE_VAL, sum = 0.0;
            for (int64_t i = 0; i < n; ++i) {
                scores[i] = spread * random.normal();
                exact[static_cast<size_t>(i)] = static_cast<double>(scores[i]);
                greatest = std::max(greatest, exact[static_cast<size_t>(i)]);
            }
            for (const double score : exact) sum += std::exp(score - greatest);
            checker.table.softmax(scores.data(), n);
            report.require(scores.intact(), "wrote outside");
            for (int64_t i = 0; i < n; ++i) {
                const double distance = greatest - exact[static_cast<size_t>(i)], want = std::exp(-distance) / sum;
                report.compare(static_cast<double>(scores[i]), want, k::softmax_tolerance(want, distance, n),
                               "probability", 0, i);
            }
            for (int64_t i = n; i < padded; ++i) report.require(scores[i] == 0.0f, "not 0 behind the scores");
        }
    }
    checker.close(report);
}

// ---- The program
// ------------------------------------------------------------------------------------------------------

void on_crash(int signal) {
    if (Report::current() != nullptr) Report::current()->crashed(signal);
    std::_Exit(1);
}

std::vector<Result> check_isa(const k::KernelTable& table, bool quick) {
    Checker checker{table, quick, {}};
    if (&table == &k::kScalarTable) {
        check_pack(checker);
        check_scalar_strip(checker);
    }
    check_quantize(checker);
    check_multiply_strip(checker);
    check_multiply_float(checker);
    check_multiply_packed(checker);
    check_multiply_half(checker);
    check_half_to_float(checker);
    check_float_to_half(checker);
    check_layer_norm(checker);
    check_gelu(checker);
    check_attention(checker);
    check_quantize_head(checker);
    using Type = k::CacheType;
    check_cached(checker, "score_keys", {Type::f32, Type::f16, Type::int8}, check_score_keys_case);
    check_softmax(checker);
    check_cached(checker, "mix_values", {Type::f32, Type::f16, Type::int8, Type::int6}, check_mix_values_case);
    return checker.results;
}

struct Options {
    std::string isa;
    bool quick = false, bench = false, json = false, list = false;
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.rfind("--isa=", 0) == 0) {
            options.isa = argument.substr(6);
        } else if (argument == "--quick") {
            options.quick = true;
        } else if (argument == "--readable-guards") {
            guards_are_readable() = true;
        } else if (argument == "--bench") {
            options.bench = true;
        } else if (argument == "--json") {
            options.json = true;
        } else if (argument == "--list") {
            options.list = true;
        } else {
            std::fprintf(stderr,
                         "%s: unknown option; check_kernels [--isa=NAME] [--quick] [--readable-guards] [--bench] "
                         "[--json] [--list]\n",
                         argv[i]);
            std::exit(2);
        }
    }
    return options;
}

void print_result(const Result& result) {
    std::printf("%-12s %-20s %9lld comparisons, worst error %5.3f of its tolerance%s\n", result.isa.c_str(),
                result.kernel.c_str(), static_cast<long long>(result.count), result.worst,
                result.failures == 0 ? "" : (", " + std::to_string(result.failures) + " FAILED").c_str());
    std::fflush(stdout);
}

void print_json(const char* chosen, const std::vector<Result>& results, const std::vector<Timing>& timings) {
    std::printf("{\"chosen\": \"%s\", \"isas\": [", chosen);
    const char* comma = "";
    for (const k::IsaInfo& isa : k::isas()) {
        std::printf("%s{\"name\": \"%s\", \"built\": %s, \"supported\": %s}", comma, isa.name,
                    isa.built ? "true" : "false", isa.supported ? "true" : "false");
        comma = ", ";
    }
    std::printf("],\n \"checks\": [");
    comma = "";
    for (const Result& r : results) {
        std::printf("%s\n  {\"isa\": \"%s\", \"kernel\": \"%s\", \"count\": %lld, \"failures\": %lld, \"worst\": %.4f}",
                    comma, r.isa.c_str(), r.kernel.c_str(), static_cast<long long>(r.count),
                    static_cast<long long>(r.failures), r.worst);
        comma = ",";
    }
    std::printf("],\n \"bench\": [");
    comma = "";
    for (const Timing& t : timings) {
        std::printf(
            "%s\n  {\"isa\": \"%s\", \"kernel\": \"%s\", \"shape\": \"%s\", \"unit\": \"%s\", \"rate\": %.3f, "
            "\"peak\": %.3f}",
            comma, t.isa.c_str(), t.kernel.c_str(), t.shape.c_str(), t.unit.c_str(), t.rate, t.peak);
        comma = ",";
    }
    std::printf("]}\n");
}

int run(const Options& options) {
    const bool all = options.isa.empty(), choose = all || options.isa == "auto";
    const k::KernelTable& chosen = choose ? k::chosen_kernels() : k::kernels_named(options.isa);
    if (!options.json) std::printf("chosen: %s\n", chosen.isa);
    std::vector<const k::KernelTable*> tables;
    for (const k::IsaInfo& isa : k::isas()) {
        const bool wanted = all || isa.table == &chosen;
        if (isa.built && isa.supported && wanted && !options.list) tables.push_back(isa.table);
        if (wanted && !options.json && !(isa.built && isa.supported)) {
            std::printf("%-12s %s\n", isa.name, isa.built ? "not supported by this CPU" : "not in this build");
        }
    }
    std::vector<Result> results;
    bool right = true;
    for (const k::KernelTable* table : tables) {
        for (const Result& result : check_isa(*table, options.quick)) {
            right = right && result.failures == 0 && result.count > 0;
            if (!options.json) print_result(result);
            results.push_back(result);
        }
    }
    std::vector<Timing> timings;
    for (const k::KernelTable* table : tables) {
        if (!options.bench || !right) break;
        for (const Timing& timing : bench(*table)) {
            if (!options.json) print_timing(timing);
            timings.push_back(timing);
        }
    }
    if (options.json) print_json(chosen.isa, results, timings);
    return right ? 0 : 1;
}

}  // namespace
}  // namespace check

int main(int argc, char** argv) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(signal, check::on_crash);
    try {
        return check::run(check::parse(argc, argv));
    } catch (const whisperq::Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 2;
    }
}
