// Attention of one head, without a matrix of scores. Keys are taken in chunks. Each query keeps the greatest score so
// far, the sum of exp(score - greatest), and its weighted sum of values. The sums are scaled down when a greater score
// comes.
//
// Scores are products of f32 (FloatKeys), or of int8 (CodedKeys). CodedKeys are an expanded tile of weights, and their
// queries a strip of the input. Scores are thus the table's own product. All else is f32.
//
// The outer loop takes some queries, whose sums stay in the second-level cache. The next one takes a chunk of packed
// keys and values, which stays in the first-level cache. A chunk is read from memory once for all of these queries. The
// inner loop takes a strip of queries.
#pragma once

#include "kernels/arm/neon_expand.h"
#include "kernels/arm/neon_float.h"
#include "kernels/arm/neon_math.h"
#include "kernels/arm/neon_quantize.h"

namespace whisperq::kernels {
namespace {

constexpr int64_t kChunkKeys = 48;  // keys and values of a chunk: 24 KiB
constexpr int64_t kChunkTiles = kChunkKeys / kTileColumns;
constexpr int64_t kQueriesAtOnce = 12 * kStripRows;
constexpr int64_t kHeadTiles = kHeadSize / kTileColumns;
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kScoreScale = kLog2E / 8.0f;  // 1 / sqrt(kHeadSize), and log2(e) for 2^x
constexpr float kUnscaled = 8.0f;             // makes of a bias what is to be scaled
constexpr float kNoScore = -3e38f;

// The parts of `scratch`.
//
//   keys    [tile of 16 keys], as `Keys` packs them; keys that do not exist are zeros
//   values  [tile of 16 of kHeadSize][n_keys][16]
struct AttentionScratch {
    float* keys;
    float* values;
    float* sums;      // [kQueriesAtOnce][kHeadSize]
    float* greatest;  // [kQueriesAtOnce], of the scaled scores
    float* totals;    // [kQueriesAtOnce]
    float* strips;    // of queries, as `Keys` packs them
};
constexpr int64_t kStripsAtOnce = kQueriesAtOnce / kStripRows;
constexpr int64_t kHeadBlocks = kHeadSize / kBlock;
constexpr int64_t kCodedStripFloats = kHeadBlocks * kStripBlock / 4;
constexpr int64_t kQueryFloats = kQueriesAtOnce * (kHeadSize + 2) + kStripsAtOnce * kCodedStripFloats;
static_assert(attention_scratch_floats(1) >= static_cast<size_t>(2 * 64 * kHeadSize + kQueryFloats), "fits");

WHISPERQ_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// Every part begins on a cache line, as the scratch does.
AttentionScratch divide_scratch(float* scratch, int64_t n_keys) {
    const int64_t padded = (n_keys + kTileColumns - 1) / kTileColumns * kTileColumns;
    AttentionScratch s;
    s.keys = scratch;
    s.values = s.keys + padded * kHeadSize;
    s.strips = s.values + padded * kHeadSize;
    s.sums = s.strips + kStripsAtOnce * kCodedStripFloats;
    s.greatest = s.sums + kQueriesAtOnce * kHeadSize;
    s.totals = s.greatest + kQueriesAtOnce;
    return s;
}

// A strip of up to kStripRows queries.
struct QueryStrip {
    const float* first;
    int64_t stride, n;
    const float* packed;
};

// ---- Keys

// Transpose four values of four keys: to[i] has value i of each.
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

struct FloatKeys {
    static constexpr int64_t kTileFloats = kTileColumns * kHeadSize;

    // A tile is float[kHeadSize][16].
    static void pack(const float* k, int64_t k_stride, int64_t n_keys, float* packed) {
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

    static void pack_strip(const QueryStrip&, float*) {}  // rows are multiplied where they lie

    template <int kRows>
    static void score_tile(const QueryStrip& strip, const float* tile, TileSums& scores) {
        const float* queries[kRows];
        point_to_rows(strip.first, strip.stride, strip.n, queries);
        multiply_float_tile(queries, tile, kHeadSize, scores);
    }
};

// `Order` and `Product` are a table's own, which its products of int8 have.
//
// The mean key is subtracted before quantising. Softmax ignores a constant added to all scores of a query. With the
// mean, a dimension in which all keys are large would leave few codes to the others.
template <class Order, class Product>
struct CodedKeys {
    using Part = typename Order::Part;
    static constexpr int64_t kColumns = kTileColumns / Part::kPerTile;
    static constexpr int64_t kTileFloats = kHeadBlocks * kExpandedBlockBytes / 4;
    static_assert(kTileFloats <= FloatKeys::kTileFloats, "fits");

