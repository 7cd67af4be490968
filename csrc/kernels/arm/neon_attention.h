// Attention of one head, in f32, without a matrix of scores: keys are taken in chunks, and each query keeps the
// greatest score so far, the sum of exp(score - greatest), and its weighted sum of values, which are scaled down when a
// greater score comes.
//
// Loops, from the outside: some queries, whose sums stay in the second-level cache; a chunk of packed keys and values,
// which stays in the first-level cache and is read from memory once for all of these queries; a strip of queries.
#pragma once

#include "kernels/arm/neon_float.h"
#include "kernels/arm/neon_math.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kChunkKeys = 48;  // keys and values of a chunk: 24 KiB
constexpr int64_t kChunkTiles = kChunkKeys / kTileColumns;
constexpr int64_t kQueriesAtOnce = 12 * kStripRows;
constexpr int64_t kHeadTiles = kHeadSize / kTileColumns;
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kScoreScale = kLog2E / 8.0f;  // 1 / sqrt(kHeadSize), and 2^x is what we have
constexpr float kNoScore = -3e38f;

// What is kept in `scratch`.
//
//   keys    [tile of 16 keys][kHeadSize][16], keys that do not exist being zeros
//   values  [tile of 16 of kHeadSize][n_keys][16]
struct AttentionScratch {
    float* keys;
    float* values;
    float* sums;      // [kQueriesAtOnce][kHeadSize]
    float* greatest;  // [kQueriesAtOnce], of the scaled scores
    float* totals;    // [kQueriesAtOnce]
};
constexpr int64_t kQueryFloats = kQueriesAtOnce * (kHeadSize + 2);
static_assert(attention_scratch_floats(1) >= static_cast<size_t>(2 * 64 * kHeadSize + kQueryFloats), "fits");

WHISPERQ_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

AttentionScratch divide_scratch(float* scratch, int64_t n_keys) {
    const int64_t padded = (n_keys + kTileColumns - 1) / kTileColumns * kTileColumns;
    AttentionScratch s;
    s.keys = scratch;
    s.values = s.keys + padded * kHeadSize;
    s.sums = s.values + padded * kHeadSize;
    s.greatest = s.sums + kQueriesAtOnce * kHeadSize;
    s.totals = s.greatest + kQueriesAtOnce;
    return s;
}

