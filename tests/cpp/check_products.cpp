// Products with expanded weights and with plain floats, in every ending.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "ggml_blocks.h"
#include "kernels/pack.h"
#include "kernels/tables.h"
#include "kernels/tolerances.h"
#include "strip_reader.h"

namespace check {
namespace {

using k::kGeluSlope;

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

}  // namespace

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
                if (shape.n_values > (checker.quick ? 64 : 384) && pattern != Pattern::normal) continue;
                check_float_case(checker, pattern, n, shape.n_values, shape.stride, report);
            }
        }
    }
    checker.close(report);
}

}  // namespace check