    static void pack(const float* k, int64_t k_stride, int64_t n_keys, float* packed) {
        const Mean mean(k, k_stride, n_keys);
        const int64_t n_padded = (n_keys + kTileColumns - 1) / kTileColumns * kTileColumns;
        for (int64_t n = 0; n < n_padded; n += kLanes) {
            const float* first = k + least(n, n_keys - 1) * k_stride;
            auto* tile = reinterpret_cast<uint8_t*>(packed + n / kTileColumns * kTileFloats);
            const int64_t column = n % kTileColumns;
            for (int64_t b = 0; b < kHeadBlocks; ++b) {
                uint8_t* block = tile + (column / kColumns * kHeadBlocks + b) * Part::kBlockBytes;
                pack_quad(first + b * kBlock, k_stride, mean.values + b * kBlock, least(kLanes, n_keys - n),
                          column % kColumns, block);
            }
        }
    }

    static void pack_strip(const QueryStrip& strip, float* packed) {
        quantize_strip<Order>(strip.first, strip.stride, strip.n, kHeadSize, reinterpret_cast<uint8_t*>(packed));
    }

    template <int kRows>
    static void score_tile(const QueryStrip& strip, const float* tile, TileSums& scores) {
        const auto* part = reinterpret_cast<const uint8_t*>(tile);
        for (int64_t p = 0; p < Part::kPerTile; ++p, part += kHeadBlocks * Part::kBlockBytes) {
            Product::multiply_part(reinterpret_cast<const uint8_t*>(strip.packed), part, kHeadBlocks, false, kRows,
                                   &scores.rows[0][p * kColumns]);
        }
    }

  private:
    struct Mean {
        float values[kHeadSize];

        Mean(const float* k, int64_t k_stride, int64_t n_keys) {
            for (int64_t i = 0; i < kHeadSize; i += kLanes) {
                float32x4_t sum = vdupq_n_f32(0.0f);
                for (int64_t n = 0; n < n_keys; ++n) sum = vaddq_f32(sum, vld1q_f32(k + n * k_stride + i));
                vst1q_f32(values + i, vdivq_f32(sum, vdupq_n_f32(static_cast<float>(n_keys))));
            }
        }
    };

