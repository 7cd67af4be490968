#include "edge/silence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "edge/decoder.h"
#include "edge/encoder.h"

namespace whisperq::edge {
namespace {

size_t pool_bytes(const model::Hparams& hparams) noexcept {
    return static_cast<size_t>(2 * hparams.n_audio_layer * Silence::n_pools(hparams.n_audio_ctx) *
                               hparams.n_audio_state) *
           sizeof(float);
}

}  // namespace

Silence::Silence(const model::Hparams& hparams, const CacheShape& cache)
    : cache_(cache),
      n_ctx_(hparams.n_audio_ctx),
      n_state_(hparams.n_audio_state),
      n_pools_(n_pools(hparams.n_audio_ctx)),
      pools_(pool_bytes(hparams)) {}

size_t Silence::n_bytes(const model::Hparams& hparams, const CacheShape& cache) noexcept {
    return pool_bytes(hparams) + cache.n_bytes(hparams.n_audio_ctx);
}

int64_t Silence::n_tokens(int64_t pool) const noexcept {
    return std::min(kPool, n_ctx_ - pool * kPool);
}

float Silence::bias(int64_t pool) const noexcept {
    return std::log(static_cast<float>(n_tokens(pool)));
}

const float* Silence::row(int64_t table, int64_t pool) const noexcept {
    return pools_.floats() + (table * n_pools_ + pool) * n_state_;
}

void Silence::put(int64_t table, const float* rows) {
    float* to = pools_.floats() + table * n_pools_ * n_state_;
    for (int64_t pool = 0; pool < n_pools_; ++pool, to += n_state_) {
        std::fill_n(to, n_state_, 0.0f);
        for (int64_t t = 0; t < n_tokens(pool); ++t, rows += n_state_) {
            for (int64_t i = 0; i < n_state_; ++i) to[i] += rows[i];
        }
        for (int64_t i = 0; i < n_state_; ++i) to[i] /= static_cast<float>(n_tokens(pool));
    }
}

void Silence::put_layer(int64_t layer, const float* keys, const float* values) {
    put(2 * layer, keys);
    put(2 * layer + 1, values);
}

void Silence::read(const uint8_t* from) {
    auto audio = std::make_shared<AudioCache>(cache_, n_ctx_);
    std::memcpy(pools_.data(), from, pools_.size());
    std::memcpy(audio->data(), from + pools_.size(), audio->n_bytes());
    audio_ = std::move(audio);
}

std::shared_ptr<const Silence> learn_silence(Encoder& encoder, TextDecoder& decoder, const model::Hparams& hparams,
                                             const std::function<bool()>& should_stop) {
    auto learned = std::make_shared<Silence>(hparams, decoder.audio_shape());
    const int64_t n_ctx = hparams.n_audio_ctx;
    std::vector<float> features(static_cast<size_t>(n_ctx * hparams.n_audio_state));
    if (!encoder.encode_silence(*learned, features.data(), should_stop)) return nullptr;
    std::shared_ptr<const AudioCache> audio = decoder.listen(features.data(), n_ctx, should_stop);
    if (!audio) return nullptr;
    learned->put_audio(std::move(audio));
    return learned;
}

}  // namespace whisperq::edge
