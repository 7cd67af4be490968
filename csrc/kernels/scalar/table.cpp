// The plain version of every kernel, to be read beside kernels.h. It runs on every CPU, and it judges the fast versions
// (tests/cpp/check_kernels.cpp), so nothing here is clever.
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/by_strips.h"
#include "kernels/six_bits.h"
#include "kernels/tables.h"

namespace whisperq::kernels {
namespace {

// There are two, so that the grouping of tiles is tested on every machine.
constexpr int64_t kTilesPerCall = 2;
constexpr int64_t kGroup = 4;  // values of k that lie together, as a dot product instruction takes them
constexpr int64_t kGroups = kBlock / kGroup;
constexpr int kGreatestCode = 127;
constexpr double kLayerNormEpsilon = 1e-5;
constexpr double kSqrtHalf = 0.70710678118654752440;

// ---- Layouts of kernels.h as structs --------------------------------------------------------------------------------

struct StripBlock {
    int8_t codes[kGroups][kStripRows][kGroup];
    float scales[kStripRows];
    float sums[kStripRows];
    int32_t offsets[kStripRows];
};
static_assert(sizeof(StripBlock) == kStripBlockBytes, "as kernels.h has it");

struct ExpandedBlock {
    int8_t codes[kGroups][kTileColumns][kGroup];
    float scales[kTileColumns];
    float minima[kTileColumns];
};
static_assert(sizeof(ExpandedBlock) == kExpandedBlockBytes, "as kernels.h has it");

// ---- Quantised inputs -----------------------------------------------------------------------------------------------

float greatest_magnitude(const float* values) {
    float greatest = 0.0f;
    for (int64_t i = 0; i < kBlock; ++i) greatest = fmaxf(greatest, fabsf(values[i]));
    return greatest;
}

// A scale below the normal floats has too few bits to divide by. Dropping the block costs less than 1.5e-36.
float scale_of(float greatest, int most = kGreatestCode) {
    const float scale = greatest / static_cast<float>(most);
    return scale < FLT_MIN ? 0.0f : scale;
}

// Return a code, and 0 for NaN, which comes from damaged weights, because no integer stands for it.
int code_of(float value, float scale) {
    if (scale == 0.0f) return 0;
    const float code = nearbyintf(value / scale);
    return fabsf(code) <= static_cast<float>(kGreatestCode) ? static_cast<int>(code) : 0;  // false for NaN
}

void quantize_row_of_block(const float* values, int64_t row, StripBlock* block) {
    const float scale = scale_of(greatest_magnitude(values));
    int32_t sum = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
        const int code = code_of(values[i], scale);
        block->codes[i / kGroup][row][i % kGroup] = static_cast<int8_t>(code);
        sum += code;
    }
    block->scales[row] = scale;
    block->sums[row] = scale * static_cast<float>(sum);
    block->offsets[row] = -128 * sum;
}

void quantize_strip(const float* input, int64_t row_stride, int64_t n_rows, int64_t k, uint8_t* strip) {
    for (int64_t b = 0; b < k / kBlock; ++b) {
        StripBlock block = {};  // rows that do not exist stay zero
        for (int64_t r = 0; r < n_rows; ++r) quantize_row_of_block(input + r * row_stride + b * kBlock, r, &block);
        memcpy(strip + b * kStripBlockBytes, &block, sizeof block);
    }
}

// ---- Weights --------------------------------------------------------------------------------------------------------

float half_to_float(uint16_t half) {
    const int sign = half >> 15, exponent = half >> 10 & 31, fraction = half & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        magnitude = ldexpf(static_cast<float>(fraction), -24);
    } else {
        magnitude = ldexpf(static_cast<float>(fraction + 1024), exponent - 25);
    }
    return sign ? -magnitude : magnitude;
}

void half_to_float_n(const uint16_t* half, int64_t n, float* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = half_to_float(half[i]);
}

// Halves of magnitude 2^e have steps of 2^(e - 10), and none below 2^-24.
uint16_t float_to_half(float value) {
    const int sign = signbit(value) ? 0x8000 : 0;
    const float magnitude = fabsf(value);
    if (magnitude == 0.0f) return static_cast<uint16_t>(sign);
    if (magnitude != magnitude) return static_cast<uint16_t>(sign | 0x7e00);
    if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
    int exponent;
    frexpf(magnitude, &exponent);                                // magnitude < 2^exponent
    const int step = exponent - 11 < -24 ? -24 : exponent - 11;  // of the halves around it
    const int steps = static_cast<int>(nearbyintf(ldexpf(magnitude, -step)));
    return static_cast<uint16_t>(sign | (((step + 24) << 10) + steps));
}

