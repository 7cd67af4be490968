// What whisper.cpp knows but its API does not tell. upstream.cpp compiles whisper.cpp's one source file as part of
// itself, so that these few functions can read the private state: no patch to keep in step with upstream, and a
// checkout with other field names fails to compile instead of misbehaving.
#pragma once

#include <cstdint>
#include <vector>

#include "whisper.h"

namespace whisperq::ggml {

// Time and count of one stage, as whisper.cpp accounts them.
struct StageCounter {
    int64_t us = 0;
    int runs = 0;
};

struct StateTimings {
    StageCounter mel, encode, prompt, decode, batchd, sample;
};

StateTimings read_timings(const whisper_state& state);

// Number of beams or samples that whisper.cpp can hold at most.
int max_decoders();

// Lets every CPU backend of the state ask `stop` between two graph nodes. Upstream itself asks only after a whole
// encoder pass, which is many seconds for a large model on a small CPU.
void set_stop_callback(whisper_state& state, ggml_abort_callback stop, void* data);

// The signal energy that upstream's token timestamps need, for a call of whisper_full that brings no samples because
// the mel spectrogram is computed already.
void set_signal_energy(whisper_state& state, const float* samples, int n_samples);

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

}  // namespace whisperq::ggml
