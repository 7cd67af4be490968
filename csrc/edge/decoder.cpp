#include "edge/decoder.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/status.h"
#include "edge/activation_study.h"
#include "edge/product.h"
#include "kernels/pack.h"

namespace whisperq::edge {
namespace {

using kernels::kHeadSize;
using kernels::kKeyBlock;

// Queries of one head that share what is loaded of its keys and values, and whose scores stay in the cache.
constexpr int64_t kQueriesAtOnce = 8;
// Attention to tokens has so many tasks that threads which were held up elsewhere do not hold up the others.
constexpr int64_t kTasksPerThread = 4;

[[noreturn]] void refuse(const std::string& what) {
    throw Error(Status::internal, "decode: " + what);
}

int64_t score_stride(int64_t n_keys) {
    return kernels::n_key_blocks(n_keys) * kKeyBlock;
}

// Keys and values keep more bits than the weights that they come from. Every step of every sequence reads all keys and
// values of the audio, so these keep as few bits as that allows. Values get by with fewer than keys, because their
// errors cancel out where many are mixed. A sequence's own keys and values are few.
kernels::CacheType audio_key_type(const Linear& key) {
    if (key.format == kernels::Format::f32) return kernels::CacheType::f32;
    return key.format == kernels::Format::f16 ? kernels::CacheType::f16 : kernels::CacheType::int8;
}

kernels::CacheType audio_value_type(const Linear& value) {
    const kernels::CacheType type = audio_key_type(value);
    return kernels::has_codes(type) ? kernels::CacheType::int6 : type;
}

kernels::CacheType self_type(const Linear& key) {
    return key.format == kernels::Format::f32 ? kernels::CacheType::f32 : kernels::CacheType::f16;
}

size_t float_bytes(int64_t n_floats) {
    return static_cast<size_t>(n_floats) * sizeof(float);
}

}  // namespace

// ---- Sizes

void DecoderNeeds::include(const DecoderNeeds& other) {
    row_bytes = std::max(row_bytes, other.row_bytes);
    qkv_bytes = std::max(qkv_bytes, other.qkv_bytes);
    hidden_bytes = std::max(hidden_bytes, other.hidden_bytes);
    machine.include(other.machine);
}

DecoderNeeds listen_needs(const DecoderWeights& weights, const kernels::KernelTable& kernels, int64_t n_ctx) {
    DecoderNeeds needs;
    for (const DecoderLayer& layer : weights.layers) {
        const Linear &key = layer.cross_attention.key, &value = layer.cross_attention.value;
        needs.qkv_bytes = std::max(needs.qkv_bytes, float_bytes(n_ctx * (key.n + value.n)));
        needs.machine.include(product_needs(kernels, n_ctx, false, {{&key, nullptr, {}}, {&value, nullptr, {}}}));
    }
    return needs;
}

DecoderNeeds step_needs(const DecoderWeights& weights, const kernels::KernelTable& kernels,
                        const model::Hparams& hparams, int64_t n_rows, int64_t n_logits) {
    const int64_t n_state = hparams.n_text_state;
    DecoderNeeds needs;
    needs.row_bytes = float_bytes(n_rows * n_state);
    needs.qkv_bytes = float_bytes(4 * n_rows * n_state);  // q, k, v and what the heads make of them
    for (const int64_t n_scores :
         {score_stride(hparams.n_text_ctx), kQueriesAtOnce * score_stride(hparams.n_audio_ctx)}) {
        needs.machine.include({float_bytes(n_scores), 0, 0});
    }
    for (const DecoderLayer& layer : weights.layers) {
        const AttentionWeights &text = layer.attention, &audio = layer.cross_attention;
        needs.machine.include(product_needs(
            kernels, n_rows, true, {{&text.query, nullptr, {}}, {&text.key, nullptr, {}}, {&text.value, nullptr, {}}}));
        needs.machine.include(product_needs(kernels, n_rows, false, {{&text.out, nullptr, {}}}));
        needs.machine.include(product_needs(kernels, n_rows, true, {{&audio.query, nullptr, {}}}));
        needs.machine.include(product_needs(kernels, n_rows, false, {{&audio.out, nullptr, {}}}));
        needs.machine.include(mlp_needs(kernels, layer.mlp, n_rows));
        needs.hidden_bytes = std::max(needs.hidden_bytes, float_bytes(mlp_floats(layer.mlp, n_rows)));
    }
    if (n_logits > 0) {
        needs.machine.include(product_needs(kernels, n_logits, true, {{&weights.token_embedding, nullptr, {}}}));
    }
    return needs;
}

CacheShape self_cache_shape(const DecoderWeights& weights, const model::Hparams& hparams) {
    const kernels::CacheType type = self_type(weights.layers.front().attention.key);
    return {hparams.n_text_layer, hparams.n_text_head, type, type};
}

CacheShape audio_cache_shape(const DecoderWeights& weights, const model::Hparams& hparams) {
    const AttentionWeights& first = weights.layers.front().cross_attention;
    return {hparams.n_text_layer, hparams.n_text_head, audio_key_type(first.key), audio_value_type(first.value)};
}

// ---- TextDecoder

// A batch: the tokens of all passes as rows of one input.
struct TextDecoder::Batch {
    struct Row {
        const Pass* pass;
        int64_t token;     // of the pass
        int64_t position;  // in the sequence
    };
    struct Listeners {
        const AudioCache* audio;
        int64_t first, n;  // rows
    };

