// Attention of one head, in the manner of flash attention: for a block of up to 48 queries the keys come in chunks,
// and scores, probabilities and the weighted sum of a chunk's values are computed while the chunk is in the cache. When
// a chunk raises a query's greatest score, what was summed so far is scaled down.
//
//   scores    lanes are queries, so that greatest, exp and sum need no exchange between lanes:
//
//               queries: 3 registers         8 keys x 3 registers of sums; a step takes one word (an f32, or a pair
//             +------+------+------+         of bf16) of each key in every lane. Keys need no transposition, the few
//    8 keys   |      |      |      |         queries are transposed.
//             +------+------+------+
//
//   output    lanes are the 64 values of the head:
//
//               values: 4 registers          6 queries x 4 registers of sums; a step takes one word of probabilities
//             +-----+-----+-----+-----+      (a key, or a pair of keys in bf16), which the layout of the scores has
//    6        |     |     |     |     |      ready, in every lane.
//    queries  +-----+-----+-----+-----+
//
// The product's operands are an `Operands`: F32 or (avx512_bf16.h) Bf16. A word holds Operands::kPack of them.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/x86/avx512_math.h"

namespace whisperq::kernels {
namespace {

constexpr int kQueryVectors = 3;     // registers of queries in a block
constexpr int64_t kChunkKeys = 128;  // of 32, 64, 128 and 256 the fastest on Zen 4, by a few percent
constexpr int64_t kKeyGroup = 8;     // keys whose scores are summed at once
constexpr int kHeadVectors = kHeadSize / kLanes;
constexpr float kQueryScale = 0.125f * 1.44269504088896f;  // 1 / sqrt(64), and e^x = 2^(x log2 e)
constexpr float kNoScore = -3.402823466e38f;

static_assert(kChunkKeys % kKeyGroup == 0 && 64 % kKeyGroup == 0, "a chunk has whole groups, and scratch has room");

struct F32 {
    static constexpr int kPack = 1;
    static constexpr int kExp2Degree = kExp2Exact;

    static __m512 dot(__m512 sum, __m512i a, __m512i b) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }

    // A row of the head into kHeadSize / kPack words.
    static void pack_row(const float* from, float factor, float* words) {
#pragma GCC unroll 4
        for (int v = 0; v < kHeadVectors; ++v) {
            _mm512_storeu_ps(words + v * kLanes,
                             _mm512_mul_ps(_mm512_loadu_ps(from + v * kLanes), _mm512_set1_ps(factor)));
        }
    }

    // kPack rows of values, of which `n` exist, into kHeadSize words.
    static void pack_values(const float* from, int64_t, int64_t, float* words) {
        pack_row(from, 1.0f, words);
    }

    // kPack registers of probabilities into one of words; adds what they are as operands to `total`.
    static __m512i pack_probabilities(const __m512 (&p)[kPack], __m512& total) {
        total = _mm512_add_ps(total, p[0]);
        return _mm512_castps_si512(p[0]);
    }
};

// What a block of queries needs while it goes over the keys. Words and scores lie [step][query].
template <class Operands, int kVectors>
struct QueryBlock {
    static constexpr int64_t kQueries = kVectors * kLanes;
    static constexpr int64_t kSteps = kHeadSize / Operands::kPack;

