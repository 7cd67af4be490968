// Attention whose operands are rounded to fixed point. vpmaddwd and vpaddd do 16 products where an FMA does 8, and a
// cycle has room for nearly as many. The speed is 1.4 times that of f32, measured on Zen 4. No 32-bit sum overflows:
//
//   q, k             13.5 bits: codes to 5792, a scale a row       64 * 5792 * 5792     < 2^31
//   probabilities    14 bits: codes to 16383, of the greatest so far
//   v                11 bits: codes to 1023, a scale for each      128 * 16383 * 1023   < 2^31
//                    column of kKeysAtOnce keys
//
// Half a step is 2^-13.5, 2^-15 and 2^-11 of the greatest of a row or column; bf16's is 2^-9 of each number. Errors are
// a quarter of bf16's on normal values. They are as large where a single dimension of k is 50 times the others while
// q's is 1/50. Sums over the blocks of keys are f32.
//
//   keys      [tiles of 16 keys][kHeadSize / 2][16][2]     pairs of values of a head meet in a vpmaddwd
//   values    [keys / 2][kHeadSize][2]                     pairs of keys do
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/avx2_attention.h"
#include "kernels/x86/avx2_math.h"

namespace whisperq::kernels {
namespace {

constexpr float kGreatestInput = 5792.0f;
constexpr float kGreatestValue = 1023.0f;
constexpr float kLogGreatestProbability = 13.99991193f;  // log2 16383
static_assert(64ll * 5792 * 5792 < 1ll << 31 && kKeysAtOnce * 16383 * 1023 < 1ll << 31, "int32 sums do not overflow");

struct Int16Scratch {
    int16_t* keys;
    float* key_scales;
    int16_t* values;
    float* value_scales;     // [blocks of keys][kHeadSize]
    float* sums;             // [kQueries][kHeadSize]: sum of probability code * value
    float* scores;           // [kQueries][kKeysAtOnce], to be multiplied by the query's scale
    int16_t* queries;        // [kQueries][kHeadSize]
    int16_t* probabilities;  // [kQueries][kKeysAtOnce]

    Int16Scratch(float* scratch, int64_t n_keys) {
        const int64_t padded = (n_keys + 63) / 64 * 64;
        sums = scratch;
        scores = sums + kQueries * kHeadSize;
        float* end = scores + kQueries * kKeysAtOnce;
        queries = reinterpret_cast<int16_t*>(end);
        probabilities = queries + kQueries * kHeadSize;
        keys = probabilities + kQueries * kKeysAtOnce;
        values = keys + padded * kHeadSize;
        key_scales = reinterpret_cast<float*>(values + padded * kHeadSize);
        value_scales = key_scales + padded;
    }
};
// A key takes half of a float key's bytes, its scale, and less than two of the columns' scales.
static_assert(kQueries * (kHeadSize + kKeysAtOnce) * 3 / 2 + 64 * (kHeadSize + 3) <= attention_scratch_floats(64),
              "fits for 64 keys, and more keys bring more room than they need");

struct Int16Softmax {
    float scale[kQueries];  // a query's scale, times the factor that makes 2^score of its scores
    float greatest[kQueries];
    float sum[kQueries];  // of probability codes
};

// Return 1 / scale, or 0 for a row whose greatest is so small that 1 / scale would be infinite. Its codes are 0 then.
inline float inverse_scale(float greatest, float greatest_code) {
    return greatest < 1e-30f ? 0.0f : greatest_code / greatest;
}

// Quantise a row of a head, and return the row's scale.
inline float quantize_head(const float* row, int16_t* codes) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 greatest = _mm256_setzero_ps();
    for (int64_t i = 0; i < kHeadSize; i += kLanes) {
        greatest = _mm256_max_ps(greatest, _mm256_and_ps(_mm256_loadu_ps(row + i), magnitude));
    }
    const float limit = greatest_lane(greatest);
    const __m256 factor = _mm256_set1_ps(inverse_scale(limit, kGreatestInput));
    for (int64_t i = 0; i < kHeadSize; i += 2 * kLanes) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + i), factor));
        const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + i + kLanes), factor));
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), both);
    }
    return limit / kGreatestInput;
}

// Quantise eight keys, of which `n` (0 to 8) exist, into half of a tile. Pairs of codes move as floats do.
inline void quantize_eight_keys(const float* k, int64_t k_stride, int64_t n, int16_t* half_tile, float* scales) {
    alignas(32) int16_t codes[8][kHeadSize] = {};
    for (int64_t j = 0; j < 8; ++j) scales[j] = j < n ? quantize_head(k + j * k_stride, codes[j]) : 0.0f;
    for (int64_t i = 0; i < kHeadSize; i += 2 * kLanes) {
        __m256 x[8];
        for (int64_t j = 0; j < 8; ++j) x[j] = _mm256_load_ps(reinterpret_cast<const float*>(&codes[j][i]));
        transpose(x);
        for (int64_t j = 0; j < 8; ++j) {
            _mm256_store_ps(reinterpret_cast<float*>(half_tile + (i + 2 * j) * kKeyTile), x[j]);
        }
    }
}