void float_to_half_n(const float* values, int64_t n, uint16_t* half) {
    for (int64_t i = 0; i < n; ++i) half[i] = float_to_half(values[i]);
}

// Return the code of value `i` (0 to 31) of column `c` in a packed block (pack.h), from 0.
int code_at(const FormatInfo& format, const uint8_t* block, int64_t c, int64_t i) {
    const int64_t group = i / kGroup, j = i % kGroup;
    if (format.bits == 8) return block[(group * kTileColumns + c) * kGroup + j];

    constexpr int64_t kHalf = kGroups / 2;  // low nibbles hold the groups before it, high nibbles those from it on
    const uint8_t pair = block[(group % kHalf * kTileColumns + c) * kGroup + j];
    const int nibble = group < kHalf ? pair & 15 : pair >> 4;
    if (format.bits == 4) return nibble;

    const uint8_t* fifth = block + kHalf * kTileColumns * kGroup;
    const int64_t bit = c * kGroup + j;
    return nibble | (fifth[group * kTileColumns * kGroup / 8 + bit / 8] >> bit % 8 & 1) << 4;
}

// The f16 numbers stand behind the codes: 16 scales, then 16 minima where the format has them.
float packed_half(const FormatInfo& format, const uint8_t* block, int64_t index) {
    uint16_t half;
    memcpy(&half, block + kTileColumns * kBlock * format.bits / 8 + index * 2, sizeof half);
    return half_to_float(half);
}

ExpandedBlock expand_block(const FormatInfo& f, const uint8_t* packed) {
    ExpandedBlock block;
    for (int64_t c = 0; c < kTileColumns; ++c) {
        for (int64_t i = 0; i < kBlock; ++i) {
            block.codes[i / kGroup][c][i % kGroup] = static_cast<int8_t>(code_at(f, packed, c, i) - f.zero_point);
        }
        block.scales[c] = packed_half(f, packed, c);
        block.minima[c] = f.has_minimum ? packed_half(f, packed, kTileColumns + c) : 0.0f;
    }
    return block;
}

void expand_tile(Format format, const uint8_t* tile, int64_t k, uint8_t* expanded) {
    const FormatInfo& f = info(format);
    for (int64_t b = 0; b < k / kBlock; ++b) {
        const ExpandedBlock block = expand_block(f, tile + b * f.tile_bytes);
        memcpy(expanded + b * kExpandedBlockBytes, &block, sizeof block);
    }
}

// ---- Products -------------------------------------------------------------------------------------------------------

float gelu(float x) {
    return static_cast<float>(0.5 * x * (1.0 + erf(x * kSqrtHalf)));
}

// Store the sum of row r, column c.
void finish(float sum, int64_t r, int64_t c, const Epilogue& epilogue, float* out, int64_t out_stride) {
    if (epilogue.bias != nullptr) sum += epilogue.bias[c];
    if (epilogue.gelu) sum = gelu(sum);
    if (epilogue.residual != nullptr) sum += epilogue.residual[r * out_stride + c];
    out[r * out_stride + c] = sum;
}

float dot_of_blocks(const StripBlock& input, int64_t r, const ExpandedBlock& weight, int64_t c, bool has_minimum) {
    int32_t products = 0;
    for (int64_t g = 0; g < kGroups; ++g) {
        for (int64_t j = 0; j < kGroup; ++j) products += input.codes[g][r][j] * weight.codes[g][c][j];
    }
    const float dot = input.scales[r] * weight.scales[c] * static_cast<float>(products);
    return has_minimum ? dot + input.sums[r] * weight.minima[c] : dot;
}

void multiply_strip(const uint8_t* strip, const uint8_t* expanded, int64_t, int64_t k, bool has_minimum, int64_t n_rows,
                    int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < n_columns; ++c) {
            const uint8_t* tile = expanded + c / kTileColumns * static_cast<int64_t>(expanded_bytes(k));
            float sum = 0.0f;
            for (int64_t b = 0; b < k / kBlock; ++b) {
                const auto* input = reinterpret_cast<const StripBlock*>(strip + b * kStripBlockBytes);
                const auto* weight = reinterpret_cast<const ExpandedBlock*>(tile + b * kExpandedBlockBytes);
                sum += dot_of_blocks(*input, r, *weight, c % kTileColumns, has_minimum);
            }
            finish(sum, r, c, epilogue, out, out_stride);
        }
    }
}

