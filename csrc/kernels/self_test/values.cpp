#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "kernels/self_test/families.h"
#include "kernels/self_test/numbers.h"
#include "kernels/tolerances.h"

namespace whisperq::kernels::self_tests {
namespace {

constexpr double kKnownNorm = -1.3626797340985619;  // the last one

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
// These are no halves themselves. They go to the nearest half, and from the middle to the even one.
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

// Test layer norm. The values are of size 1 and their mean is near 0, so that the tolerance is sqrt(n) roundings of a
// value's terms.
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

}  // namespace

void test_values(const KernelTable& table, Findings& findings) {
    test_halves(table, findings);
    test_layer_norm(table, findings);
    test_gelu(table, findings);
}

}  // namespace whisperq::kernels::self_tests
