#include "edge/silence.h"

#include <algorithm>
#include <cmath>

namespace whisperq::edge {

Silence::Silence(int64_t n_layer, int64_t n_ctx, int64_t n_state)
    : n_layer_(n_layer),
      n_ctx_(n_ctx),
      n_state_(n_state),
      n_pools_(n_pools(n_ctx)),
      data_(n_bytes(n_layer, n_ctx, n_state)) {}

int64_t Silence::n_tokens(int64_t pool) const noexcept {
    return std::min(kPool, n_ctx_ - pool * kPool);
}

float Silence::bias(int64_t pool) const noexcept {
    return std::log(static_cast<float>(n_tokens(pool)));
}

const float* Silence::row(int64_t table, int64_t pool) const noexcept {
    return data_.floats() + (table * n_pools_ + pool) * n_state_;
}

void Silence::put(int64_t table, const float* rows) {
    float* to = data_.floats() + table * n_pools_ * n_state_;
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

void Silence::put_features(const float* features) {
    put(2 * n_layer_, features);
}

}  // namespace whisperq::edge
