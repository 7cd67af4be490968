#include "edge/encoder.h"

#include <algorithm>
#include <string>

#include "core/status.h"
#include "edge/product.h"

namespace whisperq::edge {
namespace {

using kernels::kHeadSize;

// A thread takes so many queries of a head at a time. Parts are few, because a thread packs the head's keys and values
// anew for each.
constexpr int64_t kLeastQueriesPerPart = 256;

constexpr int64_t kFloatsPerLine = kCacheLine / sizeof(float);

// Attention that is not exact keeps 8 bits of q, k, v and the probabilities. Its noise is nothing beside that of 8-bit
// weights and inputs, but a hundred times that of an f16 or f32 model.
bool wants_exact_attention(const EncoderWeights& weights) {
    for (const EncoderLayer& layer : weights.layers) {
        const AttentionWeights& attention = layer.attention;
        for (const Linear* linear : {&attention.query, &attention.key, &attention.value, &attention.out}) {
            if (kernels::info(linear->format).bits == 0) return true;
        }
    }
    return false;
}

// Return the floats of the frames, in whole cache lines. A frame of zeros stands before the first and after the last.
int64_t frame_floats(const EncoderWeights& weights, int64_t n_ctx) {
    const int64_t n_mels = weights.conv1.k / 3;
    return ceil_divide((2 * n_ctx + 2) * n_mels, kFloatsPerLine) * kFloatsPerLine;
}

int64_t convolution_floats(const EncoderWeights& weights, int64_t n_ctx) {
    return frame_floats(weights, n_ctx) + (2 * n_ctx + 2) * weights.conv1.n;
}

// Return the floats of q, k, v and the heads' results.
int64_t attention_floats(int64_t n_ctx, int64_t n_silent, int64_t n_state) {
    return (4 * n_ctx + 2 * n_silent) * n_state;
}

size_t attention_scratch_bytes(int64_t n_keys) {
    return kernels::attention_scratch_floats(n_keys) * sizeof(float);
}

}  // namespace

void EncoderNeeds::include(const EncoderNeeds& other) {
    work_bytes = std::max(work_bytes, other.work_bytes);
    machine.include(other.machine);
}

EncoderNeeds encoder_needs(const EncoderWeights& weights, const kernels::KernelTable& kernels, int64_t n_ctx,
                           int64_t n_silent) {
    int64_t floats = std::max(convolution_floats(weights, n_ctx), attention_floats(n_ctx, n_silent, weights.conv2.n));
    EncoderNeeds needs;
    needs.machine = product_needs(kernels, 2 * n_ctx, false, {{&weights.conv1, nullptr, {}}});
    needs.machine.include(product_needs(kernels, n_ctx, false, {{&weights.conv2, nullptr, {}}}));
    needs.machine.include({attention_scratch_bytes(n_ctx + n_silent), 0, 0});
    for (const EncoderLayer& layer : weights.layers) {
        const AttentionWeights& attention = layer.attention;
        needs.machine.include(product_needs(
            kernels, n_ctx, true,
            {{&attention.query, nullptr, {}}, {&attention.key, nullptr, {}}, {&attention.value, nullptr, {}}}));
        needs.machine.include(product_needs(kernels, n_ctx, false, {{&attention.out, nullptr, {}}}));
        needs.machine.include(mlp_needs(kernels, layer.mlp, n_ctx));
        floats = std::max(floats, mlp_floats(layer.mlp, n_ctx));
    }
    needs.work_bytes = static_cast<size_t>(floats) * sizeof(float);
    return needs;
}

Encoder::Encoder(Model& model)
    : model_(model),
      hparams_(model.hparams()),
      kernels_(model.kernels()),
      exact_attention_(wants_exact_attention(model.encoder())) {}

bool Encoder::encode(const float* mel, int64_t n_frames, int64_t n_ctx, float* out,
                     const std::function<bool()>& should_stop) {
    if (n_ctx < 1 || n_ctx > hparams_.n_audio_ctx || n_frames < 1) {
        throw Error(Status::internal,
                    "encode: " + std::to_string(n_ctx) + " audio tokens of " + std::to_string(n_frames) + " frames");
    }
    return run({mel, n_frames, n_ctx}, out, should_stop);
}

bool Encoder::encode_short(const float* mel, int64_t n_frames, int64_t n_ctx, const Silence& silence, float* out,
                           const std::function<bool()>& should_stop) {
    if (n_ctx < 1 || n_ctx >= hparams_.n_audio_ctx || n_ctx % Silence::kPool != 0 || n_frames < 1) {
        throw Error(Status::internal, "encode_short: " + std::to_string(n_ctx) + " audio tokens of " +
                                          std::to_string(n_frames) + " frames");
    }
    Window window{mel, n_frames, n_ctx};
    window.behind = &silence;
    return run(window, out, should_stop);
}

bool Encoder::encode_silence(Silence& learned, float* out, const std::function<bool()>& should_stop) {
    const std::vector<float> frame(static_cast<size_t>(hparams_.n_mels), Silence::kFloor);
    Window window{frame.data(), 1, hparams_.n_audio_ctx};
    window.learned = &learned;
    return run(window, out, should_stop);
}

bool Encoder::run(const Window& window, float* out, const std::function<bool()>& should_stop) {
    const Turn::Taken taken = model_.turn().take(should_stop);
    if (!taken) return false;
    const int64_t n_ctx = window.n_ctx;
    const EncoderNeeds needs = encoder_needs(model_.encoder(), kernels_, n_ctx, n_silent(window));
    reserve_bytes(work_, needs.work_bytes);
    model_.machine().reserve(needs.machine);
    bias_.assign(static_cast<size_t>(n_ctx), 0.0f);
    for (int64_t i = 0; i < n_silent(window); ++i) {
        bias_.push_back(window.behind->bias(n_ctx / Silence::kPool + i));
    }
    convolve(window, out);
    int64_t at = 0;
    for (const EncoderLayer& layer : model_.encoder().layers) {
        if (should_stop && should_stop()) return false;
        attend(layer.attention, window, at++, out);
        apply_mlp(model_.machine(), layer.mlp, n_ctx, out, work_);
    }
    normalize(model_.machine(), model_.encoder().norm, n_ctx, out);
    return true;
}

// Both convolutions are products: three frames in a row, with channels innermost, are one input row, and rows overlap.
// A frame of zeros stands before the first and after the last. Short audio goes on behind its last frame.
void Encoder::convolve(const Window& window, float* x) {
    Machine& machine = model_.machine();
    const EncoderWeights& weights = model_.encoder();
    const int64_t n_mels = hparams_.n_mels, n_state = hparams_.n_audio_state, n_ctx = window.n_ctx, n_used = 2 * n_ctx;
    float* frames = work_.floats();
    float* hidden = frames + frame_floats(weights, n_ctx);
    const float quietest = *std::min_element(window.mel, window.mel + n_mels * window.n_frames);
    const int64_t n_real = window.behind ? n_used + 1 : n_used;
    std::fill_n(frames, n_mels, 0.0f);
    std::fill_n(frames + (n_used + 1) * n_mels, n_mels, 0.0f);
    for (int64_t t = 0; t < n_real; ++t) {
        for (int64_t i = 0; i < n_mels; ++i) {
            frames[(t + 1) * n_mels + i] = t < window.n_frames ? window.mel[i * window.n_frames + t] : quietest;
        }
    }

    std::fill_n(hidden, n_state, 0.0f);
    std::fill_n(hidden + (n_used + 1) * n_state, n_state, 0.0f);
    kernels::Epilogue gelu;
    gelu.gelu = true;
    multiply(machine, {frames, n_used, n_mels}, nullptr, {{&weights.conv1, hidden + n_state, gelu}});
    kernels::Epilogue gelu_and_positions = gelu;
    gelu_and_positions.residual = weights.positions.data();
    multiply(machine, {hidden, n_ctx, 2 * n_state}, nullptr, {{&weights.conv2, x, gelu_and_positions}});
}

void Encoder::attend(const AttentionWeights& weights, const Window& window, int64_t layer, float* x) {
    Machine& machine = model_.machine();
    const int64_t n_state = hparams_.n_audio_state, n_head = hparams_.n_audio_head, n_ctx = window.n_ctx;
    const int64_t n_silent = this->n_silent(window), n_keys = n_ctx + n_silent;
    float* q = work_.floats();
    float* k = q + n_ctx * n_state;
    float* v = k + n_keys * n_state;
    float* heads = v + n_keys * n_state;
    multiply(machine, {x, n_ctx, n_state}, &weights.norm,
             {{&weights.query, q, {}}, {&weights.key, k, {}}, {&weights.value, v, {}}});
    if (window.learned) window.learned->put_layer(layer, k, v);
    if (window.behind) {
        const int64_t pool = n_ctx / Silence::kPool;
        std::copy_n(window.behind->keys(layer, pool), n_silent * n_state, k + n_ctx * n_state);
        std::copy_n(window.behind->values(layer, pool), n_silent * n_state, v + n_ctx * n_state);
    }

    const int64_t wanted = ceil_divide(2 * machine.pool().size(), n_head);
    const int64_t n_parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, n_ctx / kLeastQueriesPerPart));
    const int64_t n_queries = ceil_divide(ceil_divide(n_ctx, n_parts), kernels::kQueryBlock) * kernels::kQueryBlock;
    machine.pool().run_shares(n_head * n_parts, [&](int64_t task, int worker) {
        const int64_t head = task / n_parts * kHeadSize, first = task % n_parts * n_queries;
        if (first >= n_ctx) return;
        kernels::HeadRows rows = {q + first * n_state + head,         n_state, k + head, n_state, v + head, n_state,
                                  std::min(n_queries, n_ctx - first), n_keys};
        if (window.behind) rows.bias = bias_.data();
        kernels_.attention(rows, exact_attention_, heads + first * n_state + head, n_state,
                           machine.scratch_floats(worker));
    });

    kernels::Epilogue add;
    add.residual = x;
    multiply(machine, {heads, n_ctx, n_state}, nullptr, {{&weights.out, x, add}});
}

}  // namespace whisperq::edge