// Four values of four keys, transposed: to[i] has value i of each.
WHISPERQ_INLINE void transpose(const float32x4_t (&from)[4], float32x4_t (&to)[4]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(from[0], from[1]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(from[0], from[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(from[2], from[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(from[2], from[3]));
    to[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    to[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    to[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    to[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

void pack_keys(const float* k, int64_t k_stride, int64_t n_keys, float* packed) {
    static const float kZeros[kHeadSize] = {};
    const int64_t n_tiles = (n_keys + kTileColumns - 1) / kTileColumns;
    for (int64_t n = 0; n < n_tiles * kTileColumns; n += kLanes) {
        float* tile = packed + n / kTileColumns * kTileColumns * kHeadSize + n % kTileColumns;
        const float* keys[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) keys[j] = n + j < n_keys ? k + (n + j) * k_stride : kZeros;
        for (int64_t i = 0; i < kHeadSize; i += kLanes) {
            const float32x4_t rows[] = {vld1q_f32(keys[0] + i), vld1q_f32(keys[1] + i), vld1q_f32(keys[2] + i),
                                        vld1q_f32(keys[3] + i)};
            float32x4_t columns[kLanes];
            transpose(rows, columns);
            for (int64_t j = 0; j < kLanes; ++j) vst1q_f32(tile + (i + j) * kTileColumns, columns[j]);
        }
    }
}

void pack_values(const float* v, int64_t v_stride, int64_t n_keys, float* packed) {
    for (int64_t n = 0; n < n_keys; ++n) {
        for (int64_t t = 0; t < kHeadTiles; ++t) {
            store_row(packed + (t * n_keys + n) * kTileColumns, load_row(v + n * v_stride + t * kTileColumns));
        }
    }
}

struct Chunk {
    int64_t first_key, n_keys;
    int64_t n_tiles() const { return (n_keys + kTileColumns - 1) / kTileColumns; }
};

struct Scores {
    alignas(16) float rows[kStripRows][kChunkKeys];
};

template <int kRows>
void score(const float* const (&queries)[kRows], const float* keys, const Chunk& chunk, Scores& scores) {
    for (int64_t t = 0; t < chunk.n_tiles(); ++t) {
        TileSums sums;
        multiply_float_tile(queries, keys + (chunk.first_key + t * kTileColumns) * kHeadSize, kHeadSize, sums);
        for (int r = 0; r < kRows; ++r) store_row(scores.rows[r] + t * kTileColumns, load_row(sums.rows[r]));
    }
    for (int64_t n = chunk.n_keys; n < chunk.n_tiles() * kTileColumns; ++n) {
        for (int r = 0; r < kRows; ++r) scores.rows[r][n] = kNoScore;
    }
}

float greatest_of(const float* scores, int64_t n_tiles) {
    Row16 greatest = load_row(scores);
    for (int64_t t = 1; t < n_tiles; ++t) {
        const Row16 row = load_row(scores + t * kTileColumns);
        for (int64_t j = 0; j < kQuads; ++j) greatest.quad[j] = vmaxq_f32(greatest.quad[j], row.quad[j]);
    }
    return vmaxvq_f32(
        vmaxq_f32(vmaxq_f32(greatest.quad[0], greatest.quad[1]), vmaxq_f32(greatest.quad[2], greatest.quad[3])));
}

// scores = 2^(scores * kScoreScale - greatest); returns their sum.
float exponentiate(float* scores, int64_t n_tiles, float greatest) {
    float32x4_t sum[kQuads] = {};
    for (int64_t t = 0; t < n_tiles; ++t, scores += kTileColumns) {
        const Row16 row = load_row(scores);
        Row16 power;
        for (int64_t j = 0; j < kQuads; ++j) {
            power.quad[j] = exp2_of(vfmaq_f32(vdupq_n_f32(-greatest), row.quad[j], vdupq_n_f32(kScoreScale)));
        }
        for (int64_t j = 0; j < kQuads; ++j) sum[j] = vaddq_f32(sum[j], power.quad[j]);
        store_row(scores, power);
    }
    return vaddvq_f32(vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])));
}

// Turns a query's scores into weights, and returns by what its sums so far must be multiplied. `greatest` is kept
// scaled and rounded, and only it is used, so that its rounding is the same in every chunk.
float weigh(float* scores, int64_t n_tiles, float* greatest, float* total) {
    const float before = *greatest;
    const float scaled = greatest_of(scores, n_tiles) * kScoreScale;
    const float now = scaled > before || scaled != scaled ? scaled : before;
    const float factor = vgetq_lane_f32(exp2_of(vdupq_n_f32(before - now)), 0);
    *greatest = now;
    *total = *total * factor + exponentiate(scores, n_tiles, now);
    return factor;
}

// sums[r] = sums[r] * factors[r] + weights of r * values
template <int kRows>
void add_values(const Scores& weights, const float (&factors)[kStripRows], const float* values, int64_t n_keys,
                const Chunk& chunk, float* sums) {
    const float* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = weights.rows[r];
    for (int64_t t = 0; t < kHeadTiles; ++t) {
        FloatSums<kRows> sum;
        float* to = sums + t * kTileColumns;
        for (int r = 0; r < kRows; ++r) {
            for (int64_t j = 0; j < kQuads; ++j) {
                sum.sum[r][j] = vmulq_n_f32(vld1q_f32(to + r * kHeadSize + j * kLanes), factors[r]);
            }
        }
        multiply_rows(rows, values + (t * n_keys + chunk.first_key) * kTileColumns, chunk.n_keys, sum);
        for (int r = 0; r < kRows; ++r) {
            for (int64_t j = 0; j < kQuads; ++j) vst1q_f32(to + r * kHeadSize + j * kLanes, sum.sum[r][j]);
        }
    }
}

// A strip of queries and a chunk of keys. The strip's sums and what goes with them start at `first`.
template <int kRows>
void attend_chunk(const float* const (&queries)[kRows], const AttentionScratch& s, int64_t first, int64_t n_keys,
                  const Chunk& chunk) {
    Scores scores;
    float factors[kStripRows] = {};
    score(queries, s.keys, chunk, scores);
    for (int r = 0; r < kRows; ++r) {
        factors[r] = weigh(scores.rows[r], chunk.n_tiles(), s.greatest + first + r, s.totals + first + r);
    }
    add_values<kRows>(scores, factors, s.values, n_keys, chunk, s.sums + first * kHeadSize);
}

void attend_strip(const float* q, int64_t q_stride, int64_t n_queries, const AttentionScratch& s, int64_t first,
                  int64_t n_keys, const Chunk& chunk) {
    with_row_count(n_queries, [&](auto count) {
        const float* queries[decltype(count)::kRows];
        point_to_rows(q, q_stride, n_queries, queries);
        attend_chunk(queries, s, first, n_keys, chunk);
    });
}

void start_queries(const AttentionScratch& s) {
    memset(s.sums, 0, kQueriesAtOnce * kHeadSize * sizeof(float));
    for (int64_t m = 0; m < kQueriesAtOnce; ++m) {
        s.greatest[m] = kNoScore;
        s.totals[m] = 0.0f;
    }
}

void store_queries(const AttentionScratch& s, int64_t n_queries, float* out, int64_t out_stride) {
    for (int64_t m = 0; m < n_queries; ++m) {
        const float factor = 1.0f / s.totals[m];
        for (int64_t i = 0; i < kHeadSize; i += kLanes) {
            vst1q_f32(out + m * out_stride + i, vmulq_n_f32(vld1q_f32(s.sums + m * kHeadSize + i), factor));
        }
    }
}

void attention(const float* q, int64_t q_stride, const float* k, int64_t k_stride, const float* v, int64_t v_stride,
               int64_t n_queries, int64_t n_keys, bool /*exact: it always is*/, float* out, int64_t out_stride,
               float* scratch) {
    const AttentionScratch s = divide_scratch(scratch, n_keys);
    pack_keys(k, k_stride, n_keys, s.keys);
    pack_values(v, v_stride, n_keys, s.values);
    for (int64_t first = 0; first < n_queries; first += kQueriesAtOnce) {
        const int64_t n_some = least(kQueriesAtOnce, n_queries - first);
        start_queries(s);
        for (int64_t key = 0; key < n_keys; key += kChunkKeys) {
            const Chunk chunk = {key, least(kChunkKeys, n_keys - key)};
            for (int64_t m = 0; m < n_some; m += kStripRows) {
                attend_strip(q + (first + m) * q_stride, q_stride, least(kStripRows, n_some - m), s, m, n_keys, chunk);
            }
        }
        store_queries(s, n_some, out + first * out_stride, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
