// What a model makes of a window of silence. Short audio gets it in place of the rest of its window.
//
//   whole window         | own audio |             1500 - n tokens of silence           |
//   short: the encoder   | own audio | margin | a key and a value for each 32 tokens, in every layer
//   short: the decoder   | own audio | margin |    keys and values of the rest of a silent window    |
//
// Whisper was trained on windows of 30 s. Without silence behind it, short audio gives other features, and the decoder
// invents words. Keys and values of silence depend little on the audio before it, so they are computed once for a
// model. The encoder's are pooled: a pooled key stands for kPool keys, so its score gets a bias of log kPool. The
// decoder's are not, because pools made it repeat itself (docs/short-audio.md).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "core/aligned.h"
#include "edge/kv_cache.h"
#include "model/architecture.h"

namespace whisperq::edge {

class Encoder;
class TextDecoder;

class Silence {
  public:
    // Audio tokens that are pooled: 0.64 s.
    static constexpr int64_t kPool = 32;
    // The log-mel value of silence behind speech of usual loudness. openai/whisper raises all values to 2 (8 powers of
    // ten) below the greatest, which is about 1.4.
    static constexpr float kFloor = -0.6f;

    // Nothing is known yet. `cache` is the shape of the decoder's caches of audio.
    Silence(const model::Hparams& hparams, const CacheShape& cache);

    // Return the number of pools of a window, of which the last may have fewer tokens.
    static int64_t n_pools(int64_t n_ctx) noexcept { return (n_ctx + kPool - 1) / kPool; }
    // Return the number of pools that follow `n_own` tokens, which are whole pools, in a window of n_ctx tokens.
    static int64_t n_pools_behind(int64_t n_own, int64_t n_ctx) noexcept { return n_pools(n_ctx) - n_own / kPool; }

    // Pool rows [n_ctx][n_state] of keys and values of an encoder's layer.
    void put_layer(int64_t layer, const float* keys, const float* values);
    void put_audio(std::shared_ptr<const AudioCache> audio) noexcept { audio_ = std::move(audio); }

    // Return the rows of pools from `pool` on: [pools][n_state].
    const float* keys(int64_t layer, int64_t pool) const noexcept { return row(2 * layer, pool); }
    const float* values(int64_t layer, int64_t pool) const noexcept { return row(2 * layer + 1, pool); }
    // Return the logarithm of the number of a pool's tokens.
    float bias(int64_t pool) const noexcept;
    // Return the silent window as the decoder hears it.
    const AudioCache& audio() const noexcept { return *audio_; }

    const AlignedBuffer& pools() const noexcept { return pools_; }
    // Take the bytes of pools() and of audio(), one behind the other, that a model has learned before on this machine.
    void read(const uint8_t* from);
    size_t n_bytes() const noexcept { return pools_.size() + cache_.n_bytes(n_ctx_); }
    static size_t n_bytes(const model::Hparams& hparams, const CacheShape& cache) noexcept;

  private:
    int64_t n_tokens(int64_t pool) const noexcept;
    const float* row(int64_t table, int64_t pool) const noexcept;
    void put(int64_t table, const float* rows);

    CacheShape cache_;
    int64_t n_ctx_, n_state_, n_pools_;
    AlignedBuffer pools_;  // [2 * n_layer][n_pools][n_state]
    std::shared_ptr<const AudioCache> audio_;
};

// Encode a window of silence and let the decoder listen to it. Return null when should_stop() said so.
std::shared_ptr<const Silence> learn_silence(Encoder& encoder, TextDecoder& decoder, const model::Hparams& hparams,
                                             const std::function<bool()>& should_stop = {});

}  // namespace whisperq::edge
