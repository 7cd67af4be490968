// Attention of one head, in the manner of flash attention. For a block of up to 48 queries the keys come in chunks.
// Scores, probabilities and the weighted sum of a chunk's values are computed while the chunk is in the cache. When a
// chunk raises a query's greatest score, the sums so far are scaled down.
//
//   scores    lanes are queries, so that greatest, exp and sum need no exchange between lanes:
//
//               queries: 3 registers         8 keys x 3 registers of sums; a step takes one word (an f32, or four int8)
//             +------+------+------+         of each key in every lane. Keys need no transposition, the few queries
//    8 keys   |      |      |      |         are transposed.
//             +------+------+------+
//
//   output    lanes are the 64 values of the head:
//
//               values: 4 registers          6 queries x 4 registers of sums; a step takes one word of probabilities
//             +-----+-----+-----+-----+      (of a key, or a pair of keys in bf16), which the layout of the scores has
//    6        |     |     |     |     |      ready, in every lane.
//    queries  +-----+-----+-----+-----+
//
// Queries and keys are a `Keys`: F32Keys or Int8Keys. Probabilities and values are a `Values`: F32Values or
// (avx512_bf16.h) Bf16Values. A word holds kPack of them.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cached_attention.h"
#include "kernels/x86/avx512_math.h"
#include "kernels/x86/avx512_rows.h"

namespace whisperq::kernels {
namespace {

constexpr int kQueryVectors = 3;     // registers of queries in a block
constexpr int64_t kChunkKeys = 128;  // the fastest of 32, 64, 128 and 256 on Zen 4, by a few percent
constexpr int64_t kKeyGroup = 8;     // keys whose scores are summed at once
constexpr int kHeadVectors = kHeadSize / kLanes;
constexpr float kLog2E = 1.44269504088896f;     // e^x = 2^(x log2 e)
constexpr float kQueryScale = 0.125f * kLog2E;  // 1 / sqrt(64), and the same
constexpr float kNoScore = -3.402823466e38f;

static_assert(kChunkKeys % kKeyGroup == 0 && 64 % kKeyGroup == 0, "a chunk has whole groups, and scratch has room");

struct F32Keys {
    static constexpr int kPack = 1;
    using Sum = __m512;

    // A record that all keys of a head have in common, and one of each key beside its words.
    struct Common {
        Common(const float*, int64_t, int64_t) {}
    };
    struct Number {
        float bias;  // of the key, times log2 e
    };

    // Pack a query into kHeadSize words, and return the factor of its scores.
    static float pack_query(const float* from, float* words) {
        copy(from, words);
        return kQueryScale;
    }
    static Number pack_key(const float* from, float bias, const Common&, float* words) {
        copy(from, words);
        return {bias};
    }

    static Sum start(Number) { return _mm512_setzero_ps(); }
    static Sum dot(Sum sum, __m512i queries, __m512i key) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(queries), _mm512_castsi512_ps(key), sum);
    }
    static __m512 score(Sum sum, Number number, __m512 query_scales) {
        return _mm512_fmadd_ps(sum, query_scales, _mm512_set1_ps(number.bias));
    }

  private:
    static void copy(const float* from, float* words) {
#pragma GCC unroll 4
        for (int v = 0; v < kHeadVectors; ++v) _mm512_storeu_ps(words + v * kLanes, _mm512_loadu_ps(from + v * kLanes));
    }
};

// Int8 keys, four to a word, with a scale for each query and each key. The instruction wants one side unsigned. Queries
// are codes + 128, so that sums start with -128 * sum(key's codes).
//
// The mean key is subtracted before quantising. Softmax ignores a constant added to all scores of a query. With the
// mean, a dimension in which all keys are large would leave few codes to the others.
struct Int8Keys {
    static constexpr int kPack = 4;
    using Sum = __m512i;

    struct Common {
        __m512 mean[kHeadVectors];