    alignas(64) float queries[kSteps][kQueries];
    alignas(64) float scores[kChunkKeys][kQueries];  // then, from the beginning, the words of the probabilities
    alignas(64) float sums[kQueries][kHeadSize];     // of values by probabilities
    alignas(64) float factors[kQueries];             // what the sums are worth beside the new greatest score
    __m512 greatest[kVectors];
    __m512 totals[kVectors];  // of the probabilities
};

template <class Operands, int kVectors>
static inline void start_block(QueryBlock<Operands, kVectors>& block, const float* q, int64_t q_stride,
                               int64_t n_queries) {
    using Block = QueryBlock<Operands, kVectors>;
    memset(block.queries, 0, sizeof block.queries);
    memset(block.sums, 0, sizeof block.sums);
    for (int64_t m = 0; m < n_queries; ++m) {
        alignas(64) float words[Block::kSteps];
        Operands::pack_row(q + m * q_stride, kQueryScale, words);
        for (int64_t s = 0; s < Block::kSteps; ++s) memcpy(&block.queries[s][m], words + s, sizeof(float));
    }
    for (int v = 0; v < kVectors; ++v) {
        block.greatest[v] = _mm512_set1_ps(kNoScore);
        block.totals[v] = _mm512_setzero_ps();
    }
}

// Scores of all queries with kKeyGroup keys.
template <class Operands, int kVectors>
static inline void score_keys(const QueryBlock<Operands, kVectors>& block, const float* keys, float* scores,
                              __m512 (&greatest)[kVectors]) {
    using Block = QueryBlock<Operands, kVectors>;
    __m512 sums[kKeyGroup][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kKeyGroup; ++i) {
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_setzero_ps();
    }
#pragma GCC unroll 2
    for (int64_t s = 0; s < Block::kSteps; ++s) {
        __m512i queries[kVectors];
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) queries[v] = _mm512_load_si512(&block.queries[s][v * kLanes]);
#pragma GCC unroll 8
        for (int i = 0; i < kKeyGroup; ++i) {
            const __m512i key = broadcast_word(keys + i * Block::kSteps + s);
#pragma GCC unroll 3
            for (int v = 0; v < kVectors; ++v) sums[i][v] = Operands::dot(sums[i][v], queries[v], key);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kKeyGroup; ++i) {
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) {
            _mm512_store_ps(scores + i * Block::kQueries + v * kLanes, sums[i][v]);
            greatest[v] = _mm512_max_ps(greatest[v], sums[i][v]);
        }
    }
}

// Scores of a chunk into probabilities, relative to the greatest score so far.
template <class Operands, int kVectors>
static inline void weigh_keys(QueryBlock<Operands, kVectors>& block, const __m512 (&greatest)[kVectors],
                              int64_t n_keys) {
    constexpr int kPack = Operands::kPack;
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
        const __m512 factor = exp2_of<kExp2Exact>(_mm512_sub_ps(block.greatest[v], greatest[v]));
        __m512 total = _mm512_mul_ps(block.totals[v], factor);
        _mm512_store_ps(&block.factors[v * kLanes], factor);
        block.greatest[v] = greatest[v];
        for (int64_t n = 0; n < n_keys; n += kPack) {
            __m512 p[kPack];
#pragma GCC unroll 2
            for (int i = 0; i < kPack; ++i) {
                const __m512 score = _mm512_load_ps(&block.scores[n + i][v * kLanes]);
                p[i] = exp2_of<Operands::kExp2Degree>(_mm512_sub_ps(score, greatest[v]));
                if (i > 0) p[i] = _mm512_maskz_mov_ps(n + i < n_keys ? 0xffff : 0, p[i]);  // a pair may lack its second
            }
            _mm512_store_si512(&block.scores[n / kPack][v * kLanes], Operands::pack_probabilities(p, total));
        }
        block.totals[v] = total;
    }
}

// sums = sums * factor + probabilities * values of a chunk, for kRows queries from `first` on.
template <class Operands, int kVectors, int kBlockRows>
static inline void add_values(QueryBlock<Operands, kVectors>& block, int64_t first, const float* values,
                              int64_t n_steps) {
    __m512 sums[kBlockRows][kHeadVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kBlockRows; ++r) {
        const __m512 factor = _mm512_set1_ps(block.factors[first + r]);
#pragma GCC unroll 4
        for (int c = 0; c < kHeadVectors; ++c) {
            sums[r][c] = _mm512_mul_ps(_mm512_load_ps(&block.sums[first + r][c * kLanes]), factor);
        }
    }
    for (int64_t s = 0; s < n_steps; ++s) {
        __m512i value[kHeadVectors];
#pragma GCC unroll 4
        for (int c = 0; c < kHeadVectors; ++c) value[c] = _mm512_load_si512(values + s * kHeadSize + c * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < kBlockRows; ++r) {
            const __m512i probability = broadcast_word(&block.scores[s][first + r]);
#pragma GCC unroll 4
            for (int c = 0; c < kHeadVectors; ++c) sums[r][c] = Operands::dot(sums[r][c], value[c], probability);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < kBlockRows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < kHeadVectors; ++c) _mm512_store_ps(&block.sums[first + r][c * kLanes], sums[r][c]);
    }
}

