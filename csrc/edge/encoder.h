// Whisper's encoder: from a log-mel spectrogram to audio features.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "edge/linear.h"
#include "edge/weights.h"
#include "kernels/kernels.h"
#include "model/file_format.h"

namespace whisperq::edge {

class Encoder {
  public:
    // Throws Error(Status::unsupported_model) for types without kernels, and what the model reader throws.
    Encoder(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads);

    // `mel` is [n_mels][n_frames] (openai/whisper's order); n_ctx audio tokens are computed from its first 2 * n_ctx
    // frames, frames that it lacks being as quiet as its quietest value. `out` is [n_ctx][n_audio_state]. One call at a
    // time runs; others wait.
    //
    // Throws Error(Status::internal) for sizes that the caller should have refused.
    void encode(const float* mel, int64_t n_frames, int64_t n_ctx, float* out);

    const model::Hparams& hparams() const noexcept { return hparams_; }
    const char* isa() const noexcept { return kernels_.isa; }
    int n_threads() const noexcept { return pool_.size(); }
    uint64_t packed_bytes() const noexcept;

  private:
    void convolve(const float* mel, int64_t n_frames, int64_t n_ctx, float* x);
    void attend(const EncoderLayer& layer, int64_t n_ctx, float* x);
    void apply_mlp(const EncoderLayer& layer, int64_t n_ctx, float* x);
    float* wide(int64_t n_floats);
    float* qkv(int64_t n_floats);

    const kernels::KernelTable& kernels_;
    model::Hparams hparams_;
    EncoderWeights weights_;
    ThreadPool pool_;
    Machine machine_;
    bool exact_attention_ = false;
    AlignedBuffer wide_, qkv_;
    std::mutex mutex_;
};

}  // namespace whisperq::edge