        Common(const float* k, int64_t k_stride, int64_t n_keys) {
            for (int v = 0; v < kHeadVectors; ++v) {
                __m512 sum = _mm512_setzero_ps();
                for (int64_t n = 0; n < n_keys; ++n) {
                    sum = _mm512_add_ps(sum, _mm512_loadu_ps(k + n * k_stride + v * kLanes));
                }
                mean[v] = _mm512_div_ps(sum, _mm512_set1_ps(static_cast<float>(n_keys)));
            }
        }
    };

    struct Number {
        float bias;  // of the key, times log2 e
        float scale;
        int32_t start;
    };

    static float pack_query(const float* from, float* words) {
        float scale;
        const __m512i codes = quantize(from, scale);
        _mm512_storeu_si512(words, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)));
        return scale * kQueryScale;
    }
    static Number pack_key(const float* from, float bias, const Common& common, float* words) {
        alignas(64) float values[kHeadSize];
#pragma GCC unroll 4
        for (int v = 0; v < kHeadVectors; ++v) {
            _mm512_store_ps(values + v * kLanes, _mm512_sub_ps(_mm512_loadu_ps(from + v * kLanes), common.mean[v]));
        }
        Number number;
        number.bias = bias;
        const __m512i codes = quantize(values, number.scale);
        _mm512_storeu_si512(words, codes);
        const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
        number.start = -128 * _mm512_reduce_add_epi32(sums);
        return number;
    }

    static Sum start(Number number) {
        return _mm512_set1_epi32(number.start);
    }
    static Sum dot(Sum sum, __m512i queries, __m512i key) {
        return _mm512_dpbusd_epi32(sum, queries, key);
    }
    static __m512 score(Sum sum, Number number, __m512 query_scales) {
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(number.scale));
        return _mm512_fmadd_ps(scaled, query_scales, _mm512_set1_ps(number.bias));
    }

  private:
    static __m512i quantize(const float* from, float& scale) {
        alignas(64) int8_t codes[kHeadSize];
        quantize_head<Lanes>(from, most_code(CacheType::int8), codes, &scale);
        return _mm512_load_si512(codes);
    }
};

struct F32Values {
    static constexpr int kPack = 1;
    static constexpr int kExp2Degree = kExp2Exact;

    // Pack kPack rows of values, of which `n` exist, into kHeadSize words.
    static void pack(const float* from, int64_t, int64_t, float* words) {
#pragma GCC unroll 4
        for (int v = 0; v < kHeadVectors; ++v) _mm512_storeu_ps(words + v * kLanes, _mm512_loadu_ps(from + v * kLanes));
    }

    // Pack kPack registers of probabilities into one of words, and add them, rounded as operands are, to `total`.
    static __m512i pack_probabilities(const __m512 (&p)[kPack], __m512& total) {
        total = _mm512_add_ps(total, p[0]);
        return _mm512_castps_si512(p[0]);
    }

    static __m512 dot(__m512 sum, __m512i values, __m512i probability) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(values), _mm512_castsi512_ps(probability), sum);
    }
};

// The working memory of a block of queries while it goes over the keys. Words and scores lie [step][query].
template <class Keys, int kVectors>
struct QueryBlock {
    static constexpr int64_t kQueries = kVectors * kLanes;
    static constexpr int64_t kSteps = kHeadSize / Keys::kPack;

    alignas(64) float queries[kSteps][kQueries];
    alignas(64) float scales[kQueries];              // scales of the queries
    alignas(64) float scores[kChunkKeys][kQueries];  // then, from the beginning, the words of the probabilities
    alignas(64) float sums[kQueries][kHeadSize];     // of values by probabilities
    alignas(64) float factors[kQueries];             // factors that the new greatest score puts on the sums
    __m512 greatest[kVectors];
    __m512 totals[kVectors];  // of the probabilities
};

