#include "checker.h"

#include <algorithm>
#include <cmath>

namespace check {
namespace {

constexpr const char* kPatternNames[] = {"normal",   "zeros",     "all min", "all max",
                                         "outliers", "denormals", "ties",    "large"};

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

}  // namespace

const char* name_of(Pattern pattern) {
    return kPatternNames[static_cast<int>(pattern)];
}

void fill(Pattern pattern, float* values, int64_t n, Random& random) {
    for (int64_t i = 0; i < n; ++i) values[i] = value_of(pattern, i, random);
}

double greatest_of(const float* values, int64_t n) {
    double greatest = 0.0;
    for (int64_t i = 0; i < n; ++i) greatest = std::max(greatest, std::fabs(static_cast<double>(values[i])));
    return greatest;
}

}  // namespace check
