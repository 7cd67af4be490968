// Elementary functions of eight floats. Coefficients are our own minimax fits; the stated errors are of the functions
// as they are computed here, in float.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include "kernels/six_bits.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kLanes = 8;  // floats of a register

inline float sum_of_lanes(__m256 x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

inline float greatest_lane(__m256 x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// Return a mask of the first n lanes (0 to 8) for maskload and maskstore.
inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Add to sums that must stay in their registers. The empty statement emits nothing. Without it g++ computes all
// products of a step before it adds any. Or it makes a tree of an unrolled chain of additions. Neither fits into 16
// registers (1.1 to 1.6 times slower, measured with g++ 12).
#if defined(__GNUC__)
#define WHISPERQ_STAYS_IN_REGISTER(x) asm("" : "+x"(x))
#else
#define WHISPERQ_STAYS_IN_REGISTER(x)
#endif

inline void add_int32(__m256i& sum, __m256i x) {
    sum = _mm256_add_epi32(sum, x);
    WHISPERQ_STAYS_IN_REGISTER(sum);
}

inline void add_int16(__m256i& sum, __m256i x) {
    sum = _mm256_add_epi16(sum, x);
    WHISPERQ_STAYS_IN_REGISTER(sum);
}

// Return 2^x for x up to 126, to 2e-7 of the value. Below -126 it stays at 2^-126, which is nothing beside the 1 of the
// greatest probability. A denormal would be slow.
inline __m256 exp2_of(__m256 x) {
    x = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
    const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 f = _mm256_sub_ps(x, whole);  // exact, in [-0.5, 0.5]
    __m256 y = _mm256_set1_ps(0.001326472731307149f);
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.009671512991189957f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.05550733581185341f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.24022242426872253f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.6931470036506653f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0f));
    // Times 2^whole: added to the exponent.
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
}

inline float exp2_of(float x) {
    return _mm256_cvtss_f32(exp2_of(_mm256_set1_ps(x)));
}

// Return 0.5 x (1 + erf(x / sqrt 2)), to 2.1e-7 * max(1, |x|). erf(x / sqrt 2) is x P(x^2) / Q(x^2) up to where it is 1
// in float. All coefficients are positive, so that nothing cancels.
inline __m256 gelu_of(__m256 x) {
    const __m256 end = _mm256_set1_ps(5.25f);
    const __m256 t = _mm256_max_ps(_mm256_min_ps(x, end), _mm256_sub_ps(_mm256_setzero_ps(), end));
    const __m256 u = _mm256_mul_ps(t, t);
    __m256 p = _mm256_set1_ps(4.8572264432777956e-08f);
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(1.2813306966563687e-05f));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(0.0003202083462383598f));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(0.009254325181245804f));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(0.06576906889677048f));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(0.797884464263916f));
    __m256 q = _mm256_set1_ps(1.2460036487027537e-06f);
    q = _mm256_fmadd_ps(q, u, _mm256_set1_ps(7.142783579183742e-05f));
    q = _mm256_fmadd_ps(q, u, _mm256_set1_ps(0.001835216535255313f));
    q = _mm256_fmadd_ps(q, u, _mm256_set1_ps(0.02811550907790661f));
    q = _mm256_fmadd_ps(q, u, _mm256_set1_ps(0.24909533560276031f));
    q = _mm256_fmadd_ps(q, u, _mm256_set1_ps(1.0f));
    const __m256 erf = _mm256_div_ps(_mm256_mul_ps(t, p), q);
    const __m256 half = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
    return _mm256_fmadd_ps(half, erf, half);
}

