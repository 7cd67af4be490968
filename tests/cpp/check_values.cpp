// Kernels on values one by one or row by row: halves, layer norm, GELU.
#include <cmath>
#include <cstring>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "kernels/tables.h"
#include "kernels/tolerances.h"

namespace check {
namespace {

// ---- half_to_float --------------------------------------------------------------------------------------------------

bool same_half(float got, uint16_t half) {
    const double want = half_value(half);
    if (std::isnan(want)) return std::isnan(got);
    return static_cast<double>(got) == want && std::signbit(got) == std::signbit(want);
}

// ---- float_to_half --------------------------------------------------------------------------------------------------

// ---- layer_norm -----------------------------------------------------------------------------------------------------

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

// ---- gelu -----------------------------------------------------------------------------------------------------------

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

}  // namespace

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

}  // namespace check
