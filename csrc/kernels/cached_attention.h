// Attention over cached keys and values, for each instruction set by what it knows of rows of 16 floats. Included by
// the tables' sources only, each of which compiles its own copy for its own instructions.
//
// `Lanes` has a type Row and: zero, load (floats or f16), store, add_product(sum, row, factor), add, greater, scaled,
// power_of_e(row, subtracted) = e^(row -
// subtracted), greatest_lane, sum_of_lanes.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace whisperq::kernels {
namespace {

constexpr float kInverseRootHeadSize = 0.125f;  // 1 / sqrt(kHeadSize)
constexpr int kRowsOfValue = kHeadSize / kKeyBlock;

template <class Value>
const Value* block_at(const uint8_t* const* blocks, size_t offset, int64_t b) {
    return reinterpret_cast<const Value*>(blocks[b] + offset);
}

// ---- Scores
//
// A block has 16 keys side by side: its row i holds value i of each of them, which is multiplied with value i of a
// query.

// One query and some blocks side by side, which hide the latency of an addition. Every score is the same chain of
// additions here and below, so that it does not depend on how many queries come along.
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
    for (; b < n_blocks; ++b) {
        const Value* const keys[1] = {block_at<Value>(blocks, offset, b)};
        score_one<Lanes, Value, 1>(q, keys, scores + b * kKeyBlock);
    }
}

// Several queries, which share what is loaded.
template <class Lanes, class Value, int kQueries>
void score_some(const float* q, int64_t q_stride, const Value* keys, float* scores, int64_t scores_stride) {
    typename Lanes::Row sums[kQueries];
    for (auto& sum : sums) sum = Lanes::zero();
    for (int64_t i = 0; i < kHeadSize; ++i, keys += kKeyBlock) {
        const auto row = Lanes::load(keys);
        for (int m = 0; m < kQueries; ++m) sums[m] = Lanes::add_product(sums[m], row, q[m * q_stride + i]);
    }
    for (int m = 0; m < kQueries; ++m) {
        Lanes::store(scores + m * scores_stride, Lanes::scaled(sums[m], kInverseRootHeadSize));
    }
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

template <class Lanes>
void score_keys(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                bool half, int64_t n_keys, float* scores, int64_t scores_stride) {
    (half ? score_keys_of<Lanes, uint16_t> : score_keys_of<Lanes, float>)(q, q_stride, n_queries, blocks, offset,
                                                                          n_keys, scores, scores_stride);
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
// A block has 16 values of 64 one after the other. kColumns registers of a row of `out` at a time, for kQueries of
// them.
template <class Lanes, class Value, int kQueries, int kColumns>
void mix_some(const float* probabilities, int64_t stride, const uint8_t* const* blocks, size_t offset, int64_t n_keys,
              float* out, int64_t out_stride) {
    typename Lanes::Row sums[kQueries][kColumns];
    for (auto& row : sums) {
        for (auto& sum : row) sum = Lanes::zero();
    }
    for (int64_t b = 0; b < n_key_blocks(n_keys); ++b, probabilities += kKeyBlock) {
        const Value* values = block_at<Value>(blocks, offset, b);
        for (int64_t j = 0; j < kKeyBlock; ++j, values += kHeadSize) {
            for (int c = 0; c < kColumns; ++c) {
                const auto row = Lanes::load(values + c * kKeyBlock);
                for (int m = 0; m < kQueries; ++m) {
                    sums[m][c] = Lanes::add_product(sums[m][c], row, probabilities[m * stride + j]);
                }
            }
        }
    }
    for (int m = 0; m < kQueries; ++m) {
        for (int c = 0; c < kColumns; ++c) Lanes::store(out + m * out_stride + c * kKeyBlock, sums[m][c]);
    }
}

template <class Lanes, class Value>
void mix_values_of(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                   size_t offset, int64_t n_keys, float* out, int64_t out_stride) {
    constexpr int kColumns = kRowsOfValue / 2;
    int64_t m = 0;
    for (; m + 2 <= n_queries; m += 2) {
        for (int c = 0; c < kRowsOfValue; c += kColumns) {
            mix_some<Lanes, Value, 2, kColumns>(probabilities + m * stride, stride, blocks,
                                                offset + static_cast<size_t>(c * kKeyBlock) * sizeof(Value), n_keys,
                                                out + m * out_stride + c * kKeyBlock, out_stride);
        }
    }
    if (m < n_queries) {
        mix_some<Lanes, Value, 1, kRowsOfValue>(probabilities + m * stride, stride, blocks, offset, n_keys,
                                                out + m * out_stride, out_stride);
    }
}

template <class Lanes>
void mix_values(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                size_t offset, bool half, int64_t n_keys, float* out, int64_t out_stride) {
    (half ? mix_values_of<Lanes, uint16_t> : mix_values_of<Lanes, float>)(probabilities, stride, n_queries, blocks,
                                                                          offset, n_keys, out, out_stride);
}

}  // namespace
}  // namespace whisperq::kernels