template <class Keys, int kVectors>
static inline void start_block(QueryBlock<Keys, kVectors>& block, const float* q, int64_t q_stride, int64_t n_queries) {
    using Block = QueryBlock<Keys, kVectors>;
    memset(block.queries, 0, sizeof block.queries);
    memset(block.scales, 0, sizeof block.scales);
    memset(block.sums, 0, sizeof block.sums);
    for (int64_t m = 0; m < n_queries; ++m) {
        alignas(64) float words[Block::kSteps];
        block.scales[m] = Keys::pack_query(q + m * q_stride, words);
        for (int64_t s = 0; s < Block::kSteps; ++s) memcpy(&block.queries[s][m], words + s, sizeof(float));
    }
    for (int v = 0; v < kVectors; ++v) {
        block.greatest[v] = _mm512_set1_ps(kNoScore);
        block.totals[v] = _mm512_setzero_ps();
    }
}

// Score all queries with kKeyGroup keys. The loop is unrolled all the way for int8, because GCC copies every sum in
// every step otherwise.
template <class Keys, int kVectors>
static inline void score_keys(const QueryBlock<Keys, kVectors>& block, const float* keys,
                              const typename Keys::Number* numbers, float* scores, __m512 (&greatest)[kVectors]) {
    using Block = QueryBlock<Keys, kVectors>;
    typename Keys::Sum sums[kKeyGroup][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kKeyGroup; ++i) {
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Keys::start(numbers[i]);
    }
#pragma GCC unroll 16
    for (int64_t s = 0; s < Block::kSteps; ++s) {
        __m512i queries[kVectors];
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) queries[v] = _mm512_load_si512(&block.queries[s][v * kLanes]);
#pragma GCC unroll 8
        for (int i = 0; i < kKeyGroup; ++i) {
            const __m512i key = broadcast_word(keys + i * Block::kSteps + s);
#pragma GCC unroll 3
            for (int v = 0; v < kVectors; ++v) sums[i][v] = Keys::dot(sums[i][v], queries[v], key);
        }
    }
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
        const __m512 scales = _mm512_load_ps(block.scales + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kKeyGroup; ++i) {
            const __m512 score = Keys::score(sums[i][v], numbers[i], scales);
            _mm512_store_ps(scores + i * Block::kQueries + v * kLanes, score);
            greatest[v] = _mm512_max_ps(greatest[v], score);
        }
    }
}

// Turn the scores of a chunk into probabilities, relative to the greatest score so far.
template <class Values, class Keys, int kVectors>
static inline void weigh_keys(QueryBlock<Keys, kVectors>& block, const __m512 (&greatest)[kVectors], int64_t n_keys) {
    constexpr int kPack = Values::kPack;
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
                p[i] = exp2_of<Values::kExp2Degree>(_mm512_sub_ps(score, greatest[v]));
                if (i > 0) p[i] = _mm512_maskz_mov_ps(n + i < n_keys ? 0xffff : 0, p[i]);  // a pair may lack its second
            }
            _mm512_store_si512(&block.scores[n / kPack][v * kLanes], Values::pack_probabilities(p, total));
        }
        block.totals[v] = total;
    }
}

// Compute sums = sums * factor + probabilities * values of a chunk, for kRows queries from `first` on.
template <class Values, int kBlockRows, class Keys, int kVectors>
static inline void add_values(QueryBlock<Keys, kVectors>& block, int64_t first, const float* values, int64_t n_steps) {
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
            for (int c = 0; c < kHeadVectors; ++c) sums[r][c] = Values::dot(sums[r][c], value[c], probability);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < kBlockRows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < kHeadVectors; ++c) _mm512_store_ps(&block.sums[first + r][c * kLanes], sums[r][c]);
    }
}

