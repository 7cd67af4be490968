// What the encoder makes of a window of silence, pooled. Short audio attends to it in place of the rest of its window.
//
//   whole window    | own audio |             1500 - n tokens of silence           |
//   short audio     | own audio | margin | one key and value for each 32 tokens of silence, in every layer
//
// Whisper's encoder was trained on windows of 30 s. Without silence behind it, short audio gives other features, and
// the decoder invents words. Keys and values of silence depend little on the audio before it, so they are computed once
// for a model. A pooled key stands for kPool keys, so its score gets a bias of log kPool.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"

namespace whisperq::edge {

class Silence {
  public:
    // Audio tokens that are pooled: 0.64 s.
    static constexpr int64_t kPool = 32;
    // The log-mel value of silence behind speech of usual loudness. openai/whisper raises all values to 2 (8 powers of
    // ten) below the greatest, which is about 1.4.
    static constexpr float kFloor = -0.6f;

    Silence(int64_t n_layer, int64_t n_ctx, int64_t n_state);

    // Return the number of pools of a window, of which the last may have fewer tokens.
    static int64_t n_pools(int64_t n_ctx) noexcept { return (n_ctx + kPool - 1) / kPool; }
    // Return the number of pools that follow `n_own` tokens, which are whole pools, in a window of n_ctx tokens.
    static int64_t n_pools_behind(int64_t n_own, int64_t n_ctx) noexcept { return n_pools(n_ctx) - n_own / kPool; }

    // Pool rows [n_ctx][n_state] of a layer's keys and values, and of the output.
    void put_layer(int64_t layer, const float* keys, const float* values);
    void put_features(const float* features);

    // Return the rows of pools from `pool` on: [pools][n_state].
    const float* keys(int64_t layer, int64_t pool) const noexcept { return row(2 * layer, pool); }
    const float* values(int64_t layer, int64_t pool) const noexcept { return row(2 * layer + 1, pool); }
    const float* features(int64_t pool) const noexcept { return row(2 * n_layer_, pool); }
    // Return the logarithm of the number of a pool's tokens.
    float bias(int64_t pool) const noexcept;

    size_t n_bytes() const noexcept { return data_.size(); }
    static size_t n_bytes(int64_t n_layer, int64_t n_ctx, int64_t n_state) noexcept {
        return static_cast<size_t>((2 * n_layer + 1) * n_pools(n_ctx) * n_state) * sizeof(float);
    }

  private:
    int64_t n_tokens(int64_t pool) const noexcept;
    const float* row(int64_t table, int64_t pool) const noexcept;
    void put(int64_t table, const float* rows);

    int64_t n_layer_, n_ctx_, n_state_, n_pools_;
    AlignedBuffer data_;  // [2 * n_layer + 1][n_pools][n_state]
};

}  // namespace whisperq::edge