inline void quantize_keys(const float* k, int64_t k_stride, int64_t n_keys, const Int16Scratch& at) {
    for (int64_t first = 0; first < n_keys; first += kKeyTile) {
        for (int64_t half = 0; half < kKeyTile; half += 8) {
            const int64_t key = first + half, left = n_keys - key;
            quantize_eight_keys(k + key * k_stride, k_stride, left < 0 ? 0 : left,
                                at.keys + first * kHeadSize + 2 * half, at.key_scales + key);
        }
    }
}

// Quantise eight columns of up to kKeysAtOnce keys. A last key without a partner gets one of zeros.
inline void quantize_value_columns(const float* v, int64_t v_stride, int64_t n, int16_t* values, float* scales) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 greatest = _mm256_set1_ps(1e-30f);
    for (int64_t j = 0; j < n; ++j) {
        greatest = _mm256_max_ps(greatest, _mm256_and_ps(_mm256_loadu_ps(v + j * v_stride), magnitude));
    }
    const __m256 limit = _mm256_set1_ps(kGreatestValue), factor = _mm256_div_ps(limit, greatest);
    _mm256_store_ps(scales, _mm256_div_ps(greatest, limit));
    for (int64_t j = 0; j < n; j += 2) {
        const __m256i even = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(v + j * v_stride), factor));
        const __m256 next = j + 1 < n ? _mm256_loadu_ps(v + (j + 1) * v_stride) : _mm256_setzero_ps();
        const __m256i odd = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(next, factor)), 16);
        _mm256_store_si256(reinterpret_cast<__m256i*>(values + j * kHeadSize), _mm256_blend_epi16(even, odd, 0xaa));
    }
}

inline void quantize_values(const float* v, int64_t v_stride, int64_t n_keys, const Int16Scratch& at) {
    for (int64_t first = 0; first < n_keys; first += kKeysAtOnce) {
        const int64_t n = n_keys - first < kKeysAtOnce ? n_keys - first : kKeysAtOnce;
        for (int64_t i = 0; i < kHeadSize; i += kLanes) {
            quantize_value_columns(v + first * v_stride + i, v_stride, n, at.values + first * kHeadSize + 2 * i,
                                   at.value_scales + first / kKeysAtOnce * kHeadSize + i);
        }
    }
}

inline void quantize_queries(const float* q, int64_t q_stride, int64_t n, const Int16Scratch& at,
                             Int16Softmax* softmax) {
    for (int64_t r = 0; r < n; ++r) {
        softmax->scale[r] = quantize_head(q + r * q_stride, at.queries + r * kHeadSize) * kScoreFactor;
    }
    memset(at.queries + n * kHeadSize, 0, static_cast<size_t>((kQueries - n) * kHeadSize) * sizeof(int16_t));
}

// A tile like FloatTile, with pairs of codes in place of values. Twelve sums, two registers of w, an input and a
// product fill it.
struct Int16Tile {
    __m256i sum[kStripRows][2];

    // Strides in int16.
    void multiply(const int16_t* a, int64_t a_stride, const int16_t* w, int64_t w_stride, int64_t n_pairs) {
        for (int r = 0; r < kStripRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
        for (int64_t i = 0; i < n_pairs; ++i, a += 2, w += w_stride) {
            const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
            const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 2 * kLanes));
            for (int r = 0; r < kStripRows; ++r) {
                int32_t both;
                memcpy(&both, a + r * a_stride, sizeof both);
                const __m256i pair = _mm256_set1_epi32(both);
                add_int32(sum[r][0], _mm256_madd_epi16(pair, w0));
                add_int32(sum[r][1], _mm256_madd_epi16(pair, w1));
            }
        }
    }
};

inline void multiply_keys(const Int16Scratch& at, int64_t n_rows, int64_t first_key, int64_t n_keys) {
    for (int64_t key = 0; key < n_keys; key += kKeyTile) {
        const float* scales = at.key_scales + first_key + key;
        for (int64_t row = 0; row < n_rows; row += kStripRows) {
            Int16Tile tile;
            tile.multiply(at.queries + row * kHeadSize, kHeadSize, at.keys + (first_key + key) * kHeadSize,
                          2 * kKeyTile, kHeadSize / 2);
            for (int r = 0; r < kStripRows; ++r) {
                float* to = at.scores + (row + r) * kKeysAtOnce + key;
                for (int i = 0; i < 2; ++i) {
                    const __m256 scale = _mm256_loadu_ps(scales + i * kLanes);
                    _mm256_store_ps(to + i * kLanes, _mm256_mul_ps(_mm256_cvtepi32_ps(tile.sum[r][i]), scale));
                }
            }
        }
    }
}

