// quantize_strip: its codes and scales, and the layout that scalar has of kernels.h.
#include <cmath>
#include <cstring>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "kernels/tables.h"
#include "strip_reader.h"

namespace check {
namespace {

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

}  // namespace

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

}  // namespace check
