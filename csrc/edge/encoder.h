// Whisper's encoder turns a log-mel spectrogram into audio features.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/aligned.h"
#include "edge/machine.h"
#include "edge/model.h"
#include "edge/silence.h"

namespace whisperq::edge {

// The memory that encoding takes beside weights and features.
struct EncoderNeeds {
    size_t work_bytes = 0;
    MachineNeeds machine;

    void include(const EncoderNeeds& other);
};

// `n_silent` is the number of keys of silence behind the audio tokens.
EncoderNeeds encoder_needs(const EncoderWeights& weights, const kernels::KernelTable& kernels, int64_t n_ctx,
                           int64_t n_silent = 0);

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

    // Do the same for audio that is followed by silence up to the end of the window. The tokens attend to themselves
    // and to pools of silence. n_ctx is whole pools, and less than a window.
    bool encode_short(const float* mel, int64_t n_frames, int64_t n_ctx, const Silence& silence, float* out,
                      const std::function<bool()>& should_stop = {});
    // Encode a window of silence, whose keys and values `learned` pools. `out` is [n_audio_ctx][n_audio_state].
    bool encode_silence(Silence& learned, float* out, const std::function<bool()>& should_stop = {});

    // Return the size of its work memory so far.
    size_t n_bytes() const noexcept { return work_.size(); }

  private:
    // A window that is encoded: with the pools of silence behind its tokens, or to learn what silence is.
    struct Window {
        const float* mel;
        int64_t n_frames, n_ctx;
        const Silence* behind = nullptr;
        Silence* learned = nullptr;
    };

    // Encode when it is this call's turn.
    bool run(const Window& window, float* out, const std::function<bool()>& should_stop);
    void convolve(const Window& window, float* x);
    void attend(const AttentionWeights& weights, const Window& window, int64_t layer, float* x);
    // Return the number of keys of silence behind the tokens.
    int64_t n_silent(const Window& window) const noexcept {
        return window.behind ? Silence::n_pools_behind(window.n_ctx, hparams_.n_audio_ctx) : 0;
    }

    Model& model_;
    const model::Hparams& hparams_;
    const kernels::KernelTable& kernels_;
    bool exact_attention_;
    AlignedBuffer work_;       // what lies between the products of a layer
    std::vector<float> bias_;  // of the keys, where there are some of silence
};

}  // namespace whisperq::edge
