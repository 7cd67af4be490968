// Masks and the functions of one register of floats that more than one kernel needs.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kLanes = 16;  // floats of a register

// Return a mask of the first n lanes (0 or fewer: none; 16 or more: all).
static inline __mmask16 first_lanes(int64_t n) {
    if (n <= 0) return 0;
    return n >= kLanes ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

// Return four bytes, wherever they lie, in every lane.
static inline __m512i broadcast_word(const void* from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}

// Adding this rounds a float of magnitude below 2^22 to the nearest integer, which then is in the low bits.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

// ---- GELU
//
// gelu(x) = max(x, 0) - g(|x|),  g(a) = a / 2 erfc(a / sqrt 2). g is small and smooth, so that 16 pieces of degree 5
// suffice (minimax fits, |error| < 1e-8). Their coefficients fill one register a degree, and a permutation looks them
// up. Beyond the last piece g is below 7e-8, and is taken as it is at the piece's end. This takes half of the
// operations of erf by a quotient.
constexpr float kGeluPiece = 0.36f;              // piece i is around i * kGeluPiece
constexpr float kGeluEnd = 15.49f * kGeluPiece;  // 15.5 would round to piece 16
constexpr int kGeluDegree = 5;
alignas(64) static const float kGeluPieces[kGeluDegree + 1][kLanes] = {
    {0.0f, 0.129392475f, 0.169749007f, 0.151276782f, 0.107904531f, 0.0646745786f, 0.0332344808f, 0.0147867072f,
     0.00572652137f, 0.00193638087f, 0.000572791032f, 0.000148400693f, 3.3702403e-05f, 6.712914e-06f, 1.17315358e-06f,
     1.79933949e-07f},
    {0.179999977f, 0.0809336752f, 0.00507945893f, -0.0361420847f, -0.046356719f, -0.0382247902f, -0.024559373f,
     -0.0130107282f, -0.00582299754f, -0.00222958601f, -0.000735745649f, -0.000210222264f, -5.21719012e-05f,
     -1.12709158e-05f, -2.12298164e-06f, -3.49080096e-07f},
    {-0.0517023765f, -0.0453182235f, -0.0295562223f, -0.0120276371f, 0.00067424489f, 0.00634369114f, 0.0066859778f,
     0.00469954684f, 0.00257245335f, 0.00115415466f, 0.000434569229f, 0.000139113516f, 3.81640384e-05f, 9.01993371e-06f,
     1.84339183e-06f, 3.26636638e-07f},
    {-4.64801678e-06f, 0.00405102549f, 0.00600062497f, 0.00529840123f, 0.00305147353f, 0.000839928281f,
     -0.000432686415f, -0.000767789839f, -0.00060655683f, -0.000343128893f, -0.000153482659f, -5.6446981e-05f,
     -1.74111992e-05f, -4.55714553e-06f, -1.01977503e-06f, -1.96117327e-07f},
    {0.00113478105f, 0.00080879021f, 0.000139345138f, -0.00043162299f, -0.000610862102f, -0.000450903899f,
     -0.000187841128f, -3.02888543e-06f, 6.41467268e-05f, 5.95111414e-05f, 3.48806789e-05f, 1.55154776e-05f,
     5.55849556e-06f, 1.6490095e-06f, 4.11466942e-07f, 8.72061889e-08f},
    {-3.21907137e-05f, -0.000111435518f, -0.000139218682f, -7.8856996e-05f, 4.71726207e-06f, 5.05326389e-05f,
     4.84189804e-05f, 2.44660969e-05f, 4.21805771e-06f, -4.25949429e-06f, -4.79197615e-06f, -2.86857289e-06f,
     -1.24918381e-06f, -4.29652886e-07f, -1.20945174e-07f, -2.84042514e-08f},
};

static inline __m512 gelu(__m512 x) {
    const __m512 rounder = _mm512_set1_ps(kRounder);
    const __m512 a =
        _mm512_mul_ps(_mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(kGeluEnd)), _mm512_set1_ps(1.0f / kGeluPiece));
    const __m512 rounded = _mm512_add_ps(a, rounder);
    const __m512i piece = _mm512_castps_si512(rounded);  // the permutation looks at the low 4 bits only
    const __m512 t = _mm512_sub_ps(a, _mm512_sub_ps(rounded, rounder));
    __m512 g = _mm512_permutexvar_ps(piece, _mm512_load_ps(kGeluPieces[kGeluDegree]));
#pragma GCC unroll 8
    for (int d = kGeluDegree - 1; d >= 0; --d) {
        g = _mm512_fmadd_ps(g, t, _mm512_permutexvar_ps(piece, _mm512_load_ps(kGeluPieces[d])));
    }
    return _mm512_sub_ps(_mm512_max_ps(_mm512_setzero_ps(), x), g);  // this order of max keeps a NaN
}

// ---- 2^x
//
// x is split into an integer, which goes into the exponent's bits, and a rest in [-1/2, 1/2] with a minimax polynomial.
// vscalefps and vreduceps would be fewer operations, but they take more than twice the time on Zen 4. The relative
// error is below 1.5e-7 with degree 5. With degree 3 it is below 7.6e-5, for results that become bf16 (2e-3).
constexpr int kExp2Exact = 5;
constexpr int kExp2ForBf16 = 3;
static const float kExp2Degree5[] = {1.0000001192092896f,  0.6931469440460205f,   0.24022120237350464f,
                                     0.05550713092088699f, 0.009675540961325169f, 0.001327647129073739f};
static const float kExp2Degree3[] = {0.9999280571937561f, 0.6932609677314758f, 0.2426111251115799f,
                                     0.0551716648042202f};

// Return 2^x for x <= 0. Results below 2^-126 become about that.
template <int kDegree>
static inline __m512 exp2_of(__m512 x) {
    const float* coefficients = kDegree == kExp2Exact ? kExp2Degree5 : kExp2Degree3;
    const __m512 rounder = _mm512_set1_ps(kRounder);
    x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);
    const __m512 rounded = _mm512_add_ps(x, rounder);
    const __m512 rest = _mm512_sub_ps(x, _mm512_sub_ps(rounded, rounder));
    __m512 power = _mm512_set1_ps(coefficients[kDegree]);
#pragma GCC unroll 8
    for (int d = kDegree - 1; d >= 0; --d) power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(coefficients[d]));
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(rounded), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
}

}  // namespace
}  // namespace whisperq::kernels
