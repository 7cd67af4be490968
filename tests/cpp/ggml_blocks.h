// Weights as ggml's files hold them: made, and read in double precision, by nothing that the kernels share.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/formats.h"
#include "support.h"

namespace check {

enum class Weights { random, all_min, all_max, outliers };

inline const char* name_of(Weights weights) {
    constexpr const char* kNames[] = {"random", "all min", "all max", "outliers"};
    return kNames[static_cast<int>(weights)];
}

// Value i of a block is scale * code + minimum.
struct GgmlValue {
    double scale;
    int code;
    double minimum;
};

inline GgmlValue ggml_parts(const k::FormatInfo& format, const uint8_t* block, int64_t i) {
    uint16_t half[2];
    std::memcpy(half, block, sizeof half);
    const double scale = half_value(half[0]);
    if (format.bits == 8) return {scale, static_cast<int8_t>(block[2 + i]), 0.0};
    const double minimum = format.has_minimum ? half_value(half[1]) : 0.0;
    const uint8_t* rest = block + (format.has_minimum ? 4 : 2);
    uint32_t fifth = 0;
    if (format.bits == 5) {
        fifth = rest[0] | static_cast<uint32_t>(rest[1]) << 8 | static_cast<uint32_t>(rest[2]) << 16 |
                static_cast<uint32_t>(rest[3]) << 24;
        rest += 4;
    }
    const int nibble = i < 16 ? rest[i] & 15 : rest[i - 16] >> 4;
    const int code = nibble + 16 * static_cast<int>(fifth >> i & 1);
    if (format.has_minimum) return {scale, code, minimum};
    return {scale, code - (format.bits == 5 ? 16 : 8), 0.0};
}

inline double ggml_value(const k::FormatInfo& format, const uint8_t* block, int64_t i) {
    const GgmlValue parts = ggml_parts(format, block, i);
    return parts.scale * parts.code + parts.minimum;
}

// |scale * code| + |minimum|: these are summed apart, and may cancel.
inline double ggml_magnitude(const k::FormatInfo& format, const uint8_t* block, int64_t i) {
    const GgmlValue parts = ggml_parts(format, block, i);
    return std::fabs(parts.scale * parts.code) + std::fabs(parts.minimum);
}

// Either of these of all values of rows.
inline std::vector<double> ggml_values(const k::FormatInfo& format, const std::vector<uint8_t>& rows,
                                       double (*of)(const k::FormatInfo&, const uint8_t*, int64_t)) {
    const int64_t n_blocks = static_cast<int64_t>(rows.size()) / format.ggml_bytes;
    std::vector<double> values(static_cast<size_t>(n_blocks * k::kBlock));
    for (int64_t i = 0; i < n_blocks * k::kBlock; ++i) {
        values[static_cast<size_t>(i)] = of(format, rows.data() + i / k::kBlock * format.ggml_bytes, i % k::kBlock);
    }
    return values;
}

// n rows of n_values values each. Scales are normal f16 of either sign, and now and then 0 or denormal.
inline std::vector<uint8_t> random_rows(const k::FormatInfo& format, Weights kind, int64_t n, int64_t n_values,
                                        Random& random) {
    const int64_t n_blocks = n * n_values / (format.bits == 0 ? 1 : k::kBlock);
    std::vector<uint8_t> rows(static_cast<size_t>(n_blocks * format.ggml_bytes));
    for (uint8_t& byte : rows) {
        byte = static_cast<uint8_t>(random.bits() >> 40);
        if (kind == Weights::all_min) byte = format.bits == 8 ? 0x80 : 0x00;
        if (kind == Weights::all_max) byte = format.bits == 8 ? 0x7f : 0xff;
    }
    if (format.bits == 0) return rows;
    for (int64_t b = 0; b < n_blocks; ++b) {
        uint16_t halves[2] = {random.half(8, 10), random.half(10, 13)};
        if (kind == Weights::random && random.below(50) == 0) halves[0] = random.below(2) ? 0x0003 : 0x8000;
        if (kind == Weights::outliers && random.below(50) == 0) halves[0] = random.half(24, 25);
        std::memcpy(rows.data() + b * format.ggml_bytes, halves, format.has_minimum ? 4 : 2);
    }
    return rows;
}

}  // namespace check
