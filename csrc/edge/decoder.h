// Whisper's text decoder computes the logits of the next token for a batch of sequences, each over the audio of a
// window.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/aligned.h"
#include "edge/kv_cache.h"
#include "edge/machine.h"
#include "edge/model.h"
#include "edge/silence.h"

namespace whisperq::edge {

// A sequence of decoded tokens: the keys and values that attention keeps of them, and the audio that they are about.
class Sequence {
  public:
    int64_t n_tokens() const noexcept { return cache_.n_tokens(); }
    const AudioCache& audio() const noexcept { return *audio_; }

  private:
    friend class TextDecoder;
    Sequence(const CacheShape& shape, std::shared_ptr<const AudioCache> audio)
        : cache_(shape), audio_(std::move(audio)) {}

    SelfCache cache_;
    std::shared_ptr<const AudioCache> audio_;
};

// A request for the scores (before softmax) of some heads of the cross-attention.
struct CrossScores {
    const std::vector<std::pair<int, int>>* heads = nullptr;  // (layer, head)
    float* out = nullptr;                                     // [heads][n_tokens][n_ctx]
};

// A sequence's part in a batch.
struct Pass {
    Sequence* sequence = nullptr;
    const int32_t* tokens = nullptr;  // n_tokens of them are appended to the sequence
    int64_t n_tokens = 0;
    int64_t first_logits = 0;  // the logits of tokens [first_logits, n_tokens) are wanted
    CrossScores scores;
};

// Memory that the decoder takes beside weights and caches.
struct DecoderNeeds {
    size_t row_bytes = 0, qkv_bytes = 0, hidden_bytes = 0;
    MachineNeeds machine;

    size_t n_bytes() const noexcept { return row_bytes + qkv_bytes + hidden_bytes; }
    void include(const DecoderNeeds& other);
};

// Return the memory that listening to n_ctx audio tokens takes, and that of a step of n_rows tokens. The caller wants
// the logits of n_logits of these.
DecoderNeeds listen_needs(const DecoderWeights& weights, const kernels::KernelTable& kernels, int64_t n_ctx);
DecoderNeeds step_needs(const DecoderWeights& weights, const kernels::KernelTable& kernels,
                        const model::Hparams& hparams, int64_t n_rows, int64_t n_logits);

// Return the shapes of the caches of a model with these weights.
CacheShape self_cache_shape(const DecoderWeights& weights, const model::Hparams& hparams);
CacheShape audio_cache_shape(const DecoderWeights& weights, const model::Hparams& hparams);

class TextDecoder {
  public:
    // The model must live longer.
    explicit TextDecoder(Model& model);

    int64_t n_vocab() const noexcept { return model_.hparams().n_vocab; }
    int64_t n_text_ctx() const noexcept { return model_.hparams().n_text_ctx; }

    // Compute keys and values of audio features [n_ctx][n_audio_state], for any number of sequences. Return null when
    // should_stop() said so: it is asked before each layer, and while another thread has its turn. Throws
    // std::bad_alloc.
    std::shared_ptr<const AudioCache> listen(const float* audio_features, int64_t n_ctx,
                                             const std::function<bool()>& should_stop = {});
    // Do the same for audio that is followed by silence up to the end of the window. n_ctx is whole pools.
    std::shared_ptr<const AudioCache> listen_short(const float* audio_features, int64_t n_ctx, const Silence& silence,
                                                   const std::function<bool()>& should_stop = {});
    const CacheShape& audio_shape() const noexcept { return audio_shape_; }

    std::unique_ptr<Sequence> begin(std::shared_ptr<const AudioCache> audio);
    // Make `to` equal to `from`.
    void copy(const Sequence& from, Sequence& to);

    // Compute one step of all passes, each of another sequence. Every weight is read once for all of their tokens. The
    // keys and values of a window's audio are read once for passes over it that are side by side. A sequence's result
    // does not depend on the rest of the batch. `logits`: [rows that are wanted of the first pass, of the
    // second...][n_vocab].
    //
    // Throws Error(Status::internal) for tokens, lengths, heads or sequences of another model that the caller should
    // have refused. The callback should_stop() is asked while another thread has its turn; on true, false is returned.
    // The sequences stay as they were in both cases, and after std::bad_alloc.
    bool decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>& should_stop = {});

    ThreadPool& pool() noexcept { return model_.pool(); }

    // Return the size of its work memory so far.
    size_t n_bytes() const noexcept { return rows_.size() + qkv_.size() + hidden_.size(); }

  private:
    struct Batch;

    // Compute the first n_ctx tokens of a cache. False: it was told to stop.
    bool hear(const float* audio_features, int64_t n_ctx, AudioCache& audio, const std::function<bool()>& should_stop);
    void check(const std::vector<Pass>& passes) const;
    void reserve(const DecoderNeeds& needs);
    void embed(const Batch& batch, float* x) const;
    void attend_to_tokens(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x);
    void attend_to_audio(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x);
    void project(const Batch& batch, float* x, float* logits);

    Model& model_;
    const kernels::KernelTable& kernels_;
    int64_t n_state_, n_head_;
    CacheShape self_shape_, audio_shape_;
    AlignedBuffer rows_, qkv_, hidden_;
};

}  // namespace whisperq::edge