    explicit Batch(const std::vector<Pass>& given) : passes(given) {
        for (const Pass& pass : given) {
            first_rows.push_back(n_rows());
            const AudioCache* audio = &pass.sequence->audio();
            if (listeners.empty() || listeners.back().audio != audio) listeners.push_back({audio, n_rows(), 0});
            for (int64_t i = 0; i < pass.n_tokens; ++i) rows.push_back({&pass, i, pass.sequence->n_tokens() + i});
            listeners.back().n += pass.n_tokens;
        }
    }

    int64_t n_rows() const { return static_cast<int64_t>(rows.size()); }

    // Return n_of(pass) of each pass, in the order of the rows.
    template <class Count>
    std::vector<int64_t> of_passes(const Count& n_of) const {
        std::vector<int64_t> counts;
        for (const Pass& pass : passes) counts.push_back(n_of(pass));
        return counts;
    }

    // Copies a row's scores to where its pass wants those of this head.
    static void keep_scores(const Row& row, int64_t layer, int64_t head, const float* scores) {
        const CrossScores& wanted = row.pass->scores;
        if (wanted.heads == nullptr) return;
        const int64_t n_ctx = row.pass->sequence->audio().n_ctx();
        for (size_t i = 0; i < wanted.heads->size(); ++i) {
            if ((*wanted.heads)[i] != std::pair<int, int>(static_cast<int>(layer), static_cast<int>(head))) continue;
            float* to = wanted.out + (static_cast<int64_t>(i) * row.pass->n_tokens + row.token) * n_ctx;
            std::memcpy(to, scores, static_cast<size_t>(n_ctx) * sizeof(float));
        }
    }

