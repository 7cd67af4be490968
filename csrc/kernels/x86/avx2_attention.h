// Attention in f32, in one pass over the keys. For some queries and some keys it computes scores, the greatest so far,
// and the probabilities relative to it. Their weighted values are added to the output, which is scaled when the
// greatest changes.
//
//                 kKeysAtOnce                       scratch, in floats:
//              +-------------+--                    keys    [tiles of 16 keys][kHeadSize][16]
//   kQueries   |   scores    | ...                  values  [keys][kHeadSize]
//              +-------------+--                    queries, sums, scores of one block
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/avx2_float.h"
#include "kernels/x86/avx2_math.h"

namespace whisperq::kernels {
namespace {

// Four strips use a tile of keys (4 KB) or of values while it is in L1. The block's keys and values are in L2.
constexpr int64_t kQueries = 4 * kStripRows;
constexpr int64_t kKeysAtOnce = 128;
constexpr int64_t kKeyTile = kTileColumns;
constexpr float kLog2E = 1.44269504088896341f;   // exp(x) = 2^(x log2 e)
constexpr float kScoreFactor = 0.125f * kLog2E;  // 1 / sqrt(kHeadSize), and the same

struct AttentionScratch {
    float* keys;
    float* values;
    float* queries;  // [kQueries][kHeadSize], scaled so that 2^score is wanted
    float* sums;     // [kQueries][kHeadSize]: sum of probability * value
    float* scores;   // [kQueries][kKeysAtOnce]

    AttentionScratch(float* scratch, int64_t n_keys) {
        const int64_t packed = (n_keys + 63) / 64 * 64 * kHeadSize;
        keys = scratch;
        values = keys + packed;
        queries = values + packed;
        sums = queries + kQueries * kHeadSize;
        scores = sums + kQueries * kHeadSize;
    }
};
static_assert(2 * kQueries * kHeadSize + kQueries * kKeysAtOnce <= 2 * kQueryBlock * 64 + 4096, "fits for any n_keys");

// The greatest score so far of each query, and the sum of its probabilities relative to that.
struct Softmax {
    float greatest[kQueries];
    float sum[kQueries];
};

// Transpose: row i holds value 0 to 7 of key i before, and value i of key 0 to 7 afterwards.
inline void transpose(__m256 (&x)[8]) {
    __m256 t[8], u[8];
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            u[4 * i + 2 * j] = _mm256_shuffle_ps(t[4 * i + j], t[4 * i + j + 2], 0x44);
            u[4 * i + 2 * j + 1] = _mm256_shuffle_ps(t[4 * i + j], t[4 * i + j + 2], 0xee);
        }
    }
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

// Pack eight keys, of which `n` (0 to 8) exist, into half of a tile.
inline void pack_eight_keys(const float* k, int64_t k_stride, int64_t n, float* half_tile) {
    for (int64_t i = 0; i < kHeadSize; i += kLanes) {
        __m256 x[8];
        for (int64_t j = 0; j < 8; ++j) x[j] = j < n ? _mm256_loadu_ps(k + j * k_stride + i) : _mm256_setzero_ps();
        transpose(x);
        for (int64_t j = 0; j < 8; ++j) _mm256_store_ps(half_tile + (i + j) * kKeyTile, x[j]);
    }
}

inline void pack_keys(const float* k, int64_t k_stride, int64_t n_keys, float* keys) {
    for (int64_t first = 0; first < n_keys; first += kKeyTile) {
        for (int64_t half = 0; half < kKeyTile; half += 8) {
            const int64_t left = n_keys - first - half;
            pack_eight_keys(k + (first + half) * k_stride, k_stride, left < 0 ? 0 : left,
                            keys + first * kHeadSize + half);
        }
    }
}

// Copy a head's values side by side. Rows of a head lie far apart, at strides that share few sets of the cache, and are
// used together.
inline void pack_values(const float* v, int64_t v_stride, int64_t n_keys, float* values) {
    for (int64_t i = 0; i < n_keys; ++i) memcpy(values + i * kHeadSize, v + i * v_stride, kHeadSize * sizeof(float));
}

// Queries that do not exist are zero.
inline void pack_queries(const float* q, int64_t q_stride, int64_t n, float* queries) {
    const __m256 factor = _mm256_set1_ps(kScoreFactor);
    for (int64_t r = 0; r < n; ++r) {
        for (int64_t i = 0; i < kHeadSize; i += kLanes) {
            _mm256_store_ps(queries + r * kHeadSize + i, _mm256_mul_ps(_mm256_loadu_ps(q + r * q_stride + i), factor));
        }
    }
    memset(queries + n * kHeadSize, 0, static_cast<size_t>((kQueries - n) * kHeadSize) * sizeof(float));
}

inline void multiply_keys(const AttentionScratch& at, int64_t n_rows, int64_t first_key, int64_t n_keys) {
    for (int64_t key = 0; key < n_keys; key += kKeyTile) {
        for (int64_t row = 0; row < n_rows; row += kStripRows) {
            FloatTile<kStripRows> tile;
            tile.clear();
            tile.multiply(at.queries + row * kHeadSize, kHeadSize, at.keys + (first_key + key) * kHeadSize, kKeyTile,
                          kHeadSize);
            tile.store(at.scores + row * kKeysAtOnce + key, kKeysAtOnce);
        }
    }
}

inline void multiply_values(const AttentionScratch& at, int64_t n_rows, int64_t first_key, int64_t n_keys) {
    for (int64_t i = 0; i < kHeadSize; i += kTileColumns) {
        for (int64_t row = 0; row < n_rows; row += kStripRows) {
            FloatTile<kStripRows> tile;
            tile.load(at.sums + row * kHeadSize + i, kHeadSize);
            tile.multiply(at.scores + row * kKeysAtOnce, kKeysAtOnce, at.values + first_key * kHeadSize + i, kHeadSize,
                          n_keys);
            tile.store(at.sums + row * kHeadSize + i, kHeadSize);
        }
    }
}

// Compute scores = scores * factor + bias * log2 e.
inline void add_bias(const float* bias, int64_t n, float factor, float* scores) {
    const __m256 by = _mm256_set1_ps(factor), log2_e = _mm256_set1_ps(kLog2E);
    for (int64_t i = 0; i < n; i += kLanes) {
        const __m256 added = _mm256_mul_ps(_mm256_maskload_ps(bias + i, first_lanes(n - i)), log2_e);
        _mm256_store_ps(scores + i, _mm256_fmadd_ps(_mm256_load_ps(scores + i), by, added));
    }
}

inline float greatest_of(const float* scores, int64_t n) {
    __m256 greatest = _mm256_set1_ps(scores[0]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) greatest = _mm256_max_ps(greatest, _mm256_load_ps(scores + i));
    float value = greatest_lane(greatest);
    for (; i < n; ++i) value = scores[i] > value ? scores[i] : value;
    return value;
}

// Turn scores into probabilities relative to `greatest`, and return their sum. Places behind the last key become 0.
inline float exponentiate(float* scores, int64_t n, float greatest) {
    const __m256 subtracted = _mm256_set1_ps(greatest);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += kLanes) {
        __m256 p = exp2_of(_mm256_sub_ps(_mm256_load_ps(scores + i), subtracted));
        if (n - i < kLanes) p = _mm256_and_ps(p, _mm256_castsi256_ps(first_lanes(n - i)));
        _mm256_store_ps(scores + i, p);
        sum = _mm256_add_ps(sum, p);
    }
    return sum_of_lanes(sum);
}