    // Pack a block of four keys, of which n exist (0 or fewer: none), from `column` of the part on.
    static void pack_quad(const float* k, int64_t k_stride, const float* mean, int64_t n, int64_t column,
                          uint8_t* block) {
        int8_t codes[kLanes][kBlock] = {};
        float scales[kLanes] = {};
        for (int64_t j = 0; j < n; ++j) {
            float values[kBlock];
            for (int64_t i = 0; i < kBlock; i += kLanes) {
                vst1q_f32(values + i, vsubq_f32(vld1q_f32(k + j * k_stride + i), vld1q_f32(mean + i)));
            }
            const BlockCodes row = quantize_block(values);
            vst1q_s8(codes[j], row.low);
            vst1q_s8(codes[j] + 16, row.high);
            scales[j] = row.scale;
        }
        QuadCodes quad;
        for (int64_t g = 0; g < kGroups; ++g) {
            int8_t group[kLanes * kGroup];
            for (int64_t j = 0; j < kLanes; ++j) memcpy(group + j * kGroup, codes[j] + g * kGroup, kGroup);
            quad.group[g] = vld1q_s8(group);
        }
        Order::store_quad(reinterpret_cast<int8_t*>(block), column, quad);
        float* to = reinterpret_cast<float*>(block + kColumns * kBlock) + column;
        memcpy(to, scales, sizeof scales);
        vst1q_f32(to + kColumns, vdupq_n_f32(kWideCodes));
    }
};

// ---- Values, scores and sums

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

// Compute the scores of a chunk, which are still to be scaled. `bias` is that of all keys, or null.
template <class Keys, int kRows>
void score(const QueryStrip& strip, const float* keys, const float* bias, const Chunk& chunk, Scores& scores) {
    for (int64_t t = 0; t < chunk.n_tiles(); ++t) {
        TileSums sums;
        Keys::template score_tile<kRows>(strip, keys + (chunk.first_key / kTileColumns + t) * Keys::kTileFloats, sums);
        for (int r = 0; r < kRows; ++r) store_row(scores.rows[r] + t * kTileColumns, load_row(sums.rows[r]));
    }
    if (bias != nullptr) {
        for (int64_t n = 0; n < chunk.n_keys; ++n) {
            const float added = bias[chunk.first_key + n] * kUnscaled;
            for (int r = 0; r < kRows; ++r) scores.rows[r][n] += added;
        }
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

// Compute scores = 2^(scores * kScoreScale - greatest), and return their sum.
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

// Turn a query's scores into weights, and return the factor that its sums so far must be multiplied by. `greatest` is
// kept scaled and rounded. Nothing else is subtracted, so that its rounding is the same in every chunk.
float weigh(float* scores, int64_t n_tiles, float* greatest, float* total) {
    const float before = *greatest;
    const float scaled = greatest_of(scores, n_tiles) * kScoreScale;
    const float now = scaled > before || scaled != scaled ? scaled : before;
    const float factor = vgetq_lane_f32(exp2_of(vdupq_n_f32(before - now)), 0);
    *greatest = now;
    *total = *total * factor + exponentiate(scores, n_tiles, now);
    return factor;
}

// Compute sums[r] = sums[r] * factors[r] + weights of r * values
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

// Attend with a strip of queries to a chunk of keys. The strip's sums, greatest scores and totals start at `first`.
template <class Keys, int kRows>
void attend_chunk(const QueryStrip& strip, const AttentionScratch& s, int64_t first, const HeadRows& head,
                  const Chunk& chunk) {
    Scores scores;
    float factors[kStripRows] = {};
    score<Keys, kRows>(strip, s.keys, head.bias, chunk, scores);
    for (int r = 0; r < kRows; ++r) {
        factors[r] = weigh(scores.rows[r], chunk.n_tiles(), s.greatest + first + r, s.totals + first + r);
    }
    add_values<kRows>(scores, factors, s.values, head.n_keys, chunk, s.sums + first * kHeadSize);
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

template <class Keys>
void attend(const HeadRows& head, float* out, int64_t out_stride, float* scratch) {
    const AttentionScratch s = divide_scratch(scratch, head.n_keys);
    Keys::pack(head.k, head.k_stride, head.n_keys, s.keys);
    pack_values(head.v, head.v_stride, head.n_keys, s.values);
    for (int64_t first = 0; first < head.n_queries; first += kQueriesAtOnce) {
        const int64_t n_some = least(kQueriesAtOnce, head.n_queries - first);
        const auto strip_at = [&](int64_t m) -> QueryStrip {
            return {head.q + (first + m) * head.q_stride, head.q_stride, least(kStripRows, n_some - m),
                    s.strips + m / kStripRows * kCodedStripFloats};
        };
        start_queries(s);
        for (int64_t m = 0; m < n_some; m += kStripRows) {
            Keys::pack_strip(strip_at(m), s.strips + m / kStripRows * kCodedStripFloats);
        }
        for (int64_t key = 0; key < head.n_keys; key += kChunkKeys) {
            const Chunk chunk = {key, least(kChunkKeys, head.n_keys - key)};
            for (int64_t m = 0; m < n_some; m += kStripRows) {
                const QueryStrip strip = strip_at(m);
                with_row_count(
                    strip.n, [&](auto count) { attend_chunk<Keys, decltype(count)::kRows>(strip, s, m, head, chunk); });
            }
        }
        store_queries(s, n_some, out + first * out_stride, out_stride);
    }
}

template <class Order, class Product>
void attention(const HeadRows& head, bool exact, float* out, int64_t out_stride, float* scratch) {
    (exact ? attend<FloatKeys> : attend<CodedKeys<Order, Product>>)(head, out, out_stride, scratch);
}

}  // namespace
}  // namespace whisperq::kernels
