#include "edge/encoder.h"

#include <algorithm>
#include <string>

#include "core/status.h"

namespace whisperq::edge {
namespace {

using kernels::kHeadSize;

// Queries that a thread takes of a head at a time. A thread packs the head's keys and values anew for each part: few
// parts.
constexpr int64_t kLeastQueriesPerPart = 256;

// bf16 keeps 8 bits of q, k, v and of the probabilities: nothing beside the noise of 8-bit weights and inputs, but a
// hundred times that of an f16 or f32 model.
bool wants_exact_attention(const EncoderWeights& weights) {
    for (const EncoderLayer& layer : weights.layers) {
        for (const Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.out}) {
            if (kernels::info(linear->format).bits == 0) return true;
        }
    }
    return false;
}

int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

float* grow(AlignedBuffer& buffer, int64_t n_floats) {
    const auto n_bytes = static_cast<size_t>(n_floats) * sizeof(float);
    if (buffer.size() < n_bytes) buffer = AlignedBuffer(n_bytes);
    return reinterpret_cast<float*>(buffer.data());
}

}  // namespace

Encoder::Encoder(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads)
    : kernels_(kernels), pool_(n_threads), machine_(kernels, pool_) {
    const model::ModelFile file = model::read_model_file(path);
    hparams_ = file.hparams;
    weights_ = read_encoder(file);
    exact_attention_ = wants_exact_attention(weights_);
}

uint64_t Encoder::packed_bytes() const noexcept {
    uint64_t total = weights_.conv1.packed.size() + weights_.conv2.packed.size();
    for (const EncoderLayer& layer : weights_.layers) {
        for (const Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.out, &layer.mlp_0, &layer.mlp_2}) {
            total += linear->packed.size();
        }
    }
    return total;
}

float* Encoder::wide(int64_t n_floats) {
    return grow(wide_, n_floats);
}

float* Encoder::qkv(int64_t n_floats) {
    return grow(qkv_, n_floats);
}

void Encoder::encode(const float* mel, int64_t n_frames, int64_t n_ctx, float* out) {
    if (n_ctx < 1 || n_ctx > hparams_.n_audio_ctx || n_frames < 1) {
        throw Error(Status::internal,
                    "encode: " + std::to_string(n_ctx) + " audio tokens of " + std::to_string(n_frames) + " frames");
    }
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    convolve(mel, n_frames, n_ctx, out);
    for (const EncoderLayer& layer : weights_.layers) {
        attend(layer, n_ctx, out);
        apply_mlp(layer, n_ctx, out);
    }
    pool_.run(ceil_divide(n_ctx, kernels::kStripRows), [&](int64_t i, int) {
        const int64_t first = i * kernels::kStripRows;
        float* rows = out + first * hparams_.n_audio_state;
        kernels_.layer_norm(rows, std::min(kernels::kStripRows, n_ctx - first), hparams_.n_audio_state,
                            weights_.norm.weight.data(), weights_.norm.bias.data(), rows);
    });
}

// Both convolutions are products: three frames in a row, with channels innermost, are one input row, and rows overlap.
// A frame of zeros stands before the first and after the last.
void Encoder::convolve(const float* mel, int64_t n_frames, int64_t n_ctx, float* x) {
    const int64_t n_mels = hparams_.n_mels, n_state = hparams_.n_audio_state, n_used = 2 * n_ctx;
    float* frames = qkv((n_used + 2) * n_mels);
    const float quietest = *std::min_element(mel, mel + n_mels * n_frames);
    std::fill_n(frames, n_mels, 0.0f);
    for (int64_t t = 0; t < n_used; ++t) {
        for (int64_t i = 0; i < n_mels; ++i) {
            frames[(t + 1) * n_mels + i] = t < n_frames ? mel[i * n_frames + t] : quietest;
        }
    }
    std::fill_n(frames + (n_used + 1) * n_mels, n_mels, 0.0f);

    float* hidden = wide((n_used + 2) * n_state);
    std::fill_n(hidden, n_state, 0.0f);
    std::fill_n(hidden + (n_used + 1) * n_state, n_state, 0.0f);
    kernels::Epilogue gelu;
    gelu.gelu = true;
    multiply(machine_, {frames, n_used, n_mels}, nullptr, {{&weights_.conv1, hidden + n_state, gelu}});
    kernels::Epilogue gelu_and_positions = gelu;
    gelu_and_positions.residual = weights_.positions.data();
    multiply(machine_, {hidden, n_ctx, 2 * n_state}, nullptr, {{&weights_.conv2, x, gelu_and_positions}});
}

void Encoder::attend(const EncoderLayer& layer, int64_t n_ctx, float* x) {
    const int64_t n_state = hparams_.n_audio_state, n_head = hparams_.n_audio_head, size = n_ctx * n_state;
    float* q = qkv(4 * size);
    float* k = q + size;
    float* v = k + size;
    float* heads = v + size;
    multiply(machine_, {x, n_ctx, n_state}, &layer.attention_norm,
             {{&layer.query, q, {}}, {&layer.key, k, {}}, {&layer.value, v, {}}});

    const int64_t wanted = ceil_divide(2 * pool_.size(), n_head);
    const int64_t n_parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, n_ctx / kLeastQueriesPerPart));
    const int64_t n_queries = ceil_divide(ceil_divide(n_ctx, n_parts), kernels::kQueryBlock) * kernels::kQueryBlock;
    machine_.reserve_scratch(kernels::attention_scratch_floats(n_ctx) * sizeof(float));
    pool_.run(n_head * n_parts, [&](int64_t task, int worker) {
        const int64_t head = task / n_parts * kHeadSize, first = task % n_parts * n_queries;
        if (first >= n_ctx) return;
        kernels_.attention(q + first * n_state + head, n_state, k + head, n_state, v + head, n_state,
                           std::min(n_queries, n_ctx - first), n_ctx, exact_attention_, heads + first * n_state + head,
                           n_state, reinterpret_cast<float*>(machine_.scratch(worker)));
    });

    kernels::Epilogue add;
    add.residual = x;
    multiply(machine_, {heads, n_ctx, n_state}, nullptr, {{&layer.out, x, add}});
}

void Encoder::apply_mlp(const EncoderLayer& layer, int64_t n_ctx, float* x) {
    const int64_t n_state = hparams_.n_audio_state;
    float* hidden = wide(n_ctx * layer.mlp_0.n);
    kernels::Epilogue gelu;
    gelu.gelu = true;
    multiply(machine_, {x, n_ctx, n_state}, &layer.mlp_norm, {{&layer.mlp_0, hidden, gelu}});
    kernels::Epilogue add;
    add.residual = x;
    multiply(machine_, {hidden, n_ctx, layer.mlp_0.n}, nullptr, {{&layer.mlp_2, x, add}});
}

}  // namespace whisperq::edge