template <class Keys, int kVectors>
static inline void finish_block(const QueryBlock<Keys, kVectors>& block, int64_t n_queries, float* out,
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

// A head's keys and values as words. Keys are packed row by row. Copies of the last key fill the last group, because
// their scores change no maximum. Values are packed key by key, or two keys together.
template <class Keys>
struct PackedHead {
    const float* keys;
    const typename Keys::Number* numbers;
    const float* values;
    int64_t n_keys;
};

template <class Keys, class Values>
static PackedHead<Keys> pack_head(const HeadRows& head, float* scratch) {
    using Number = typename Keys::Number;
    const int64_t n_keys = head.n_keys;
    constexpr int64_t kKeyWords = kHeadSize / Keys::kPack, kValueWords = kHeadSize / Values::kPack;
    const int64_t n_padded = (n_keys + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
    float* keys = scratch;
    float* values = keys + n_padded * kKeyWords;
    auto* numbers = reinterpret_cast<Number*>(values + (n_keys + Values::kPack - 1) / Values::kPack * kHeadSize);
    const typename Keys::Common common(head.k, head.k_stride, n_keys);
    for (int64_t n = 0; n < n_padded; ++n) {
        const int64_t key = n < n_keys ? n : n_keys - 1;
        const float bias = head.bias == nullptr ? 0.0f : head.bias[key] * kLog2E;
        numbers[n] = Keys::pack_key(head.k + key * head.k_stride, bias, common, keys + n * kKeyWords);
    }
    for (int64_t n = 0; n < n_keys; n += Values::kPack) {
        Values::pack(head.v + n * head.v_stride, head.v_stride, n_keys - n, values + n * kValueWords);
    }
    return {keys, numbers, values, n_keys};
}

// Attend with up to kVectors * 16 queries to all keys.
template <class Keys, class Values, int kVectors>
static void attend_block(const float* q, int64_t q_stride, const PackedHead<Keys>& head, int64_t n_queries, float* out,
                         int64_t out_stride) {
    constexpr int kBlockRows = kVectors == 3 ? 6 : 4;  // 48 = 8 x 6, 32 = 8 x 4, 16 = 4 x 4
    constexpr int64_t kKeyWords = kHeadSize / Keys::kPack, kValueWords = kHeadSize / Values::kPack;
    QueryBlock<Keys, kVectors> block;
    start_block(block, q, q_stride, n_queries);
    for (int64_t first = 0; first < head.n_keys; first += kChunkKeys) {
        const int64_t n_chunk = head.n_keys - first < kChunkKeys ? head.n_keys - first : kChunkKeys;
        __m512 greatest[kVectors];
        for (int v = 0; v < kVectors; ++v) greatest[v] = block.greatest[v];
        for (int64_t n = 0; n < n_chunk; n += kKeyGroup) {
            score_keys(block, head.keys + (first + n) * kKeyWords, head.numbers + first + n, block.scores[n], greatest);
        }
        weigh_keys<Values>(block, greatest, n_chunk);
        const int64_t n_steps = (n_chunk + Values::kPack - 1) / Values::kPack;
        for (int64_t m = 0; m < n_queries; m += kBlockRows) {
            add_values<Values, kBlockRows>(block, m, head.values + first * kValueWords, n_steps);
        }
    }
    finish_block(block, n_queries, out, out_stride);
}

template <class Keys, class Values>
static void attend(const HeadRows& rows, float* out, int64_t out_stride, float* scratch) {
    const PackedHead<Keys> head = pack_head<Keys, Values>(rows, scratch);
    for (int64_t m = 0; m < rows.n_queries; m += kQueryVectors * kLanes) {
        const int64_t rest = rows.n_queries - m;
        const auto attend_some = rest > 2 * kLanes ? attend_block<Keys, Values, 3>
                                 : rest > kLanes   ? attend_block<Keys, Values, 2>
                                                   : attend_block<Keys, Values, 1>;
        const int64_t count = rest < kQueryVectors * kLanes ? rest : kQueryVectors * kLanes;
        attend_some(rows.q + m * rows.q_stride, rows.q_stride, head, count, out + m * out_stride, out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
