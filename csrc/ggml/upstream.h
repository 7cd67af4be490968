// What whisper.cpp knows but its API does not tell. upstream.cpp compiles whisper.cpp's one source file as part of
// itself, so that these few functions can read the private state: no patch to keep in step with upstream, and a
// checkout with other field names fails to compile instead of misbehaving.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"
#include "whisper.h"

namespace whisperq::ggml {

struct FreeState {
    void operator()(whisper_state* state) const { whisper_free_state(state); }
};
using StatePtr = std::unique_ptr<whisper_state, FreeState>;

// Time and count of one stage, as whisper.cpp accounts them.
struct StageCounter {
    int64_t us = 0;
    int runs = 0;
};

struct StateTimings {
    StageCounter mel, encode, prompt, decode, batchd, sample;
};

StateTimings read_timings(const whisper_state& state);

// Our name (lower case) of the type that a loaded model's tensor has; "" when there is no such tensor.
std::string type_of_tensor(const whisper_context& context, const std::string& name);

// Number of beams or samples that whisper.cpp can hold at most.
int max_decoders();

// Lets every CPU backend of the state ask `stop` between two graph nodes. Upstream itself asks only after a whole
// encoder pass, which is many seconds for a large model on a small CPU.
void set_stop_callback(whisper_state& state, ggml_abort_callback stop, void* data);

// The signal energy that upstream's token timestamps need, for a call of whisper_full that brings no samples because
// the mel spectrogram is computed already.
void set_signal_energy(whisper_state& state, const float* samples, int n_samples);

// Frames of 10 ms that upstream encodes at a time.
constexpr int kFramesPerWindow = 3000;

// Silences frames of the state's mel spectrogram for as long as it lives, as if the audio ended before them.
class SilencedFrames {
  public:
    // The frames from `first` up to `end`, as far as there are any.
    SilencedFrames(whisper_state& state, int first, int end);
    ~SilencedFrames();
    SilencedFrames(const SilencedFrames&) = delete;
    SilencedFrames& operator=(const SilencedFrames&) = delete;

  private:
    whisper_state& state_;
    const int first_, n_;
    std::vector<float> kept_;  // [n_mel, n_]
};

// Forgets the text of earlier windows, so that it is no prompt for the next one.
void forget_previous_text(whisper_state& state);

// How many temperatures were given up so far in this call, over all windows.
int failed_temperatures(const whisper_state& state);

// The decoder's whole answer to one window, found by a segment's tokens.
struct WindowSequence {
    std::vector<whisper_token> tokens;
    float avg_logprob = 0;
    int offset = 0;  // of the segment's first token in `tokens`
};

WindowSequence find_window_sequence(const whisper_state& state, const std::vector<whisper_token_data>& segment);

// The weight matrices of a loaded model: two-dimensional tensors with more than one row and column.
std::vector<std::pair<std::string, const ggml_tensor*>> matrices(const whisper_context& context);

// Whether no backend of the state is a GPU's, so that every tensor can be read where it lies.
bool runs_on_cpu(const whisper_state& state);

// Shows the nodes of the graphs of encoder, cross-attention and decoder while they are computed (ggml-backend.h).
void set_eval_callback(whisper_state& state, ggml_backend_sched_eval_callback callback, void* data);

// Audio tokens that the encoder computes; 0: all.
void set_audio_ctx(whisper_state& state, int n_audio_ctx);

// What the encoder gave last: [n_audio_ctx, n_audio_state].
void read_audio_features(const whisper_state& state, float* features);

// The decoder begins anew.
void clear_self_attention(whisper_state& state);

// Decodes tokens that follow n_past others. The API computes the logits of every position and keeps those of the last;
// afterwards whisper_get_logits_from_state() has them all: [n_tokens, n_vocab]. False: it failed or was stopped.
bool decode_every_position(whisper_context& context, whisper_state& state, const whisper_token* tokens, int n_tokens,
                           int n_past, int n_threads);

}  // namespace whisperq::ggml