    const std::vector<Pass>& passes;
    std::vector<int64_t> first_rows;  // of the passes
    std::vector<Row> rows;
    std::vector<Listeners> listeners;
};

TextDecoder::TextDecoder(Model& model)
    : model_(model),
      kernels_(model.kernels()),
      n_state_(model.hparams().n_text_state),
      n_head_(model.hparams().n_text_head),
      self_shape_(self_cache_shape(model.decoder(), model.hparams())),
      audio_shape_(audio_cache_shape(model.decoder(), model.hparams())) {}

void TextDecoder::reserve(const DecoderNeeds& needs) {
    reserve_bytes(rows_, needs.row_bytes);
    reserve_bytes(qkv_, needs.qkv_bytes);
    reserve_bytes(hidden_, needs.hidden_bytes);
    model_.machine().reserve(needs.machine);
}

std::shared_ptr<const AudioCache> TextDecoder::listen(const float* audio_features, int64_t n_ctx,
                                                      const std::function<bool()>& should_stop) {
    if (n_ctx < 1 || n_ctx > model_.hparams().n_audio_ctx) {
        throw Error(Status::internal, "listen: " + std::to_string(n_ctx) + " audio tokens");
    }
    auto audio = std::make_shared<AudioCache>(audio_shape_, n_ctx);
    return hear(audio_features, n_ctx, *audio, should_stop) ? audio : nullptr;
}

std::shared_ptr<const AudioCache> TextDecoder::listen_short(const float* audio_features, int64_t n_ctx,
                                                            const Silence& silence,
                                                            const std::function<bool()>& should_stop) {
    static_assert(Silence::kPool % kKeyBlock == 0, "silence begins with a block of the cache");
    const int64_t most = model_.hparams().n_audio_ctx;
    if (n_ctx < 1 || n_ctx >= most || n_ctx % Silence::kPool != 0) {
        throw Error(Status::internal, "listen_short: " + std::to_string(n_ctx) + " audio tokens");
    }
    auto audio = std::make_shared<AudioCache>(audio_shape_, most);
    if (!hear(audio_features, n_ctx, *audio, should_stop)) return nullptr;
    audio->take_from(n_ctx / kKeyBlock, silence.audio());
    return audio;
}

bool TextDecoder::hear(const float* audio_features, int64_t n_ctx, AudioCache& audio,
                       const std::function<bool()>& should_stop) {
    const Turn::Taken taken = model_.turn().take(should_stop);
    if (!taken) return false;
    Machine& machine = model_.machine();
    reserve(listen_needs(model_.decoder(), kernels_, n_ctx));
    float* keys = qkv_.floats();
    float* values = keys + n_ctx * n_state_;
    const int64_t n_blocks = kernels::n_key_blocks(n_ctx);
    for (int64_t layer = 0; layer < self_shape_.n_layer; ++layer) {
        if (should_stop && should_stop()) return false;
        const AttentionWeights& weights = model_.decoder().layers[static_cast<size_t>(layer)].cross_attention;
        multiply(machine, {audio_features, n_ctx, n_state_}, nullptr,
                 {{&weights.key, keys, {}}, {&weights.value, values, {}}});
        machine.pool().run_shares(n_head_ * n_blocks, [&](int64_t task, int) {
            const int64_t b = task / n_head_, head = task % n_head_;
            const int64_t at = b * kKeyBlock * n_state_ + head * kHeadSize;
            audio.put_block(kernels_, layer, head, b, keys + at, values + at, n_state_);
        });
    }
    return true;
}

std::unique_ptr<Sequence> TextDecoder::begin(std::shared_ptr<const AudioCache> audio) {
    if (!audio) refuse("a sequence without audio");
    if (!(audio->shape() == audio_shape_)) refuse("audio that a model of another shape has listened to");
    return std::unique_ptr<Sequence>(new Sequence(self_shape_, std::move(audio)));
}

void TextDecoder::copy(const Sequence& from, Sequence& to) {
    to.cache_ = from.cache_;
    to.audio_ = from.audio_;
}

bool TextDecoder::decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>& should_stop) {
    if (passes.empty()) return true;
    const Turn::Taken taken = model_.turn().take(should_stop);
    if (!taken) return false;
    check(passes);
    const Batch batch(passes);
    int64_t n_logits = 0;
    for (const Pass& pass : passes) n_logits += pass.n_tokens - pass.first_logits;
    reserve(step_needs(model_.decoder(), kernels_, model_.hparams(), batch.n_rows(), n_logits));
    for (const Pass& pass : passes) pass.sequence->cache_.reserve(pass.sequence->n_tokens() + pass.n_tokens);

    float* x = rows_.floats();
    embed(batch, x);
    const RowGroups sequences(model_.machine().study(),
                              [&] { return batch.of_passes([](const Pass& pass) { return pass.n_tokens; }); });
    const std::vector<DecoderLayer>& layers = model_.decoder().layers;
    for (size_t i = 0; i < layers.size(); ++i) {
        attend_to_tokens(layers[i].attention, static_cast<int64_t>(i), batch, x);
        attend_to_audio(layers[i].cross_attention, static_cast<int64_t>(i), batch, x);
        apply_mlp(model_.machine(), layers[i].mlp, batch.n_rows(), x, hidden_);
    }
    project(batch, x, logits);
    for (const Pass& pass : passes) pass.sequence->cache_.set_n_tokens(pass.sequence->n_tokens() + pass.n_tokens);
    return true;
}