void multiply_packed_strip(const FormatInfo& f, const uint8_t* strip, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                           int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride,
                           const Epilogue& epilogue) {
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
        const int64_t first = tile * kTileColumns;
        float sums[kStripRows][kTileColumns] = {};
        for (int64_t b = 0; b < k / kBlock; ++b, tiles += f.tile_bytes) {
            const ExpandedBlock weight = expand_block(f, tiles);
            const auto* input = reinterpret_cast<const StripBlock*>(strip + b * kStripBlockBytes);
            for (int64_t r = 0; r < n_rows; ++r) {
                for (int64_t c = 0; c < kTileColumns; ++c) {
                    sums[r][c] += dot_of_blocks(*input, r, weight, c, f.has_minimum);
                }
            }
        }
        for (int64_t r = 0; r < n_rows; ++r) {
            for (int64_t c = 0; c < kTileColumns && first + c < n_columns; ++c) {
                finish(sums[r][c], r, first + c, epilogue, out, out_stride);
            }
        }
    }
}

void multiply_packed(Format format, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t k,
                     int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    const auto multiply = [&](auto... given) { multiply_packed_strip(info(format), given...); };
    by_strips(multiply, format, strips, tiles, n_tiles, k, n_rows, n_columns, out, out_stride, epilogue);
}

void multiply_float(const float* input, int64_t input_stride, const float* panel, int64_t, int64_t k, int64_t n_rows,
                    int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < n_columns; ++c) {
            const float* column = panel + c / kTileColumns * k * kTileColumns + c % kTileColumns;
            float sum = 0.0f;
            for (int64_t i = 0; i < k; ++i) sum += input[r * input_stride + i] * column[i * kTileColumns];
            finish(sum, r, c, epilogue, out, out_stride);
        }
    }
}

void multiply_half(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t, int64_t k, int64_t n_rows,
                   int64_t n_columns, float* out, int64_t out_stride, const Epilogue& epilogue) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t c = 0; c < n_columns; ++c) {
            const uint16_t* column = tiles + c / kTileColumns * k * kTileColumns + c % kTileColumns;
            float sum = 0.0f;
            for (int64_t i = 0; i < k; ++i)
                sum += input[r * input_stride + i] * half_to_float(column[i * kTileColumns]);
            finish(sum, r, c, epilogue, out, out_stride);
        }
    }
}

// ---- Everything else ------------------------------------------------------------------------------------------------

void layer_norm_row(const float* input, int64_t n, const float* weight, const float* bias, float* out) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < n; ++i) mean += input[i];
    mean /= static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) variance += (input[i] - mean) * (input[i] - mean);
    variance /= static_cast<double>(n);
    const double factor = 1.0 / sqrt(variance + kLayerNormEpsilon);
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>((input[i] - mean) * factor * weight[i] + bias[i]);
}

void layer_norm(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias, float* out) {
    for (int64_t r = 0; r < n_rows; ++r) layer_norm_row(input + r * n, n, weight, bias, out + r * n);
}

void gelu_n(float* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) values[i] = gelu(values[i]);
}

