// Included by row_math_<isa>.cpp alone, after WHISPERQ_ROW_LANES and WHISPERQ_ROW_ISA: the same code, compiled for
// each. Everything here has internal linkage, and no header is used that could leave a symbol behind.
//
// Vectors are the compiler's own (GCC, Clang): arithmetic and comparisons on them are those of each lane.
#include <cstdint>
#include <cstring>

#include "decoding/row_math.h"

namespace whisperq::decoding {
namespace {

constexpr int kLanes = WHISPERQ_ROW_LANES;
constexpr int kSide = 4;  // vectors side by side, so that none waits for the one before
constexpr int64_t kGroup = int64_t{kLanes} * kSide;
constexpr int64_t kBlock = 256;
constexpr float kInfinity = __builtin_inff();

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecBits __attribute__((vector_size(4 * kLanes)));

inline Vec repeat(float value) {
    return value - Vec{};
}

inline Vec load(const float* from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

inline Vec load_first(const float* from, int64_t n) {
    float values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = i < n ? from[i] : -kInfinity;
    return load(values);
}

// Return e^x of x <= 0, to a relative error of 2e-7. x is n ln 2 + r with |r| <= ln 2 / 2. e^r comes by its series, 2^n
// by the exponent's bits. The result is 0 where it would be no normal number; NaN stays.
inline Vec exp_of(Vec x) {
    constexpr float kLeast = -87.0f, kLog2OfE = 1.44269504088896341f;
    constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682e-6f;  // n times the first is exact
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const auto is_small = x < repeat(kLeast);
    const Vec bounded = is_small ? repeat(kLeast) : x;
    const Vec shifted = bounded * kLog2OfE + kRounder;
    const Vec n = shifted - kRounder;
    const Vec r = (bounded - n * kLn2High) - n * kLn2Low;
    const Vec tail = ((((r * (1.0f / 720) + 1.0f / 120) * r + 1.0f / 24) * r + 1.0f / 6) * r + 0.5f) * r * r;
    const Vec series = (tail + r) + 1.0f;
    VecBits exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &series, sizeof bits);
    bits += exponent << 23;  // the low bits of `shifted` are n, the rest leaves at the top
    Vec result;
    memcpy(&result, &bits, sizeof result);
    const auto is_number = x == x;
    return is_number ? (is_small ? Vec{} : result) : x;
}

float max_of(const float* x, int64_t n) {
    Vec largest[kSide];
    VecInt not_a_number{};
    for (Vec& v : largest) v = repeat(-kInfinity);
    const auto take = [&](Vec v, Vec& so_far) {
        not_a_number |= v != v;
        so_far = v > so_far ? v : so_far;
    };
    int64_t i = 0;
    for (; i + kGroup <= n; i += kGroup) {
        for (int j = 0; j < kSide; ++j) take(load(x + i + j * kLanes), largest[j]);
    }
    for (; i < n; i += kLanes) take(n - i < kLanes ? load_first(x + i, n - i) : load(x + i), largest[0]);

    for (int j = 1; j < kSide; ++j) largest[0] = largest[j] > largest[0] ? largest[j] : largest[0];
    float result = -kInfinity;
    for (int lane = 0; lane < kLanes; ++lane) {
        if (not_a_number[lane] != 0) return __builtin_nanf("");
        if (largest[0][lane] > result) result = largest[0][lane];
    }
    return result;
}

float sum_exp_of_block(const float* x, int64_t n, float shift, float scale) {
    Vec sums[kSide] = {};
    int64_t i = 0;
    for (; i + kGroup <= n; i += kGroup) {
        for (int j = 0; j < kSide; ++j) sums[j] += exp_of((load(x + i + j * kLanes) - shift) * scale);
    }
    for (; i < n; i += kLanes) {
        sums[0] += exp_of(((n - i < kLanes ? load_first(x + i, n - i) : load(x + i)) - shift) * scale);
    }
    const Vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += all[lane];
    return sum;
}

double sum_exp(const float* x, int64_t n, float shift, float scale) {
    double sum = 0;
    for (int64_t i = 0; i < n; i += kBlock) {
        sum += sum_exp_of_block(x + i, n - i < kBlock ? n - i : kBlock, shift, scale);
    }
    return sum;
}

void softmax(float* x, int64_t n) {
    const float largest = max_of(x, n);
    const auto scale = static_cast<float>(1 / sum_exp(x, n, largest, 1));
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec v = exp_of(load(x + i) - largest) * scale;
        memcpy(x + i, &v, sizeof v);
    }
    if (i == n) return;
    const Vec v = exp_of(load_first(x + i, n - i) - largest) * scale;
    memcpy(x + i, &v, static_cast<size_t>(n - i) * sizeof *x);
}

constexpr RowMath kMath{WHISPERQ_ROW_ISA, &max_of, &sum_exp, &softmax};

}  // namespace
}  // namespace whisperq::decoding
