// Attention over cached keys and values, over each instruction set's own operations on rows of 16 floats. Only the
// tables' sources include it, and each compiles its own copy for its own instructions.
//
// `Lanes` has three types, and these operations:
//
//   Row                 16 floats
//     zero, load (floats, f16), load_unaligned, store, store_codes (rounded to int8), magnitude, multiply,
//     add_product(sum, row, factor), add, greater, scaled, power_of_e(row, subtracted) = e^(row - subtracted),
//     greatest_lane, sum_of_lanes
//   Codes               16 x 4 int8
//     load_codes, repeat_code (the same for all), expand_six_bits (192 bytes into four Codes, of codes + kSixBitZero)
//   Dots                16 sums of int8 products, of Codes and four codes for every lane
//     start_signed(sum of the codes that will be given), add_signed
//     start_unsigned, add_unsigned: the four codes are not negative
//     to_floats
//   fetch               prefetches into the second-level cache
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/six_bits.h"

namespace whisperq::kernels {
namespace {

constexpr float kInverseRootHeadSize = 0.125f;  // 1 / sqrt(kHeadSize)
constexpr int kRowsOfValue = kHeadSize / kKeyBlock;

constexpr float kLeastNormal = 1.17549435e-38f;  // below it a scale has no inverse to rely on

template <CacheType kType>
const float* scales_of(const uint8_t* block) {
    return reinterpret_cast<const float*>(block + code_bytes(kType));
}

inline int32_t four_codes(const int8_t* codes) {
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return four;
}

template <class Value>
const Value* block_at(const uint8_t* const* blocks, size_t offset, int64_t b) {
    return reinterpret_cast<const Value*>(blocks[b] + offset);
}

// ---- Rounding

template <class Lanes>
void quantize_head(const float* values, int most, int8_t* codes, float* scale) {
    auto greatest = Lanes::magnitude(Lanes::load_unaligned(values));
    for (int64_t i = kKeyBlock; i < kHeadSize; i += kKeyBlock) {
        greatest = Lanes::greater(greatest, Lanes::magnitude(Lanes::load_unaligned(values + i)));
    }
    const float wanted = Lanes::greatest_lane(greatest) / static_cast<float>(most);
    *scale = wanted < kLeastNormal ? 0.0f : wanted;
    const float inverse = wanted < kLeastNormal ? 0.0f : 1.0f / wanted;
    for (int64_t i = 0; i < kHeadSize; i += kKeyBlock) {
        Lanes::store_codes(codes + i, Lanes::scaled(Lanes::load_unaligned(values + i), inverse));
    }
}

// ---- Scores
//
// A block has 16 keys side by side. Its row i holds value i of each key, which is multiplied with value i of a query.

// Score one query and some blocks side by side, which hide the latency of an addition. Every score is the same chain of
// additions here and below, so that it does not depend on the number of queries.
template <class Lanes, class Value, int kBlocks>
void score_one(const float* q, const Value* const (&keys)[kBlocks], float* scores) {
    typename Lanes::Row sums[kBlocks];
    for (auto& sum : sums) sum = Lanes::zero();
    for (int64_t i = 0; i < kHeadSize; ++i) {
        for (int b = 0; b < kBlocks; ++b)
            sums[b] = Lanes::add_product(sums[b], Lanes::load(keys[b] + i * kKeyBlock), q[i]);
    }
    for (int b = 0; b < kBlocks; ++b)
        Lanes::store(scores + b * kKeyBlock, Lanes::scaled(sums[b], kInverseRootHeadSize));
}

template <class Lanes, class Value>
void score_query(const float* q, const uint8_t* const* blocks, size_t offset, int64_t n_blocks, float* scores) {
    int64_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        const Value* const keys[4] = {block_at<Value>(blocks, offset, b), block_at<Value>(blocks, offset, b + 1),
                                      block_at<Value>(blocks, offset, b + 2), block_at<Value>(blocks, offset, b + 3)};
        score_one<Lanes, Value, 4>(q, keys, scores + b * kKeyBlock);
    }
    for (; b + 2 <= n_blocks; b += 2) {
        const Value* const keys[2] = {block_at<Value>(blocks, offset, b), block_at<Value>(blocks, offset, b + 1)};
        score_one<Lanes, Value, 2>(q, keys, scores + b * kKeyBlock);
    }
    for (; b < n_blocks; ++b) {
        const Value* const keys[1] = {block_at<Value>(blocks, offset, b)};
        score_one<Lanes, Value, 1>(q, keys, scores + b * kKeyBlock);
    }
}

// Score several queries, which share loaded keys.
template <class Lanes, class Value, int kQueries>
void score_some(const float* q, int64_t q_stride, const Value* keys_of_block, float* scores, int64_t scores_stride) {
    typename Lanes::Row sums[kQueries];
    for (auto& sum : sums) sum = Lanes::zero();
    for (int64_t i = 0; i < kHeadSize; ++i) {
        const auto row = Lanes::load(keys_of_block + i * kKeyBlock);
        for (int m = 0; m < kQueries; ++m) sums[m] = Lanes::add_product(sums[m], row, q[m * q_stride + i]);
    }
    for (int m = 0; m < kQueries; ++m)
        Lanes::store(scores + m * scores_stride, Lanes::scaled(sums[m], kInverseRootHeadSize));
}

template <class Lanes, class Value>
void score_keys_of(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                   int64_t n_keys, float* scores, int64_t scores_stride) {
    constexpr int kTogether = 4;
    const int64_t n_blocks = n_key_blocks(n_keys);
    int64_t m = 0;
    for (; m + kTogether <= n_queries; m += kTogether) {
        for (int64_t b = 0; b < n_blocks; ++b) {
            score_some<Lanes, Value, kTogether>(q + m * q_stride, q_stride, block_at<Value>(blocks, offset, b),
                                                scores + m * scores_stride + b * kKeyBlock, scores_stride);
        }
    }
    for (; m < n_queries; ++m) {
        score_query<Lanes, Value>(q + m * q_stride, blocks, offset, n_blocks, scores + m * scores_stride);
    }
}

// ---- Codes
//
// A block has 16 rows of 64 codes. A dot product takes one row, and four codes for every lane: of the query, or of the
// probabilities.

constexpr int64_t kCodeRow = 4 * kKeyBlock;

// The audio's keys and values are prefetched so many blocks ahead. For a batch they come from memory, and with a core's
// own prefetcher alone, reading keys is a tenth slower. Blocks of a head lie side by side, and its values behind its
// keys.
constexpr int64_t kBlocksToFetch = 6;

// Load four rows at a time: their codes, or in six bits, codes + kSixBitZero.
template <class Lanes, CacheType kType>
void load_rows(const uint8_t* block, int64_t i, typename Lanes::Codes (&rows)[4]) {
    constexpr int64_t kBytes = code_bytes(kType) / 4, kBlock = static_cast<int64_t>(key_block_bytes(kType));
    const uint8_t* from = block + i * kBytes;
    const int64_t to_fetch = i < 3 ? kBytes : kBlock - 3 * kBytes;  // the scales as well
    for (int64_t line = 0; line < to_fetch; line += static_cast<int64_t>(kAlignment)) {
        Lanes::fetch(from + line + kBlocksToFetch * kBlock);
    }
    if constexpr (kType == CacheType::int6) {
        Lanes::expand_six_bits(from, rows);
    } else {
        for (int64_t g = 0; g < 4; ++g) {
            rows[g] = Lanes::load_codes(reinterpret_cast<const int8_t*>(from) + g * kCodeRow);
        }
    }
}

template <class Lanes>
void score_block(const int8_t* q, float q_scale, int32_t q_sum, const uint8_t* keys, float* scores) {
    auto dots = Lanes::start_signed(q_sum);
    for (int64_t i = 0; i < 4; ++i) {
        typename Lanes::Codes rows[4];
        load_rows<Lanes, CacheType::int8>(keys, i, rows);
        for (int64_t g = 0; g < 4; ++g) dots = Lanes::add_signed(dots, rows[g], four_codes(q + 16 * i + 4 * g));
    }
    const auto scales = Lanes::load(scales_of<CacheType::int8>(keys));
    Lanes::store(scores,
                 Lanes::multiply(Lanes::to_floats(dots), Lanes::scaled(scales, q_scale * kInverseRootHeadSize)));
}

template <class Lanes>
void score_codes(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                 int64_t n_keys, float* scores, int64_t scores_stride) {
    for (int64_t m = 0; m < n_queries; ++m) {
        alignas(kAlignment) int8_t codes[kHeadSize];
        float scale;
        quantize_head<Lanes>(q + m * q_stride, most_code(CacheType::int8), codes, &scale);
        int32_t sum = 0;
        for (const int8_t code : codes) sum += code;
        for (int64_t b = 0; b < n_key_blocks(n_keys); ++b) {
            score_block<Lanes>(codes, scale, sum, blocks[b] + offset, scores + m * scores_stride + b * kKeyBlock);
        }
    }
}

template <class Lanes>
void score_keys(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                CacheType type, int64_t n_keys, float* scores, int64_t scores_stride) {
    switch (type) {
        case CacheType::f32:
            return score_keys_of<Lanes, float>(q, q_stride, n_queries, blocks, offset, n_keys, scores, scores_stride);
        case CacheType::f16:
            return score_keys_of<Lanes, uint16_t>(q, q_stride, n_queries, blocks, offset, n_keys, scores,
                                                  scores_stride);
        case CacheType::int8:
            return score_codes<Lanes>(q, q_stride, n_queries, blocks, offset, n_keys, scores, scores_stride);
        case CacheType::int6:
            return;  // values alone
    }
}

// ---- Probabilities

template <class Lanes>
void softmax(float* scores, int64_t n) {
    constexpr float kNever = -1e30f;
    const int64_t padded = n_key_blocks(n) * kKeyBlock;
    for (int64_t i = n; i < padded; ++i) scores[i] = kNever;
    auto greatest_row = Lanes::load(scores);
    for (int64_t i = kKeyBlock; i < padded; i += kKeyBlock) {
        greatest_row = Lanes::greater(greatest_row, Lanes::load(scores + i));
    }
    const float greatest = Lanes::greatest_lane(greatest_row);
    auto sums = Lanes::zero();
    for (int64_t i = 0; i < padded; i += kKeyBlock) {
        const auto power = Lanes::power_of_e(Lanes::load(scores + i), greatest);
        Lanes::store(scores + i, power);
        sums = Lanes::add(sums, power);
    }
    const float factor = 1.0f / Lanes::sum_of_lanes(sums);
    for (int64_t i = 0; i < padded; i += kKeyBlock) {
        Lanes::store(scores + i, Lanes::scaled(Lanes::load(scores + i), factor));
    }
    for (int64_t i = n; i < padded; ++i) scores[i] = 0.0f;
}

// ---- Values
//
// A block has 16 values of 64 one after the other. mix_some computes kColumns registers of a row of `out` at a time,
// for kQueries rows.
template <class Lanes, class Value, int kQueries, int kColumns>
void mix_some(const float* probabilities, int64_t stride, const uint8_t* const* blocks, size_t offset, int64_t n_keys,
              int64_t first, float* out, int64_t out_stride) {
    typename Lanes::Row sums[kQueries][kColumns];
    for (auto& row : sums) {
        for (auto& sum : row) sum = Lanes::zero();
    }
    for (int64_t b = 0; b < n_key_blocks(n_keys); ++b, probabilities += kKeyBlock) {
        const Value* values = block_at<Value>(blocks, offset, b);
        for (int64_t j = 0; j < kKeyBlock; ++j) {
            for (int c = 0; c < kColumns; ++c) {
                const auto row = Lanes::load(values + j * kHeadSize + first + c * kKeyBlock);
                for (int m = 0; m < kQueries; ++m)
                    sums[m][c] = Lanes::add_product(sums[m][c], row, probabilities[m * stride + j]);
            }
        }
    }
    for (int m = 0; m < kQueries; ++m) {
        for (int c = 0; c < kColumns; ++c) Lanes::store(out + m * out_stride + first + c * kKeyBlock, sums[m][c]);
    }
}

template <class Lanes, class Value>
void mix_values_of(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                   size_t offset, int64_t n_keys, float* out, int64_t out_stride) {
    constexpr int kColumns = kRowsOfValue / 2;
    int64_t m = 0;
    for (; m + 2 <= n_queries; m += 2) {
        for (int64_t first = 0; first < kHeadSize; first += kColumns * kKeyBlock) {
            mix_some<Lanes, Value, 2, kColumns>(probabilities + m * stride, stride, blocks, offset, n_keys, first,
                                                out + m * out_stride, out_stride);
        }
    }
    if (m < n_queries) {
        mix_some<Lanes, Value, 1, kRowsOfValue>(probabilities + m * stride, stride, blocks, offset, n_keys, 0,
                                                out + m * out_stride, out_stride);
    }
}

// Round a block's probabilities, times the scales of its values, to codes in [0, 127]. Return the factor of the codes.
template <class Lanes>
float round_probabilities(const float* probabilities, const float* scales, int8_t* codes) {
    const auto products = Lanes::multiply(Lanes::load(probabilities), Lanes::load(scales));
    const float greatest = Lanes::greatest_lane(products);
    Lanes::store_codes(codes, Lanes::scaled(products, greatest < kLeastNormal ? 0.0f : 127.0f / greatest));
    return greatest * (1.0f / 127.0f);
}

template <class Lanes, CacheType kType>
void mix_codes(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
               size_t offset, int64_t n_keys, float* out, int64_t out_stride) {
    for (int64_t m = 0; m < n_queries; ++m) {
        typename Lanes::Row sums[kRowsOfValue];
        for (auto& sum : sums) sum = Lanes::zero();
        for (int64_t b = 0; b < n_key_blocks(n_keys); ++b) {
            const uint8_t* values = blocks[b] + offset;
            alignas(kAlignment) int8_t codes[kKeyBlock];
            const float factor =
                round_probabilities<Lanes>(probabilities + m * stride + b * kKeyBlock, scales_of<kType>(values), codes);
            auto none = Lanes::start_unsigned();  // less the excess of codes in six bits
            if (kType == CacheType::int6) {
                const auto too_large = Lanes::repeat_code(-kSixBitZero);
                for (int64_t g = 0; g < 4; ++g) none = Lanes::add_unsigned(none, too_large, four_codes(codes + 4 * g));
            }
            for (int c = 0; c < kRowsOfValue; ++c) {
                typename Lanes::Codes rows[4];
                load_rows<Lanes, kType>(values, c, rows);
                auto dots = none;
                for (int64_t g = 0; g < 4; ++g) dots = Lanes::add_unsigned(dots, rows[g], four_codes(codes + 4 * g));
                sums[c] = Lanes::add_product(sums[c], Lanes::to_floats(dots), factor);
            }
        }
        for (int c = 0; c < kRowsOfValue; ++c) Lanes::store(out + m * out_stride + c * kKeyBlock, sums[c]);
    }
}

template <class Lanes>
void mix_values(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                size_t offset, CacheType type, int64_t n_keys, float* out, int64_t out_stride) {
    switch (type) {
        case CacheType::f32:
            return mix_values_of<Lanes, float>(probabilities, stride, n_queries, blocks, offset, n_keys, out,
                                               out_stride);
        case CacheType::f16:
            return mix_values_of<Lanes, uint16_t>(probabilities, stride, n_queries, blocks, offset, n_keys, out,
                                                  out_stride);
        case CacheType::int8:
            return mix_codes<Lanes, CacheType::int8>(probabilities, stride, n_queries, blocks, offset, n_keys, out,
                                                     out_stride);
        case CacheType::int6:
            return mix_codes<Lanes, CacheType::int6>(probabilities, stride, n_queries, blocks, offset, n_keys, out,
                                                     out_stride);
    }
}

}  // namespace
}  // namespace whisperq::kernels