float dot(const float* a, const float* b, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// Compute softmax of scores in place. The greatest is subtracted first, so that exp cannot overflow.
void softmax(float* scores, int64_t n) {
    float greatest = scores[0], sum = 0.0f;
    for (int64_t i = 1; i < n; ++i) greatest = fmaxf(greatest, scores[i]);
    for (int64_t i = 0; i < n; ++i) {
        scores[i] = expf(scores[i] - greatest);
        sum += scores[i];
    }
    for (int64_t i = 0; i < n; ++i) scores[i] /= sum;
}

void attention(const HeadRows& head, bool, float* out, int64_t out_stride, float* scratch) {
    const float scale = 1.0f / sqrtf(static_cast<float>(kHeadSize));
    float* probabilities = scratch;
    for (int64_t m = 0; m < head.n_queries; ++m) {
        for (int64_t n = 0; n < head.n_keys; ++n) {
            probabilities[n] = scale * dot(head.q + m * head.q_stride, head.k + n * head.k_stride, kHeadSize);
            if (head.bias != nullptr) probabilities[n] += head.bias[n];
        }
        softmax(probabilities, head.n_keys);
        float* row = out + m * out_stride;
        for (int64_t i = 0; i < kHeadSize; ++i) row[i] = 0.0f;
        for (int64_t n = 0; n < head.n_keys; ++n) {
            for (int64_t i = 0; i < kHeadSize; ++i) row[i] += probabilities[n] * head.v[n * head.v_stride + i];
        }
    }
}

// ---- Attention over a cache -----------------------------------------------------------------------------------------

void quantize_head(const float* values, int most, int8_t* codes, float* scale) {
    float greatest = 0.0f;
    for (int64_t i = 0; i < kHeadSize; ++i) greatest = fmaxf(greatest, fabsf(values[i]));
    *scale = scale_of(greatest, most);
    for (int64_t i = 0; i < kHeadSize; ++i) {
        codes[i] = static_cast<int8_t>(code_of(values[i], *scale));
    }
}

// Return value i of key (or value) j of a cache of floats. `at` is its place in the block.
float cached(const uint8_t* block, CacheType type, int64_t at) {
    if (type == CacheType::f16) {
        uint16_t bits;
        memcpy(&bits, block + at * 2, sizeof bits);
        return half_to_float(bits);
    }
    float value;
    memcpy(&value, block + at * 4, sizeof value);
    return value;
}

int value_code(const uint8_t* block, CacheType type, int64_t at) {
    return type == CacheType::int6 ? six_bit_code(block, at) : static_cast<int8_t>(block[at]);
}

float scale_of_code(const uint8_t* block, CacheType type, int64_t j) {
    float scale;
    memcpy(&scale, block + code_bytes(type) + j * 4, sizeof scale);
    return scale;
}

float score_of_codes(const float* q, const uint8_t* block, int64_t j) {
    int8_t codes[kHeadSize];
    float scale;
    quantize_head(q, most_code(CacheType::int8), codes, &scale);
    int32_t products = 0;
    for (int64_t i = 0; i < kHeadSize; ++i) products += codes[i] * static_cast<int8_t>(block[key_code_at(j, i)]);
    return scale * scale_of_code(block, CacheType::int8, j) * static_cast<float>(products);
}

float score_of(const float* q, const uint8_t* block, CacheType type, int64_t j) {
    if (type == CacheType::int8) return score_of_codes(q, block, j);
    float sum = 0.0f;
    for (int64_t i = 0; i < kHeadSize; ++i) sum += q[i] * cached(block, type, i * kKeyBlock + j);
    return sum;
}

void score_keys(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                CacheType type, int64_t n_keys, float* scores, int64_t scores_stride) {
    const float scale = 1.0f / sqrtf(static_cast<float>(kHeadSize));
    for (int64_t m = 0; m < n_queries; ++m) {
        for (int64_t j = 0; j < n_key_blocks(n_keys) * kKeyBlock; ++j) {
            const uint8_t* block = blocks[j / kKeyBlock] + offset;
            scores[m * scores_stride + j] = scale * score_of(q + m * q_stride, block, type, j % kKeyBlock);
        }
    }
}

void softmax_blocks(float* scores, int64_t n) {
    softmax(scores, n);
    for (int64_t j = n; j < n_key_blocks(n) * kKeyBlock; ++j) scores[j] = 0.0f;
}

// Compute out += sum of the values of a block times their probabilities
void mix_floats(const float* probabilities, const uint8_t* block, CacheType type, float* out) {
    for (int64_t j = 0; j < kKeyBlock; ++j) {
        for (int64_t i = 0; i < kHeadSize; ++i) out[i] += probabilities[j] * cached(block, type, j * kHeadSize + i);
    }
}

void mix_codes(const float* probabilities, const uint8_t* block, CacheType type, float* out) {
    float products[kKeyBlock], greatest = 0.0f;
    for (int64_t j = 0; j < kKeyBlock; ++j) {
        products[j] = probabilities[j] * scale_of_code(block, type, j);
        greatest = fmaxf(greatest, products[j]);
    }
    const float factor = scale_of(greatest);
    for (int64_t i = 0; i < kHeadSize; ++i) {
        int32_t sum = 0;
        for (int64_t j = 0; j < kKeyBlock; ++j) {
            const int code = code_of(products[j], factor);
            sum += code * value_code(block, type, value_code_at(j, i));
        }
        out[i] += factor * static_cast<float>(sum);
    }
}

void mix_values(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                size_t offset, CacheType type, int64_t n_keys, float* out, int64_t out_stride) {
    for (int64_t m = 0; m < n_queries; ++m) {
        float* row = out + m * out_stride;
        for (int64_t i = 0; i < kHeadSize; ++i) row[i] = 0.0f;
        for (int64_t b = 0; b < n_key_blocks(n_keys); ++b) {
            const float* some = probabilities + m * stride + b * kKeyBlock;
            if (has_codes(type)) {
                mix_codes(some, blocks[b] + offset, type, row);
            } else {
                mix_floats(some, blocks[b] + offset, type, row);
            }
        }
    }
}

}  // namespace

const KernelTable kScalarTable = {
    "scalar",       quantize_strip, expand_tile,     multiply_strip,  kTilesPerCall, multiply_packed,
    multiply_float, multiply_half,  half_to_float_n, float_to_half_n, layer_norm,    gelu_n,
    attention,      quantize_head,  score_keys,      softmax_blocks,  mix_values,
};

}  // namespace whisperq::kernels