void TextDecoder::check(const std::vector<Pass>& passes) const {
    std::vector<const Sequence*> seen;
    for (const Pass& pass : passes) {
        if (pass.sequence == nullptr) refuse("a pass without a sequence");
        if (!(pass.sequence->cache_.shape() == self_shape_ && pass.sequence->audio().shape() == audio_shape_)) {
            refuse("a sequence of a model of another shape");
        }
        const int64_t end = pass.sequence->n_tokens() + pass.n_tokens;
        if (pass.n_tokens < 1 || end > n_text_ctx()) {
            refuse(std::to_string(pass.n_tokens) + " tokens would make " + std::to_string(end) + "; allowed: 1 to " +
                   std::to_string(n_text_ctx()) + " in all");
        }
        if (pass.first_logits < 0 || pass.first_logits > pass.n_tokens) refuse("first_logits outside the pass");
        for (int64_t i = 0; i < pass.n_tokens; ++i) {
            if (pass.tokens[i] < 0 || pass.tokens[i] >= n_vocab()) refuse("token " + std::to_string(pass.tokens[i]));
        }
        if (pass.scores.heads != nullptr) {
            for (const auto& [layer, head] : *pass.scores.heads) {
                if (layer < 0 || layer >= self_shape_.n_layer || head < 0 || head >= n_head_) refuse("no such head");
            }
        }
        seen.push_back(pass.sequence);
    }
    std::sort(seen.begin(), seen.end());
    if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) refuse("a sequence twice in a batch");
}

void TextDecoder::embed(const Batch& batch, float* x) const {
    const DecoderWeights& weights = model_.decoder();
    const Linear& embedding = weights.token_embedding;
    for (int64_t r = 0; r < batch.n_rows(); ++r) {
        const Batch::Row& row = batch.rows[static_cast<size_t>(r)];
        float* to = x + r * n_state_;
        kernels::unpack_row(embedding.format, embedding.packed.data, row.pass->tokens[row.token], embedding.k, to);
        const float* position = weights.positions.data() + row.position * n_state_;
        for (int64_t i = 0; i < n_state_; ++i) to[i] += position[i];
    }
}

void TextDecoder::attend_to_tokens(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x) {
    Machine& machine = model_.machine();
    const int64_t n_rows = batch.n_rows(), size = n_rows * n_state_;
    float* q = qkv_.floats();
    float* k = q + size;
    float* v = k + size;
    float* heads = v + size;
    multiply(machine, {x, n_rows, n_state_}, &weights.norm,
             {{&weights.query, q, {}}, {&weights.key, k, {}}, {&weights.value, v, {}}});
    const auto attend = [&](int64_t pass_and_head, int worker) {
        const auto i = static_cast<size_t>(pass_and_head / n_head_);
        const int64_t head = pass_and_head % n_head_, first = batch.first_rows[i] * n_state_ + head * kHeadSize;
        const Pass& pass = batch.passes[i];
        SelfCache& cache = pass.sequence->cache_;
        for (int64_t t = 0; t < pass.n_tokens; ++t) {
            const int64_t at = first + t * n_state_;
            cache.put(kernels_, layer, head, cache.n_tokens() + t, k + at, v + at);
        }
        const CachedHead cached = cache.head(layer, head);
        float* scores = machine.scratch_floats(worker);
        for (int64_t t = 0; t < pass.n_tokens; ++t) {
            const int64_t n_keys = cache.n_tokens() + t + 1, stride = score_stride(n_keys), at = first + t * n_state_;
            kernels_.score_keys(q + at, n_state_, 1, cached.key_blocks, cached.keys, self_shape_.keys, n_keys, scores,
                                stride);
            kernels_.softmax(scores, n_keys);
            kernels_.mix_values(scores, stride, 1, cached.value_blocks, cached.values, self_shape_.values, n_keys,
                                heads + at, n_state_);
        }
    };
    const auto fetch = [&](int64_t pass_and_head) {
        batch.passes[static_cast<size_t>(pass_and_head / n_head_)].sequence->cache_.fetch(layer,
                                                                                          pass_and_head % n_head_);
    };
    // A task is some heads side by side: what the next one needs comes from memory while one is computed.
    const int64_t n_all = static_cast<int64_t>(batch.passes.size()) * n_head_;
    const int64_t n_of_task = std::clamp<int64_t>(n_all / (kTasksPerThread * machine.pool().size()), 1, n_head_);
    machine.pool().run_shares(ceil_divide(n_all, n_of_task), [&](int64_t task, int worker) {
        const int64_t begin = task * n_of_task, end = std::min(n_all, begin + n_of_task);
        fetch(begin);
        for (int64_t i = begin; i < end; ++i) {
            if (i + 1 < end) fetch(i + 1);
            attend(i, worker);
        }
    });
    kernels::Epilogue add;
    add.residual = x;
    multiply(machine, {heads, n_rows, n_state_}, nullptr, {{&weights.out, x, add}});
}