// The Lanes of cached_attention.h. Rows of 16 are two registers.
struct Lanes {
    struct Row {
        __m256 low, high;
    };
    static Row zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Row load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + kLanes)}; }
    static Row load(const uint16_t* half) {
        const auto* from = reinterpret_cast<const __m128i*>(half);
        return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
    }
    static Row load_unaligned(const float* from) { return load(from); }
    static void store_codes(int8_t* to, Row row) {
        const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(row.low), _mm256_cvtps_epi32(row.high));
        const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }
    static Row magnitude(Row row) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_andnot_ps(sign, row.low), _mm256_andnot_ps(sign, row.high)};
    }
    static Row multiply(Row a, Row b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static void store(float* to, Row row) {
        _mm256_storeu_ps(to, row.low);
        _mm256_storeu_ps(to + kLanes, row.high);
    }
    static Row add_product(Row sum, Row row, float factor) {
        const __m256 by = _mm256_set1_ps(factor);
        return {_mm256_fmadd_ps(row.low, by, sum.low), _mm256_fmadd_ps(row.high, by, sum.high)};
    }
    static Row add(Row a, Row b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static Row greater(Row a, Row b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static Row scaled(Row row, float factor) {
        const __m256 by = _mm256_set1_ps(factor);
        return {_mm256_mul_ps(row.low, by), _mm256_mul_ps(row.high, by)};
    }
    static Row power_of_e(Row row, float subtracted) {
        return {power_of_e(row.low, subtracted), power_of_e(row.high, subtracted)};
    }
    static float greatest_lane(Row row) { return kernels::greatest_lane(_mm256_max_ps(row.low, row.high)); }
    static float sum_of_lanes(Row row) { return kernels::sum_of_lanes(_mm256_add_ps(row.low, row.high)); }

    struct Codes {
        __m256i low, high;
    };
    static Codes load_codes(const int8_t* from) { return {load_bytes(from), load_bytes(from + 32)}; }
    static Codes repeat_code(int code) {
        const __m256i all = _mm256_set1_epi8(static_cast<char>(code));
        return {all, all};
    }
    static void expand_six_bits(const uint8_t* packed, Codes (&rows)[kSixBitRows]) {
        expand_half(packed, rows[0].low, rows[1].low, rows[2].low, rows[3].low);
        expand_half(packed + 32, rows[0].high, rows[1].high, rows[2].high, rows[3].high);
    }

    // Sums of int8 products. Products of pairs are at most 2 * 127 * 127, which int16 holds. Two signed sides are
    // multiplied as |four| times codes with the signs of four.
    struct Dots {
        __m256i low, high;
    };
    static Dots start_unsigned() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static Dots start_signed(int32_t) { return start_unsigned(); }
    static Dots add_signed(Dots dots, const Codes& codes, int32_t four) {
        const __m256i by = _mm256_set1_epi32(four), size = _mm256_abs_epi8(by);
        return {add_pairs(dots.low, size, _mm256_sign_epi8(codes.low, by)),
                add_pairs(dots.high, size, _mm256_sign_epi8(codes.high, by))};
    }
    static Dots add_unsigned(Dots dots, const Codes& codes, int32_t four) {
        const __m256i by = _mm256_set1_epi32(four);
        return {add_pairs(dots.low, by, codes.low), add_pairs(dots.high, by, codes.high)};
    }
    static Row to_floats(Dots dots) { return {_mm256_cvtepi32_ps(dots.low), _mm256_cvtepi32_ps(dots.high)}; }
    static void fetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T1); }

  private:
    static __m256i load_bytes(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
    // Expand 32 codes of each row.
    static void expand_half(const uint8_t* packed, __m256i& row0, __m256i& row1, __m256i& row2, __m256i& row3) {
        const auto row = [](__m256i low, __m256i above) {
            return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)),
                                   _mm256_and_si256(above, _mm256_set1_epi8(48)));
        };
        const __m256i rows01 = load_bytes(packed), rows23 = load_bytes(packed + kSixBitRow);
        const __m256i above = load_bytes(packed + 2 * kSixBitRow);
        row0 = row(rows01, _mm256_slli_epi16(above, 4));
        row1 = row(_mm256_srli_epi16(rows01, 4), _mm256_slli_epi16(above, 2));
        row2 = row(rows23, above);
        row3 = row(_mm256_srli_epi16(rows23, 4), _mm256_srli_epi16(above, 2));
    }
    static __m256i add_pairs(__m256i sum, __m256i not_negative, __m256i codes) {
        const __m256i pairs = _mm256_maddubs_epi16(not_negative, codes);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static __m256 power_of_e(__m256 x, float subtracted) {
        constexpr float kLog2E = 1.44269504088896341f;
        return exp2_of(_mm256_mul_ps(_mm256_sub_ps(x, _mm256_set1_ps(subtracted)), _mm256_set1_ps(kLog2E)));
    }
};

}  // namespace
}  // namespace whisperq::kernels
