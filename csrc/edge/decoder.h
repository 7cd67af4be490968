// Whisper's text decoder: for a batch of sequences of tokens, each over the audio of a window, the logits of the next.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/aligned.h"
#include "edge/kv_cache.h"
#include "edge/model.h"

namespace whisperq::edge {

// Tokens that were decoded, by what attention keeps of them, and the audio that they are about.
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

// Where attention looked: the scores (before softmax) of some heads of the cross attention.
struct CrossScores {
    const std::vector<std::pair<int, int>>* heads = nullptr;  // (layer, head)
    float* out = nullptr;                                     // [heads][n_tokens][n_ctx]
};

// What one sequence takes part in a batch with.
struct Pass {
    Sequence* sequence = nullptr;
    const int32_t* tokens = nullptr;  // n_tokens of them are appended to the sequence
    int64_t n_tokens = 0;
    int64_t first_logits = 0;  // the logits of tokens [first_logits, n_tokens) are wanted
    float* logits = nullptr;   // [n_tokens - first_logits][n_vocab]
    CrossScores scores;
};

class TextDecoder {
  public:
    // The model must live longer.
    explicit TextDecoder(Model& model);

    int64_t n_vocab() const noexcept { return model_.hparams().n_vocab; }
    int64_t n_text_ctx() const noexcept { return model_.hparams().n_text_ctx; }

    // Keys and values of audio features [n_ctx][n_audio_state], for any number of sequences.
    std::shared_ptr<const AudioCache> listen(const float* audio_features, int64_t n_ctx);

    std::unique_ptr<Sequence> begin(std::shared_ptr<const AudioCache> audio);
    // `to` becomes what `from` is.
    void copy(const Sequence& from, Sequence& to);

    // One step of all passes, each of another sequence: every weight is read once for all of their tokens. A sequence's
    // result does not depend on what else is in the batch.
    //
    // Throws Error(Status::internal) for tokens, lengths or heads that the caller should have refused; no sequence has
    // changed then.
    void decode(const std::vector<Pass>& passes);

  private:
    struct Batch;

    void check(const std::vector<Pass>& passes) const;
    void embed(const Batch& batch, float* x) const;
    void attend_to_tokens(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x);
    void attend_to_audio(const AttentionWeights& weights, int64_t layer, const Batch& batch, float* x);
    void project(const Batch& batch, float* x);

    Model& model_;
    const kernels::KernelTable& kernels_;
    int64_t n_state_, n_head_;
    CacheShape self_shape_, audio_shape_;
    AlignedBuffer rows_, qkv_, hidden_, logits_;
};

}  // namespace whisperq::edge