void TextDecoder::attend_to_audio(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x) {
    Machine& machine = model_.machine();
    const int64_t n_rows = batch.n_rows(), size = n_rows * n_state_;
    float* q = qkv_.floats();
    float* heads = q + size;
    multiply(machine, {x, n_rows, n_state_}, &weights.norm, {{&weights.query, q, {}}});

    struct Part {
        const AudioCache* audio;
        int64_t first, n;  // rows
    };
    std::vector<Part> parts;
    for (const Batch::Listeners& group : batch.listeners) {
        for (int64_t i = 0; i < group.n; i += kQueriesAtOnce) {
            parts.push_back({group.audio, group.first + i, std::min(kQueriesAtOnce, group.n - i)});
        }
    }
    machine.pool().run_shares(static_cast<int64_t>(parts.size()) * n_head_, [&](int64_t task, int worker) {
        const Part& part = parts[static_cast<size_t>(task / n_head_)];
        const int64_t head = task % n_head_, at = part.first * n_state_ + head * kHeadSize;
        const CachedHead cached = part.audio->head(layer, head);
        const int64_t n_keys = part.audio->n_ctx(), stride = score_stride(n_keys);
        float* scores = machine.scratch_floats(worker);
        kernels_.score_keys(q + at, n_state_, part.n, cached.key_blocks, cached.keys, audio_shape_.keys, n_keys, scores,
                            stride);
        for (int64_t i = 0; i < part.n; ++i) {
            batch.keep_scores(batch.rows[static_cast<size_t>(part.first + i)], layer, head, scores + i * stride);
            kernels_.softmax(scores + i * stride, n_keys);
        }
        kernels_.mix_values(scores, stride, part.n, cached.value_blocks, cached.values, audio_shape_.values, n_keys,
                            heads + at, n_state_);
    });
    kernels::Epilogue add;
    add.residual = x;
    multiply(machine, {heads, n_rows, n_state_}, nullptr, {{&weights.out, x, add}});
}

void TextDecoder::project(const Batch& batch, float* x, float* logits) {
    Machine& machine = model_.machine();
    float* wanted = x;  // the rows whose logits are wanted, moved to the front
    int64_t n_wanted = 0;
    for (int64_t r = 0; r < batch.n_rows(); ++r) {
        const Batch::Row& row = batch.rows[static_cast<size_t>(r)];
        if (row.token < row.pass->first_logits) continue;
        std::memmove(wanted + n_wanted++ * n_state_, x + r * n_state_, static_cast<size_t>(n_state_) * sizeof(float));
    }
    if (n_wanted == 0) return;
    const DecoderWeights& weights = model_.decoder();
    const RowGroups sequences(machine.study(), [&] {
        return batch.of_passes([](const Pass& pass) { return pass.n_tokens - pass.first_logits; });
    });
    multiply(machine, {wanted, n_wanted, n_state_}, &weights.norm, {{&weights.token_embedding, logits, {}}});
}

}  // namespace whisperq::edge
