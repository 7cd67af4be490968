// Kernels on plain rows of floats: layer norm, GELU, f16 to float. Rests of less than a register are masked.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/six_bits.h"
#include "kernels/x86/avx512_math.h"

namespace whisperq::kernels {
namespace {

constexpr float kLayerNormEpsilon = 1e-5f;
constexpr int kChains = 4;  // sums side by side, which hides the latency of an addition

static inline float mean_of(const float* values, int64_t n) {
    __m512 sums[kChains];
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
        for (int c = 0; c < kChains; ++c) sums[c] = _mm512_add_ps(sums[c], _mm512_loadu_ps(values + i + c * kLanes));
    }
    for (; i < n; i += kLanes) {
        sums[0] = _mm512_add_ps(sums[0], _mm512_maskz_loadu_ps(first_lanes(n - i), values + i));
    }
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    return _mm512_reduce_add_ps(sum) / static_cast<float>(n);
}

static inline float variance_of(const float* values, int64_t n, float mean_value) {
    const __m512 mean = _mm512_set1_ps(mean_value);
    __m512 sums[kChains];
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
        for (int c = 0; c < kChains; ++c) {
            const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(values + i + c * kLanes), mean);
            sums[c] = _mm512_fmadd_ps(d, d, sums[c]);
        }
    }
    for (; i < n; i += kLanes) {
        const __mmask16 lanes = first_lanes(n - i);
        const __m512 d = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, values + i), mean);
        sums[0] = _mm512_fmadd_ps(d, d, sums[0]);
    }
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    return _mm512_reduce_add_ps(sum) / static_cast<float>(n);
}

static inline void normalize_row(const float* input, int64_t n, const float* weight, const float* bias, float* out) {
    const float mean_value = mean_of(input, n);
    const __m128 variance = _mm_set_ss(variance_of(input, n, mean_value) + kLayerNormEpsilon);
    const __m512 factor = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(variance)));
    const __m512 mean = _mm512_set1_ps(mean_value);
    for (int64_t i = 0; i < n; i += kLanes) {
        const __mmask16 lanes = first_lanes(n - i);
        const __m512 d = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, input + i), mean);
        const __m512 normal = _mm512_mul_ps(d, factor);
        _mm512_mask_storeu_ps(
            out + i, lanes,
            _mm512_fmadd_ps(normal, _mm512_maskz_loadu_ps(lanes, weight + i), _mm512_maskz_loadu_ps(lanes, bias + i)));
    }
}

static void layer_norm(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias,
                       float* out) {
    for (int64_t r = 0; r < n_rows; ++r) normalize_row(input + r * n, n, weight, bias, out + r * n);
}

static void gelu_values(float* values, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) _mm512_storeu_ps(values + i, gelu(_mm512_loadu_ps(values + i)));
    const __mmask16 rest = first_lanes(n - i);
    if (rest != 0) _mm512_mask_storeu_ps(values + i, rest, gelu(_mm512_maskz_loadu_ps(rest, values + i)));
}

static void half_to_float(const uint16_t* half, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half + i));
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(halves));
    }
    const __mmask16 rest = first_lanes(n - i);
    if (rest != 0) _mm512_mask_storeu_ps(out + i, rest, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rest, half + i)));
}

static void float_to_half(const float* values, int64_t n, uint16_t* half) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(half + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(values + i), kNearest));
    }
    const __mmask16 rest = first_lanes(n - i);
    if (rest != 0) {
        _mm256_mask_storeu_epi16(half + i, rest, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(rest, values + i), kNearest));
    }
}

// The Lanes of cached_attention.h.
struct Lanes {
    using Row = __m512;
    static Row zero() { return _mm512_setzero_ps(); }
    static Row load(const float* from) { return _mm512_load_ps(from); }
    static Row load(const uint16_t* half) {
        return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(half)));
    }
    static Row load_unaligned(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, Row row) { _mm512_storeu_ps(to, row); }
    static void store_codes(int8_t* to, Row row) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(row)));
    }
    static Row magnitude(Row row) { return _mm512_abs_ps(row); }
    static Row multiply(Row a, Row b) { return _mm512_mul_ps(a, b); }
    static Row add_product(Row sum, Row row, float factor) { return _mm512_fmadd_ps(row, _mm512_set1_ps(factor), sum); }
    static Row add(Row a, Row b) { return _mm512_add_ps(a, b); }
    static Row greater(Row a, Row b) { return _mm512_max_ps(a, b); }
    static Row scaled(Row row, float factor) { return _mm512_mul_ps(row, _mm512_set1_ps(factor)); }
    static Row power_of_e(Row row, float subtracted) {
        constexpr float kLog2E = 1.44269504088896341f;
        const Row x = _mm512_sub_ps(row, _mm512_set1_ps(subtracted));
        return exp2_of<kExp2Exact>(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)));
    }
    static float greatest_lane(Row row) { return _mm512_reduce_max_ps(row); }
    static float sum_of_lanes(Row row) { return _mm512_reduce_add_ps(row); }

    using Codes = __m512i;
    static Codes load_codes(const int8_t* from) { return _mm512_loadu_si512(from); }
    static Codes repeat_code(int code) { return _mm512_set1_epi8(static_cast<char>(code)); }
    static void expand_six_bits(const uint8_t* packed, Codes (&rows)[kSixBitRows]) {
        const auto row = [](__m512i low, __m512i above) {
            constexpr int kMaskedOrOther = 0xca;  // mask ? low : above
            const __m512i code = _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), low, above, kMaskedOrOther);
            return _mm512_and_si512(code, _mm512_set1_epi8(63));
        };
        const __m512i rows01 = _mm512_loadu_si512(packed), rows23 = _mm512_loadu_si512(packed + kSixBitRow);
        const __m512i above = _mm512_loadu_si512(packed + 2 * kSixBitRow);
        rows[0] = row(rows01, _mm512_slli_epi16(above, 4));
        rows[1] = row(_mm512_srli_epi16(rows01, 4), _mm512_slli_epi16(above, 2));
        rows[2] = row(rows23, above);
        rows[3] = row(_mm512_srli_epi16(rows23, 4), _mm512_srli_epi16(above, 2));
    }

    // The instruction wants one side unsigned: codes + 128. The start is less 128 * sum of the other side's codes.
    using Dots = __m512i;
    static Dots start_unsigned() { return _mm512_setzero_si512(); }
    static Dots start_signed(int32_t sum) { return _mm512_set1_epi32(-128 * sum); }
    static Dots add_signed(Dots dots, Codes codes, int32_t four) {
        const __m512i shifted = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
        return _mm512_dpbusd_epi32(dots, shifted, _mm512_set1_epi32(four));
    }
    static Dots add_unsigned(Dots dots, Codes codes, int32_t four) {
        return _mm512_dpbusd_epi32(dots, _mm512_set1_epi32(four), codes);
    }
    static Row to_floats(Dots dots) { return _mm512_cvtepi32_ps(dots); }
    static void fetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T1); }
};

}  // namespace
}  // namespace whisperq::kernels
