// What the checks of all families of kernels share: the kernels of one ISA, what was found, and values to compute with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/formats.h"
#include "support.h"

namespace check {

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

// ---- Values

enum class Pattern { normal, zeros, all_min, all_max, outliers, denormals, ties, large };
constexpr Pattern kPatterns[] = {Pattern::normal,   Pattern::zeros,     Pattern::all_min, Pattern::all_max,
                                 Pattern::outliers, Pattern::denormals, Pattern::ties,    Pattern::large};

const char* name_of(Pattern pattern);

void fill(Pattern pattern, float* values, int64_t n, Random& random);

double greatest_of(const float* values, int64_t n);

constexpr int64_t kGap = 5;  // floats between rows of `out`: rows are not aligned, and the gap must stay untouched

// Where scales become denormal, and a block may count as zeros.
constexpr double kLeastScale = 0x1p-125;

}  // namespace check
