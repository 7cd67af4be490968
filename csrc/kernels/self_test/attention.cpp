#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/self_test/families.h"
#include "kernels/self_test/numbers.h"
#include "kernels/tolerances.h"

namespace whisperq::kernels::self_tests {
namespace {

constexpr double kKnownAttention = 0.019336664181185292;  // the last one

// A value and a probability are rounded to bf16, by 2^-8 each. A query and a key in int8 get the same again. Their
// roundings add up in a score in random directions. int16's roundings are smaller.
constexpr double kHalfPrecision = 4 * 0x1p-8;

// With a bias, the last keys weigh as much as dozens of their kind. An encoder of short audio has such keys.
void test_one_attention(const KernelTable& table, bool is_exact, bool is_biased, Findings& findings) {
    constexpr int64_t kQueries = 19, kKeys = 70, kFirstBiased = 61, kWide = kHeadSize + 24;
    Floats q(kQueries * kWide, [](int64_t i) { return 2.0f * number(71, i); });
    Floats key(kKeys * kWide, [](int64_t i) { return number(72, i); });
    Floats value(kKeys * kWide, [](int64_t i) { return number(73, i); });
    Floats out(kQueries * kWide, [](int64_t) { return 7.0f; });
    Floats scratch(static_cast<int64_t>(attention_scratch_floats(kKeys)), [](int64_t) { return NAN; });
    Floats bias(kKeys, [](int64_t i) { return i < kFirstBiased ? 0.0f : 3.5f; });
    HeadRows head = {q.data(), kWide, key.data(), kWide, value.data(), kWide, kQueries, kKeys};
    if (is_biased) head.bias = bias.data();
    table.attention(head, is_exact, out.data(), kWide, scratch.data());
    findings.at("attention", is_exact ? "exact" : "of quantised models");
    for (int64_t m = 0; m < kQueries; ++m) {
        std::vector<double> p(kKeys);
        double greatest = -HUGE_VAL, sum = 0.0;
        for (int64_t j = 0; j < kKeys; ++j) {
            double score = 0.0;
            for (int64_t i = 0; i < kHeadSize; ++i) score += exact(q[m * kWide + i]) * exact(key[j * kWide + i]) / 8;
            if (is_biased) score += exact(bias[j]);
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
        if (m == kQueries - 1 && !is_biased) {
            const double tolerance = is_exact ? 1e-5 : 2 * kHalfPrecision;
            findings.compare(exact(out[m * kWide + kHeadSize - 1]), kKnownAttention, tolerance,
                             m * kWide + kHeadSize - 1);
        }
        for (int64_t i = kHeadSize; i < kWide; ++i)
            findings.compare(exact(out[m * kWide + i]), 7.0, 0.0, m * kWide + i);
    }
}

}  // namespace

void test_attention(const KernelTable& table, Findings& findings) {
    for (const bool is_exact : {true, false}) {
        for (const bool is_biased : {false, true}) test_one_attention(table, is_exact, is_biased, findings);
    }
}

}  // namespace whisperq::kernels::self_tests
