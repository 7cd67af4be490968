// The `ggml` engine: one loaded model, any number of calls. Knows neither Python nor files other than the model's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ggml/logits_filter.h"
#include "ggml/matrix_types.h"
#include "ggml/probe.h"
#include "ggml/upstream.h"

namespace whisperq::ggml {

struct TranscribeOptions {
    int n_threads = 1;
    std::string language;  // "" detects it (multilingual models)
    bool translate = false;
    int beam_size = 5;  // 1: greedy
    int best_of = 5;    // samples at temperatures above 0
    float temperature = 0;
    float temperature_increment = 0.2f;  // 0: no fallback
    float logprob_threshold = -1;
    float entropy_threshold = 2.4f;
    float no_speech_threshold = 0.6f;
    bool condition_on_previous_text = true;
    std::string initial_prompt;
    std::vector<whisper_token> prompt_tokens;  // used instead of initial_prompt when not empty
    bool carry_initial_prompt = false;
    bool suppress_blank = true;
    bool suppress_non_speech = true;
    bool without_timestamps = false;
    float max_initial_timestamp = 1;
    bool token_timestamps = false;
    int max_new_tokens = 0;                     // 0: no limit
    std::vector<std::pair<int, int>> clips_ms;  // (start, end) of the parts to transcribe; empty: everything
    // The frame (10 ms) from which the language is detected, and the number of frames until silence stands for the
    // audio: of a window, or fewer where the clip ends before.
    std::pair<int, int> language_window{0, kFramesPerWindow};
    LogitsFilter filter;
};

// A token with its time in the audio; the times are set when token_timestamps is on.
struct TokenPiece {
    whisper_token id;
    std::string bytes;  // may be a part of a UTF-8 character
    int64_t start_cs, end_cs;
    float probability;
};

struct SegmentData {
    int64_t seek_frames;  // start of the 30 s window, in frames of 10 ms
    int64_t start_cs, end_cs;
    std::string text;
    std::vector<whisper_token> tokens;  // with timestamp tokens
    std::vector<TokenPiece> pieces;     // text tokens only
    float temperature;
    float avg_logprob;  // of the window's whole answer
    float no_speech_prob;
    std::string window_text;  // of the window's whole answer
};

struct Language {
    std::string code;
    float probability;
};

struct TranscribeResult {
    StateTimings timings;
    bool stopped = false;  // should_stop() said so: what on_segment() saw is all there is
};

// Called on the thread that runs transcribe().
class Observer {
  public:
    virtual ~Observer() = default;
    // Most likely first; a single one with probability 1 when there was nothing to detect.
    virtual void on_languages(const std::vector<Language>& ranking) = 0;
    virtual void on_segment(const SegmentData& segment) = 0;
    virtual void on_progress(float fraction) = 0;
    // Asked often; must be quick.
    virtual bool should_stop() noexcept = 0;
};

class Engine {
  public:
    // The file must have passed the model reader: whisper.cpp trusts what it reads. `matrix_types` has the type of
    // every matrix of a file of mixed types by name, and is empty for any other.
    Engine(const std::string& path, bool use_gpu, int gpu_device, bool flash_attention,
           const MatrixTypes& matrix_types);

    // 16 kHz mono samples. Safe to call from several threads at once: each call has a whisper state of its own, which
    // also makes its random numbers start anew, so that equal calls give equal text.
    TranscribeResult transcribe(const float* samples, int n_samples, const TranscribeOptions& options,
                                Observer& observer) const;

    // As in probe.h, and like transcribe() safe to call from several threads at once.
    ProbeShape check_probe(const ProbeRequest& request) const;
    ProbeResult probe(const ProbeRequest& request, const ProbeOutput& output) const;

    std::vector<whisper_token> tokenize(const std::string& text) const;
    bool is_multilingual() const;
    int n_vocab() const;

  private:
    struct FreeContext {
        void operator()(whisper_context* context) const { whisper_free(context); }
    };
    std::unique_ptr<whisper_context, FreeContext> context_;
};

}  // namespace whisperq::ggml