inline void multiply_values(const Int16Scratch& at, int64_t n_rows, int64_t first_key, int64_t n_keys) {
    for (int64_t column = 0; column < kHeadSize; column += kTileColumns) {
        const float* scales = at.value_scales + first_key / kKeysAtOnce * kHeadSize + column;
        for (int64_t row = 0; row < n_rows; row += kStripRows) {
            Int16Tile tile;
            tile.multiply(at.probabilities + row * kKeysAtOnce, kKeysAtOnce,
                          at.values + first_key * kHeadSize + 2 * column, 2 * kHeadSize, (n_keys + 1) / 2);
            for (int r = 0; r < kStripRows; ++r) {
                float* to = at.sums + (row + r) * kHeadSize + column;
                for (int i = 0; i < 2; ++i, to += kLanes) {
                    const __m256 scale = _mm256_load_ps(scales + i * kLanes);
                    _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(tile.sum[r][i]), scale, _mm256_load_ps(to)));
                }
            }
        }
    }
}

// Quantise 2^(scale * score - greatest), and return the sum of the codes. The output is divided by this sum in the end,
// so that rounding moves weight between keys but makes none. Places behind the last key become 0.
inline float quantize_probabilities(const float* scores, int64_t n, float scale, float greatest, int16_t* codes) {
    const __m256 by = _mm256_set1_ps(scale), subtracted = _mm256_set1_ps(greatest - kLogGreatestProbability);
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 2 * kLanes) {
        __m256i p[2];
        for (int64_t j = 0; j < 2; ++j) {
            const int64_t first = i + j * kLanes;
            p[j] = _mm256_cvtps_epi32(exp2_of(_mm256_fmsub_ps(_mm256_load_ps(scores + first), by, subtracted)));
            if (n - first < kLanes) p[j] = _mm256_and_si256(p[j], first_lanes(n - first));
            sum = _mm256_add_epi32(sum, p[j]);
        }
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(p[0], p[1]), 0xd8);
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes + i), both);
    }
    return sum_of_lanes(_mm256_cvtepi32_ps(sum));
}

// `bias` begins with that of the first of these keys, or is null.
inline void update_softmax(const Int16Scratch& at, int64_t n_rows, int64_t n_keys, const float* bias, bool is_first,
                           Int16Softmax* softmax) {
    for (int64_t r = 0; r < n_rows; ++r) {
        float* scores = at.scores + r * kKeysAtOnce;
        float scale = softmax->scale[r];
        if (bias != nullptr) {
            add_bias(bias, n_keys, scale, scores);
            scale = 1.0f;
        }
        const float greatest = greatest_of(scores, n_keys) * scale;
        raise_greatest(greatest, is_first, &softmax->greatest[r], &softmax->sum[r], at.sums + r * kHeadSize);
        softmax->sum[r] +=
            quantize_probabilities(scores, n_keys, scale, softmax->greatest[r], at.probabilities + r * kKeysAtOnce);
    }
}

// Attend with up to kQueries queries.
inline void attend(const Int16Scratch& at, const float* q, int64_t q_stride, int64_t n_queries, int64_t n_keys,
                   const float* bias, float* out, int64_t out_stride) {
    const int64_t n_rows = (n_queries + kStripRows - 1) / kStripRows * kStripRows;
    Int16Softmax softmax = {};
    quantize_queries(q, q_stride, n_queries, at, &softmax);
    memset(at.sums, 0, kQueries * kHeadSize * sizeof(float));
    for (int64_t first = 0; first < n_keys; first += kKeysAtOnce) {
        const int64_t n = n_keys - first < kKeysAtOnce ? n_keys - first : kKeysAtOnce;
        multiply_keys(at, n_rows, first, n);
        update_softmax(at, n_rows, n, bias == nullptr ? nullptr : bias + first, first == 0, &softmax);
        multiply_values(at, n_rows, first, n);
    }
    store_rows(at.sums, softmax.sum, n_queries, out, out_stride);
}

inline void attention_int16(const HeadRows& head, float* out, int64_t out_stride, float* scratch) {
    const Int16Scratch at(scratch, head.n_keys);
    quantize_keys(head.k, head.k_stride, head.n_keys, at);
    quantize_values(head.v, head.v_stride, head.n_keys, at);
    for (int64_t first = 0; first < head.n_queries; first += kQueries) {
        const int64_t n = head.n_queries - first < kQueries ? head.n_queries - first : kQueries;
        attend(at, head.q + first * head.q_stride, head.q_stride, n, head.n_keys, head.bias, out + first * out_stride,
               out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
