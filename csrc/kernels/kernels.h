// The contracts of all kernels, and the table that holds one implementation of each.
//
// A kernel only computes: it does not allocate, fail, log, throw or start threads. It trusts its arguments, because its
// callers check them. Every function pointer of a KernelTable is set. `scalar` has the plain version of each, which
// says what is right. All pointers to activations and packed weights are aligned to kAlignment.
//
// The matrix product is  out[m][n] = sum_k input[m][k] * weight[n][k].  Weights are packed into tiles of kTileColumns
// output columns (pack.h has the layout), inputs into strips of kStripRows rows. One call computes a strip times a
// group of tiles:
//
//            n: 16 columns a tile                 a thread expands a group of tiles (a panel, which stays in its cache)
//          +----+----+----+----+                  and multiplies every strip of the input with it
//   m  6   |    |####|    |    |
//   rows   +----+----+----+----+
//   a strip|    |    |    |    |
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace whisperq::kernels {

inline constexpr size_t kAlignment = 64;

// ---- Quantised inputs -----------------------------------------------------------------------------------------------

// A strip: kStripRows rows of the input, quantised in blocks of kBlock values along k to int8 in [-127, 127]. Each
// block has one float scale = max |x| / 127, and code = round(x / scale) to nearest, ties to even. Rows that do not
// exist, and blocks of zeros, have scale 0 and codes 0. For each block, one after the other:
//
//   int8  codes[kBlock / 4][kStripRows][4]    codes[g][r][j] is value 4 g + j of row r
//   float scales[kStripRows]
//   float sums[kStripRows]                    scale * sum of the codes: what a format with a minimum needs
//   int32 offsets[kStripRows]                 -128 * sum of the codes: what unsigned weight codes need
//
// Every sum of codes is exact. A table may order as many bytes otherwise, because only its own multiply_strip reads a
// strip.
inline constexpr int64_t kStripRows = 6;
inline constexpr int64_t kStripBlockBytes = kBlock * kStripRows + 3 * kStripRows * 4;  // 264

// Return the bytes of a strip of `k` values.
static constexpr size_t strip_bytes(int64_t k) {
    return static_cast<size_t>((k / kBlock * kStripBlockBytes + 63) / 64 * 64);
}

// Quantise rows [0, n_rows) (1 to kStripRows) of `input`, row_stride floats apart, each of k values (k % kBlock == 0).
using QuantizeStrip = void (*)(const float* input, int64_t row_stride, int64_t n_rows, int64_t k, uint8_t* strip);

// ---- Weights, a tile at a time --------------------------------------------------------------------------------------

// An expanded tile: a packed tile of a block format with a byte a code. For each block:
//
//   byte  codes[kBlock / 4][kTileColumns][4]  code - zero_point as int8, or that + 128 as uint8 (what x86's dot
//                                             products take)
//   float scales[kTileColumns]
//   float minima[kTileColumns]                0 where the format has none
//
// so that  sum_k input * value = sum_blocks input_scale * weight_scale * sum(input codes * weight codes)
//                                         + input_sum * weight_minimum
// with signed weight codes. Unsigned ones give 128 * sum(input codes) too much, which offsets[] takes away in int32. A
// q8_0 code of -128 is kept as it is; no quantiser of ggml's emits one. |sum of 32 products| <= 32 * 255 * 127 < 2^24
// is exact in int32 and in float. As above, a table may order the bytes otherwise.
inline constexpr int64_t kExpandedBlockBytes = kBlock * kTileColumns + 2 * kTileColumns * 4;  // 640

static constexpr size_t expanded_bytes(int64_t k) {
    return static_cast<size_t>(k / kBlock * kExpandedBlockBytes);
}

// Expand one packed tile of `format` (a block format) with k values a column.
using ExpandTile = void (*)(Format format, const uint8_t* tile, int64_t k, uint8_t* expanded);

// The last operations on a sum before it is stored. `bias` (one float a column) and `residual` (laid out as `out`) may
// be null.
struct Epilogue {
    const float* bias = nullptr;
    const float* residual = nullptr;  // out = residual + f(sum + bias); may be out itself
    bool gelu = false;                // f = gelu, else f = identity
};

// Compute out[r][c] for rows [0, n_rows) of a strip (1 to kStripRows) and columns [0, n_columns) of n_tiles expanded
// tiles. There are 1 to tiles_per_call tiles, expanded_bytes(k) apart. n_columns is n_tiles * kTileColumns, less the
// missing columns of the last tile. `has_minimum` is the format's. `out` and `residual` have out_stride floats a row;
// `bias` starts at the first column.
using MultiplyStrip = void (*)(const uint8_t* strip, const uint8_t* expanded, int64_t n_tiles, int64_t k,
                               bool has_minimum, int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                               const Epilogue& epilogue);

// Do as multiply_strip with weights as they are packed, for inputs of one strip or two. Expanding a tile costs as much
// as multiplying it with a strip. `strips` hold n_rows (1 to kPackedRows) rows, strip_bytes(k) apart. `tiles` are
// n_tiles (any number) packed tiles of a block format, tile_bytes(format, k) apart. A sum is the same, to the bit, as
// that of expand_tile and multiply_strip.
inline constexpr int64_t kPackedRows = 2 * kStripRows;
using MultiplyPacked = void (*)(Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                                int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                                const Epilogue& epilogue);

// Return the epilogue of the columns from `first` on.
static inline Epilogue moved_to(const Epilogue& epilogue, int64_t first) {
    Epilogue moved = epilogue;
    if (moved.bias != nullptr) moved.bias += first;
    if (moved.residual != nullptr) moved.residual += first;
    return moved;
}

// ---- Floats ---------------------------------------------------------------------------------------------------------

// Multiply plain floats. n_rows (1 to kStripRows) rows of `input` lie input_stride floats apart. The stride may be less
// than k, because a convolution's windows overlap. `panel` holds n_tiles tiles of float[k][kTileColumns].
using MultiplyFloat = void (*)(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t k,
                               int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                               const Epilogue& epilogue);

// Multiply n_tiles (any number) packed tiles of f16[k][kTileColumns], for inputs of few rows. Sums are the same, to the
// bit, as those of half_to_float and multiply_float.
using MultiplyHalf = void (*)(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles,
                              int64_t k, int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                              const Epilogue& epilogue);

// Convert n values from f16 to float.
using HalfToFloat = void (*)(const uint16_t* half, int64_t n, float* out);

// Convert n values from float to f16: to nearest, ties to even. Values that are too large become infinite.
using FloatToHalf = void (*)(const float* values, int64_t n, uint16_t* half);

// ---- Everything else ------------------------------------------------------------------------------------------------

// Compute out = (x - mean) / sqrt(variance + 1e-5) * weight + bias over each row of n values. There are two passes,
// with float accumulators in lanes. Rows lie n floats apart; out may be input.
using LayerNorm = void (*)(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias,
                           float* out);

// Compute x = 0.5 x (1 + erf(x / sqrt 2)), openai/whisper's exact GELU, to 5e-7 * max(1, |x|).
using Gelu = void (*)(float* values, int64_t n);

inline constexpr int64_t kHeadSize = 64;

// The queries, keys and values of one head: rows of kHeadSize values, `*_stride` floats apart.
struct HeadRows {
    const float* q;
    int64_t q_stride;
    const float* k;
    int64_t k_stride;
    const float* v;
    int64_t v_stride;
    int64_t n_queries, n_keys;
    const float* bias = nullptr;  // [n_keys], added to the scores of each key. Null: zeros. Magnitudes are below 100.
};

// Compute one head of attention for a range of queries, without a matrix of all scores: out = softmax(q k' / 8 + bias)
// v, over n_keys keys. `out` has rows of kHeadSize values, out_stride floats apart. `scratch` (aligned) has
// attention_scratch_floats(n_keys). Sums are f32. `exact` asks for f32 operands too. Without it a table may round q and
// k to int8, with a scale a row. It may also round v and the probabilities to bf16. These errors are below those of
// quantised weights. The bias is never rounded.
inline constexpr int64_t kQueryBlock = 16;
using Attention = void (*)(const HeadRows& head, bool exact, float* out, int64_t out_stride, float* scratch);

// Return the room for an implementation's packed k and v, and for a block's scores.
static constexpr size_t attention_scratch_floats(int64_t n_keys) {
    const int64_t padded = (n_keys + 63) / 64 * 64;
    return static_cast<size_t>(2 * padded * kHeadSize + 2 * kQueryBlock * padded + 4352);
}

// ---- Attention over a cache, for a decoder's few queries
//
// The keys and values of one head lie in blocks of kKeyBlock, wherever a cache puts them. Block b is at blocks[b] +
// offset. Values beyond n_keys must be finite.
//
//   keys     value[kHeadSize][kKeyBlock]   16 keys side by side
//   values   value[kKeyBlock][kHeadSize]   16 values one after the other
//
// Blocks of codes have the order that dot product instructions take. A float scale for each key or value (value = scale
// * code) stands behind the codes:
//
//   keys     code[kHeadSize / 4][kKeyBlock][4]            code[g][j][i] is value 4 g + i of key j
//   values   code[kHeadSize / 16][kKeyBlock / 4][16][4]   code[c][g][i][j] is value 16 c + i of the token 4 g + j
//   float    scale[kKeyBlock]
//
// Codes of int8 are bytes in [-127, 127]. Those of int6, which is for values, are in [-31, 31] and lie in the same
// order, six bits each (six_bits.h).
inline constexpr int64_t kKeyBlock = 16;

enum class CacheType : uint8_t { f32, f16, int8, int6 };

static constexpr bool has_codes(CacheType type) {
    return type == CacheType::int8 || type == CacheType::int6;
}
// Return the greatest code.
static constexpr int most_code(CacheType type) {
    return type == CacheType::int6 ? 31 : 127;
}
// Return the bytes of a block's codes, behind which its scales are.
static constexpr int64_t code_bytes(CacheType type) {
    return kKeyBlock * kHeadSize * (type == CacheType::int6 ? 6 : 8) / 8;
}

// Return the index among a block's codes of value i of key j, and of value i of token j's value.
static constexpr int64_t key_code_at(int64_t j, int64_t i) {
    return (i / 4 * kKeyBlock + j) * 4 + i % 4;
}
static constexpr int64_t value_code_at(int64_t j, int64_t i) {
    return ((i / 16 * (kKeyBlock / 4) + j / 4) * 16 + i % 16) * 4 + j % 4;
}

static constexpr int64_t n_key_blocks(int64_t n_keys) {
    return (n_keys + kKeyBlock - 1) / kKeyBlock;
}
static constexpr size_t key_block_bytes(CacheType type) {
    return static_cast<size_t>(type == CacheType::f32   ? kKeyBlock * kHeadSize * 4
                               : type == CacheType::f16 ? kKeyBlock * kHeadSize * 2
                                                        : code_bytes(type) + kKeyBlock * 4);
}

// Compute codes[i] = round(values[i] / scale) of kHeadSize values, with scale = max |value| / most. A scale that is no
// normal float becomes 0, and all codes with it.
using QuantizeHead = void (*)(const float* values, int most, int8_t* codes, float* scale);

// Compute scores[m][j] = q[m] . key[j] / 8, all of them for whole blocks. Rows of q and scores lie a stride apart.
// Scores do not depend on the number of queries.
using ScoreKeys = void (*)(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks,
                           size_t offset, CacheType type, int64_t n_keys, float* scores, int64_t scores_stride);

// Compute softmax of n scores in place. There is room for whole blocks; scores beyond n become 0.
using Softmax = void (*)(float* scores, int64_t n);

// Compute out[m] = sum_j probabilities[m][j] * value[j]. Probabilities beyond n_keys are 0. For values in codes, a
// block's 16 probabilities, times the scales of its values, are rounded to codes in [0, 127]. The greatest of them gets
// 127.
using MixValues = void (*)(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                           size_t offset, CacheType type, int64_t n_keys, float* out, int64_t out_stride);

struct KernelTable {
    const char* isa;  // scalar avx2 avx512vnni avx512bf16 neon neon_dotprod neon_i8mm

    QuantizeStrip quantize_strip;
    ExpandTile expand_tile;
    MultiplyStrip multiply_strip;
    int64_t tiles_per_call;  // of multiply_strip and multiply_float: as many as its registers hold
    MultiplyPacked multiply_packed;

    MultiplyFloat multiply_float;
    MultiplyHalf multiply_half;
    HalfToFloat half_to_float;
    FloatToHalf float_to_half;

    LayerNorm layer_norm;
    Gelu gelu;
    Attention attention;

    QuantizeHead quantize_head;
    ScoreKeys score_keys;
    Softmax softmax;
    MixValues mix_values;
};

}  // namespace whisperq::kernels
