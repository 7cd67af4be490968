// A model looked at from inside: the encoder's output, the decoder's logits at every position of given texts, and how
// large the values are that each weight matrix is multiplied with. It is how two conversions of a model are compared.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "whisper.h"

namespace whisperq::ggml {

struct ProbeRequest {
    const float* samples = nullptr;  // 16 kHz mono; the first 30 s are heard
    int64_t n_samples = 0;
    std::vector<std::vector<whisper_token>> sequences;  // each decoded by itself, from its first token on
    int n_threads = 1;
    int audio_ctx = 0;        // audio tokens to encode, from the beginning; 0: all
    int tokens_per_call = 0;  // given to the decoder at a time, as transcription does with 1; 0: a whole sequence
    bool statistics = false;
    std::function<bool()> should_stop;  // asked often, on the thread that runs probe(); must be quick and not throw
};

struct ProbeShape {
    int n_audio_ctx, n_audio_state, n_vocab;
};

// Memory of the caller that the results are written to.
struct ProbeOutput {
    float* audio_features = nullptr;  // [n_audio_ctx, n_audio_state]
    std::vector<float*> logits;       // of each sequence: [n_tokens, n_vocab]
};

// The vectors that one weight matrix was multiplied with.
struct InputStatistics {
    std::string name;  // the matrix
    int64_t n_vectors = 0;
    std::vector<double> sum_squares;  // by column of the matrix
};

struct ProbeResult {
    double encode_ms = 0;  // without the mel spectrogram
    double decode_ms = 0;  // of all sequences
    std::vector<InputStatistics> statistics;
    bool stopped = false;  // should_stop() said so: nothing else is complete
};

// The shapes of the results. Throws for what whisper.cpp would read out of bounds or abort on.
ProbeShape check_probe(whisper_context& context, const ProbeRequest& request);

// The request has passed check_probe().
ProbeResult probe(whisper_context& context, const ProbeRequest& request, const ProbeOutput& output);

}  // namespace whisperq::ggml
