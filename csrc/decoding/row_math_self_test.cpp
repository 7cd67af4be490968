#include "decoding/row_math_self_test.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace whisperq::decoding {
namespace {

// A new function needs a test here.
static_assert(sizeof(RowMath) == 4 * sizeof(void*), "a function that the self-test does not know");

constexpr double kTolerance = 1e-6;  // of a sum of e^x, each to 2.5e-7
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Suppressed logits are -inf.
std::vector<float> row(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        x[static_cast<size_t>(i)] = i % 11 == 3 ? -kInfinity : static_cast<float>(i * 7919 % 401) / 25.0f - 9.0f;
    }
    return x;
}

void test_row(const RowMath& math, int64_t n, Findings& findings) {
    std::vector<float> x = row(n);
    const float largest = *std::max_element(x.begin(), x.end());
    findings.at("max_of", std::to_string(n) + " values");
    findings.compare(static_cast<double>(math.max_of(x.data(), n)), static_cast<double>(largest), 0.0);

    constexpr float kScale = 0.7f;
    double scaled = 0.0, sum = 0.0;
    for (const float value : x) {
        const double distance = static_cast<double>(value) - static_cast<double>(largest);
        scaled += std::exp(static_cast<double>(kScale) * distance);
        sum += std::exp(distance);
    }
    findings.at("sum_exp", std::to_string(n) + " values");
    findings.compare(math.sum_exp(x.data(), n, largest, kScale), scaled, kTolerance * scaled);

    const std::vector<float> before = x;
    x.push_back(7.0f);
    math.softmax(x.data(), n);
    findings.at("softmax of a row", std::to_string(n) + " values");
    for (size_t i = 0; i < before.size(); ++i) {
        const double want = std::exp(static_cast<double>(before[i]) - static_cast<double>(largest)) / sum;
        findings.compare(static_cast<double>(x[i]), want, 3 * kTolerance * want, static_cast<int64_t>(i));
    }
    findings.compare(static_cast<double>(x.back()), 7.0, 0.0, n);
}

}  // namespace

void self_test(const RowMath& math, Findings& findings) {
    for (const int64_t n : {1, 16, 77, 333}) test_row(math, n, findings);  // 333: more than a block of sums
    std::vector<float> x = row(77);
    x[70] = std::numeric_limits<float>::quiet_NaN();
    findings.at("max_of", "a NaN among 77");
    findings.compare(static_cast<double>(math.max_of(x.data(), 77)), std::nan(""), 0.0);
}

}  // namespace whisperq::decoding
