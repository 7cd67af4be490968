// Numbers that are the same everywhere, and inputs of quantisers whose codes are known.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/aligned.h"

namespace whisperq::kernels::self_tests {

// Return a pseudo-random whole number in [0, n); scripts/self_test_answers.py has the same.
inline int64_t draw(int64_t seed, int64_t i, int64_t n) {
    return (i * 7919 + seed * 104729 + i * i % 1009 * 31) % 15485863 % n;
}

// Return a number in (-1, 1) that is as exact in f16 as in f32.
inline float number(int64_t seed, int64_t i) {
    return static_cast<float>(draw(seed, i, 2047) - 1023) / 1024.0f;
}

// Return the f16 of a number that is a normal f16 or 0.
inline uint16_t half_of(float value) {
    if (value == 0.0f) return 0;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (((bits & 0x7fffffffu) - 0x38000000u) >> 13));
}

// An array of floats that starts where kernels want it, with a vector's room behind it.
class Floats {
  public:
    explicit Floats(int64_t n) : buffer_(static_cast<size_t>(n) * sizeof(float)) {
        std::fill_n(buffer_.floats(), n, 0.0f);
    }
    template <class Value>
    Floats(int64_t n, const Value& value) : Floats(n) {
        for (int64_t i = 0; i < n; ++i) buffer_.floats()[i] = value(i);
    }
    float* data() { return buffer_.floats(); }
    float& operator[](int64_t i) { return buffer_.floats()[i]; }

  private:
    AlignedBuffer buffer_;
};

inline double exact(float value) {
    return static_cast<double>(value);
}

inline double gelu_of(double x) {
    return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
}

// ---- Inputs whose codes are known

// A sequence of values in runs of `run`, which share a scale, a power of two. Every table rounds a value to its known
// code: it is close to code times scale, or half-way to an odd code. One value in a run has the code 127.
struct Quantised {
    static constexpr int kMost = 127;
    int64_t seed, run;

    float scale(int64_t i) const { return std::ldexp(1.0f, -static_cast<int>(i / run % 4)); }
    int code(int64_t i) const {
        if (is_greatest(i)) return i / run % 2 == 0 ? kMost : -kMost;
        return static_cast<int>(draw(seed, i, 2 * kMost - 3)) - (kMost - 2);
    }
    float value(int64_t i) const {
        if (is_greatest(i)) return scale(i) * static_cast<float>(code(i));
        const auto sixteenths = static_cast<float>(draw(seed + 1, i, 13) - 6);
        const bool is_tie = draw(seed + 2, i, 8) == 0 && code(i) % 2 == 0;
        return scale(i) * (static_cast<float>(code(i)) + (is_tie ? 0.5f : sixteenths / 16.0f));
    }

  private:
    bool is_greatest(int64_t i) const { return i % run == (i / run * 5 + seed) % run; }
};

}  // namespace whisperq::kernels::self_tests
