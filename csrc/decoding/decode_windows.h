// Decoding of windows into tokens: openai/whisper's DecodingTask (whisper/decoding.py) for a batch of windows. Each
// window has a prompt, a length and an end of its own. All sequences of all windows go through the model together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "decoding/decode_options.h"
#include "decoding/language_model.h"

namespace whisperq::decoding {

struct WindowRequest {
    std::vector<int32_t> tokens;  // the prompt: text before, <|startoftranscript|>, language, task, prefix
    int64_t sot_index = 0;        // index of <|startoftranscript|> in it
    uint64_t stream = 0;          // names the window's random numbers, for example its place in the audio
    int64_t n_prefix = 0;         // the last tokens of the prompt that the filters take for sampled ones
};

struct WindowResult {
    std::vector<int32_t> tokens;  // behind the prompt, without eot
    float sum_logprob = 0;
    double avg_logprob = 0;    // sum_logprob / (number of tokens + 1)
    float no_speech_prob = 0;  // NaN without a no_speech token
    bool is_complete = false;  // false: should_stop() came before; then tokens are missing
};

// A stage's microseconds and runs, by whisper.cpp's words. Runs are tokens of prompts, steps of a single sequence, and
// sequences in steps of several. Runs of `sample` are rows of logits that were filtered and sampled from.
struct Stage {
    int64_t us = 0, runs = 0;
};

struct DecodeStages {
    Stage prompt, decode, batchd, sample;
};

// Return the bytes of the logits of n_rows, which windows hold beside the model's own memory. The rows are all
// sequences of a step, or the rows of their prompts that are looked at.
constexpr size_t logit_bytes(int64_t n_rows, int64_t n_vocab) {
    return static_cast<size_t>(n_rows * n_vocab) * sizeof(float);
}

// Return one result per request. Window i of the model is that of requests[i]. should_stop() is asked between steps.
// Times are added to `stages`.
//
// Throws Error(Status::argument) for options and requests that the model cannot be decoded with. Throws
// Error(Status::inference) where its logits are no numbers or the rules leave no token.
std::vector<WindowResult> decode_windows(LanguageModel& model, const std::vector<WindowRequest>& requests,
                                         const DecodeOptions& options, const std::function<bool()>& should_stop,
                                         DecodeStages& stages);

}  // namespace whisperq::decoding