inline void scale_row(float* row, float factor) {
    const __m256 by = _mm256_set1_ps(factor);
    for (int64_t i = 0; i < kHeadSize; i += kLanes) {
        _mm256_store_ps(row + i, _mm256_mul_ps(_mm256_load_ps(row + i), by));
    }
}

// Make a block's `greatest` the greatest score so far, if it is greater. The sums by the lesser one are then scaled:
// the probabilities, and their products with values in `row`.
inline void raise_greatest(float greatest, bool is_first, float* greatest_so_far, float* sum, float* row) {
    if (is_first) {
        *greatest_so_far = greatest;
    } else if (greatest > *greatest_so_far) {
        const float factor = exp2_of(*greatest_so_far - greatest);
        scale_row(row, factor);
        *sum *= factor;
        *greatest_so_far = greatest;
    }
}

// Store the sums, divided by the sums of their probabilities.
inline void store_rows(float* sums, const float* divisors, int64_t n, float* out, int64_t out_stride) {
    for (int64_t r = 0; r < n; ++r) {
        scale_row(sums + r * kHeadSize, 1.0f / divisors[r]);
        memcpy(out + r * out_stride, sums + r * kHeadSize, kHeadSize * sizeof(float));
    }
}

// `bias` begins with that of the first of these keys, or is null.
inline void update_softmax(const AttentionScratch& at, int64_t n_rows, int64_t n_keys, const float* bias, bool is_first,
                           Softmax* softmax) {
    for (int64_t r = 0; r < n_rows; ++r) {
        float* scores = at.scores + r * kKeysAtOnce;
        if (bias != nullptr) add_bias(bias, n_keys, 1.0f, scores);
        const float greatest = greatest_of(scores, n_keys);
        raise_greatest(greatest, is_first, &softmax->greatest[r], &softmax->sum[r], at.sums + r * kHeadSize);
        softmax->sum[r] += exponentiate(scores, n_keys, softmax->greatest[r]);
    }
}

// Attend with up to kQueries queries.
inline void attend(const AttentionScratch& at, int64_t n_queries, int64_t n_keys, const float* bias, float* out,
                   int64_t out_stride) {
    const int64_t n_rows = (n_queries + kStripRows - 1) / kStripRows * kStripRows;
    Softmax softmax = {};
    memset(at.sums, 0, kQueries * kHeadSize * sizeof(float));
    for (int64_t first = 0; first < n_keys; first += kKeysAtOnce) {
        const int64_t n = n_keys - first < kKeysAtOnce ? n_keys - first : kKeysAtOnce;
        multiply_keys(at, n_rows, first, n);
        update_softmax(at, n_rows, n, bias == nullptr ? nullptr : bias + first, first == 0, &softmax);
        multiply_values(at, n_rows, first, n);
    }
    store_rows(at.sums, softmax.sum, n_queries, out, out_stride);
}

inline void attention_float(const HeadRows& head, float* out, int64_t out_stride, float* scratch) {
    const AttentionScratch at(scratch, head.n_keys);
    pack_keys(head.k, head.k_stride, head.n_keys, at.keys);
    pack_values(head.v, head.v_stride, head.n_keys, at.values);
    for (int64_t first = 0; first < head.n_queries; first += kQueries) {
        const int64_t n = head.n_queries - first < kQueries ? head.n_queries - first : kQueries;
        pack_queries(head.q + first * head.q_stride, head.q_stride, n, at.queries);
        attend(at, n, head.n_keys, head.bias, out + first * out_stride, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