template <class Operands, int kVectors>
static inline void finish_block(const QueryBlock<Operands, kVectors>& block, int64_t n_queries, float* out,
                                int64_t out_stride) {
    alignas(64) float inverses[kVectors * kLanes];
    for (int v = 0; v < kVectors; ++v) {
        _mm512_store_ps(inverses + v * kLanes, _mm512_div_ps(_mm512_set1_ps(1.0f), block.totals[v]));
    }
    for (int64_t m = 0; m < n_queries; ++m) {
        const __m512 inverse = _mm512_set1_ps(inverses[m]);
#pragma GCC unroll 4
        for (int c = 0; c < kHeadVectors; ++c) {
            _mm512_storeu_ps(out + m * out_stride + c * kLanes,
                             _mm512_mul_ps(_mm512_load_ps(&block.sums[m][c * kLanes]), inverse));
        }
    }
}

// Up to kVectors * 16 queries with all keys.
template <class Operands, int kVectors>
static void attend_block(const float* q, int64_t q_stride, const float* keys, const float* values, int64_t n_queries,
                         int64_t n_keys, float* out, int64_t out_stride) {
    constexpr int kBlockRows = kVectors == 3 ? 6 : 4;  // 48 = 8 x 6, 32 = 8 x 4, 16 = 4 x 4
    constexpr int64_t kKeyWords = kHeadSize / Operands::kPack;
    QueryBlock<Operands, kVectors> block;
    start_block(block, q, q_stride, n_queries);
    for (int64_t first = 0; first < n_keys; first += kChunkKeys) {
        const int64_t n_chunk = n_keys - first < kChunkKeys ? n_keys - first : kChunkKeys;
        __m512 greatest[kVectors];
        for (int v = 0; v < kVectors; ++v) greatest[v] = block.greatest[v];
        for (int64_t n = 0; n < n_chunk; n += kKeyGroup) {
            score_keys(block, keys + (first + n) * kKeyWords, block.scores[n], greatest);
        }
        weigh_keys(block, greatest, n_chunk);
        const int64_t n_steps = (n_chunk + Operands::kPack - 1) / Operands::kPack;
        for (int64_t m = 0; m < n_queries; m += kBlockRows) {
            add_values<Operands, kVectors, kBlockRows>(block, m, values + first / Operands::kPack * kHeadSize, n_steps);
        }
    }
    finish_block(block, n_queries, out, out_stride);
}

// Keys are packed row by row, up to a whole group with copies of the last one, whose scores change no maximum; values
// key by key, or two keys together.
template <class Operands>
static void attend(const float* q, int64_t q_stride, const float* k, int64_t k_stride, const float* v, int64_t v_stride,
                   int64_t n_queries, int64_t n_keys, float* out, int64_t out_stride, float* scratch) {
    constexpr int64_t kKeyWords = kHeadSize / Operands::kPack;
    const int64_t n_padded = (n_keys + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
    float* keys = scratch;
    float* values = scratch + n_padded * kKeyWords;
    for (int64_t n = 0; n < n_padded; ++n) {
        Operands::pack_row(k + (n < n_keys ? n : n_keys - 1) * k_stride, 1.0f, keys + n * kKeyWords);
    }
    for (int64_t n = 0; n < n_keys; n += Operands::kPack) {
        Operands::pack_values(v + n * v_stride, v_stride, n_keys - n, values + n * kKeyWords);
    }
    for (int64_t m = 0; m < n_queries; m += kQueryVectors * kLanes) {
        const int64_t rest = n_queries - m;
        const auto attend_some = rest > 2 * kLanes ? attend_block<Operands, 3>
                                 : rest > kLanes   ? attend_block<Operands, 2>
                                                   : attend_block<Operands, 1>;
        const int64_t count = rest < kQueryVectors * kLanes ? rest : kQueryVectors * kLanes;
        attend_some(q + m * q_stride, q_stride, keys, values, count, n_keys, out + m * out_stride, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
