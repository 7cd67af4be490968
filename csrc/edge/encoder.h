// Whisper's encoder turns a log-mel spectrogram into audio features.
#pragma once

#include <cstdint>
#include <functional>

#include "core/aligned.h"
#include "edge/machine.h"
#include "edge/model.h"

namespace whisperq::edge {

// The memory that encoding takes beside weights and features.
struct EncoderNeeds {
    size_t work_bytes = 0;
    MachineNeeds machine;
};

EncoderNeeds encoder_needs(const EncoderWeights& weights, const kernels::KernelTable& kernels, int64_t n_ctx);

class Encoder {
  public:
    // The model must live longer.
    explicit Encoder(Model& model);

    // Compute n_ctx audio tokens from the first 2 * n_ctx frames of `mel`, which is [n_mels][n_frames]
    // (openai/whisper's order). Frames that it lacks are as quiet as its quietest value. `out` is
    // [n_ctx][n_audio_state].
    //
    // `should_stop` is asked before each layer, and while another thread has its turn. On true the rest is left out,
    // and false is returned.
    //
    // Throws Error(Status::internal) for sizes that the caller should have refused.
    //
    // All large memory is taken before the first layer.
    bool encode(const float* mel, int64_t n_frames, int64_t n_ctx, float* out,
                const std::function<bool()>& should_stop = {});

    // Return the size of its work memory so far.
    size_t n_bytes() const noexcept { return work_.size(); }

  private:
    void convolve(const float* mel, int64_t n_frames, int64_t n_ctx, float* x);
    void attend(const AttentionWeights& weights, int64_t n_ctx, float* x);

    Model& model_;
    const model::Hparams& hparams_;
    const kernels::KernelTable& kernels_;
    bool exact_attention_;
    AlignedBuffer work_;  // what lies between the products of a layer
};

}  // namespace whisperq::edge
