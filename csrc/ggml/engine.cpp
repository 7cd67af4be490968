#include "ggml/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <numeric>

#include "core/status.h"
#include "ggml/log.h"

namespace whisperq::ggml {
namespace {

// whisper.cpp ignores short reads and goes on with what was in memory. The file was validated a moment ago; should it
// shrink in between, zeros make the loader stop at the first tensor header.
size_t read_or_zero(void* stream, void* output, size_t size) {
    auto& file = *static_cast<std::ifstream*>(stream);
    file.read(static_cast<char*>(output), static_cast<std::streamsize>(size));
    const auto got = static_cast<size_t>(file.gcount());
    std::memset(static_cast<char*>(output) + got, 0, size - got);
    return got;
}

whisper_model_loader loader_for(std::ifstream& file) {
    whisper_model_loader loader;
    loader.context = &file;
    loader.read = read_or_zero;
    loader.eof = [](void* stream) { return static_cast<std::ifstream*>(stream)->eof(); };
    loader.close = [](void* stream) { static_cast<std::ifstream*>(stream)->close(); };
    return loader;
}

// Runs upstream code; what it throws (a vocabulary without the token that it looks for, say) becomes our error.
template <typename Action>
auto upstream(Action action) {
    try {
        return action();
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        fail(std::string("whisper.cpp: ") + error.what());
    }
}

// Upstream mirrors the first half of a transform's window (200 samples) before the audio without a look at its length,
// and reads past the end of shorter clips.
constexpr int kLeastSamples = 201;

constexpr int kFrameMs = 10;

// It sets ggml's global logger anew on its way: one thread at a time. (A child that is forked amid this waits for ever,
// as it would for ggml's own lock in there.)
whisper_state* new_state(whisper_context* context) {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    return whisper_init_state(context);
}

// One call of transcribe(): the state, the parameters that point into the options, and what upstream's callbacks need.
// No exception may pass through upstream's frames, so a callback that fails keeps the exception and asks to stop.
class Call {
  public:
    Call(whisper_context* context, const TranscribeOptions& options, Observer& observer)
        : context_(context), options_(options), observer_(observer), state_(new_state(context)) {
        if (!state_) fail("the engine could not allocate its buffers");
        set_stop_callback(*state_, &Call::stop_callback, this);
    }

    TranscribeResult run(const float* samples, int n_samples) {
        compute_mel(samples, n_samples);
        const std::vector<Language> ranking = languages();
        if (!stopped_) guarded([&] { observer_.on_languages(ranking); });
        if (!stopped_) {
            if (options_.token_timestamps) set_signal_energy(*state_, samples, n_samples);
            decode_clips(ranking.front().code);
        }
        if (pending_) std::rethrow_exception(pending_);
        TranscribeResult result;
        result.timings = timings();
        result.stopped = stopped_;
        return result;
    }

  private:
    // After a failure nothing more is reported, though upstream may have several segments left to tell.
    template <typename Action>
    void guarded(Action action) noexcept {
        if (pending_) return;
        try {
            action();
        } catch (...) {
            pending_ = std::current_exception();
            stopped_ = true;
        }
    }

    bool should_stop() noexcept {
        if (!stopped_) stopped_ = observer_.should_stop();
        return stopped_;
    }

    static bool stop_callback(void* call) { return static_cast<Call*>(call)->should_stop(); }

    void compute_mel(const float* samples, int n_samples) {
        std::vector<float> padded;
        if (n_samples < kLeastSamples) {
            padded.assign(kLeastSamples, 0.0f);
            std::copy_n(samples, n_samples, padded.begin());
            samples = padded.data();
            n_samples = kLeastSamples;
        }
        if (whisper_pcm_to_mel_with_state(context_, state_.get(), samples, n_samples, options_.n_threads) != 0) {
            fail("the mel spectrogram could not be computed");
        }
        n_frames_ = whisper_n_len_from_state(state_.get());
    }

    std::vector<Language> languages() {
        if (!whisper_is_multilingual(context_)) return {{"en", 1.0f}};
        if (!options_.language.empty()) return {{options_.language, 1.0f}};
        return detect_languages();
    }

    std::vector<Language> detect_languages() {
        std::vector<float> probabilities(static_cast<size_t>(whisper_lang_max_id()) + 1);
        const auto& [first, n_frames] = options_.language_window;
        const SilencedFrames behind_the_clip(*state_, first + n_frames, first + kFramesPerWindow);
        const int found = whisper_lang_auto_detect_with_state(context_, state_.get(), first * kFrameMs,
                                                              options_.n_threads, probabilities.data());
        if (found < 0 && !should_stop()) fail("the language could not be detected");
        // whisper.cpp ranks all languages that it has names for. Those that the model does not know have other tokens'
        // logits there.
        probabilities.resize(n_languages());
        const float sum = std::accumulate(probabilities.begin(), probabilities.end(), 0.0f);
        std::vector<Language> languages;
        for (size_t i = 0; i < probabilities.size(); ++i) {
            languages.push_back({whisper_lang_str(static_cast<int>(i)), sum > 0 ? probabilities[i] / sum : 0.0f});
        }
        std::stable_sort(languages.begin(), languages.end(),
                         [](const Language& a, const Language& b) { return a.probability > b.probability; });
        return languages;
    }

    // From the first token of a language to the one that asks for a translation.
    size_t n_languages() const {
        return static_cast<size_t>(whisper_token_translate(context_) - whisper_token_lang(context_, 0));
    }

    void decode_clips(const std::string& language) {
        whisper_full_params params = parameters(language);
        if (options_.clips_ms.empty()) return decode(params);
        for (const auto& [start_ms, end_ms] : options_.clips_ms) {
            if (stopped_) return;
            params.offset_ms = start_ms;
            params.duration_ms = end_ms - start_ms;
            decode(params);
            continue_after_first_clip(params);
        }
    }

    // Later clips follow the text of the first one, and its prompt is not put before them again.
    void continue_after_first_clip(whisper_full_params& params) const {
        params.no_context = false;
        if (options_.carry_initial_prompt) return;
        params.initial_prompt = nullptr;
        params.prompt_tokens = nullptr;
        params.prompt_n_tokens = 0;
    }

    // The samples are not passed again: their mel spectrogram is in the state.
    void decode(const whisper_full_params& params) {
        n_described_ = 0;
        const int code = upstream([&] { return whisper_full_with_state(context_, state_.get(), params, nullptr, 0); });
        if (code == -7) (void)state_.release();  // upstream has freed the state itself
        if (code != 0 && (!stopped_ || !state_)) fail("whisper_full failed with code " + std::to_string(code));
    }

    whisper_full_params parameters(const std::string& language) {
        const bool beams = options_.beam_size > 1;
        auto params = whisper_full_default_params(beams ? WHISPER_SAMPLING_BEAM_SEARCH : WHISPER_SAMPLING_GREEDY);
        params.n_threads = options_.n_threads;
        params.language = language.c_str();
        params.translate = options_.translate;
        params.beam_search.beam_size = options_.beam_size;
        params.greedy.best_of = options_.best_of;
        params.temperature = options_.temperature;
        params.temperature_inc = options_.temperature_increment;
        params.logprob_thold = options_.logprob_threshold;
        params.entropy_thold = options_.entropy_threshold;
        params.no_speech_thold = options_.no_speech_threshold;
        params.initial_prompt = options_.initial_prompt.empty() ? nullptr : options_.initial_prompt.c_str();
        params.prompt_tokens = options_.prompt_tokens.empty() ? nullptr : options_.prompt_tokens.data();
        params.prompt_n_tokens = static_cast<int>(options_.prompt_tokens.size());
        params.carry_initial_prompt = options_.carry_initial_prompt;
        params.no_context = true;
        params.suppress_blank = options_.suppress_blank;
        params.suppress_nst = options_.suppress_non_speech;
        params.no_timestamps = options_.without_timestamps;
        params.max_initial_ts = options_.max_initial_timestamp;
        params.token_timestamps = options_.token_timestamps;
        params.max_tokens = max_tokens();
        params.print_progress = false;
        params.print_timestamps = false;
        set_callbacks(params);
        return params;
    }

    // whisper.cpp ends a window one token after the number that it is given, and takes 0 for no limit. So the only
    // token of a window is followed by an end that on_logits() forces; with timestamps by the timestamp that upstream
    // forces.
    int max_tokens() const { return std::max(options_.max_new_tokens - 1, options_.max_new_tokens > 0 ? 1 : 0); }
    bool is_at_end(int n_tokens) const {
        return options_.max_new_tokens == 1 && options_.without_timestamps && n_tokens == 1;
    }

    void set_callbacks(whisper_full_params& params) {
        params.abort_callback = &Call::stop_callback;
        params.abort_callback_user_data = this;
        params.progress_callback_user_data = this;
        params.progress_callback = [](whisper_context*, whisper_state*, int percent, void* call) {
            static_cast<Call*>(call)->on_progress(percent);
        };
        params.encoder_begin_callback_user_data = this;
        params.encoder_begin_callback = [](whisper_context*, whisper_state*, void* call) {
            return static_cast<Call*>(call)->on_window();
        };
        params.new_segment_callback_user_data = this;
        params.new_segment_callback = [](whisper_context*, whisper_state*, int, void* call) {
            static_cast<Call*>(call)->on_segments();
        };
        params.logits_filter_callback_user_data = this;
        params.logits_filter_callback = [](whisper_context*, whisper_state*, const whisper_token_data* tokens,
                                           int n_tokens, float* logits, void* call) {
            static_cast<Call*>(call)->on_logits(tokens, n_tokens, logits);
        };
    }

    // Called once for every decoder and step, from several threads at once.
    void on_logits(const whisper_token_data* tokens, int n_tokens, float* logits) {
        ++n_samplings_;
        if (options_.filter.is_needed()) options_.filter.apply(tokens, n_tokens, logits);
        if (is_at_end(n_tokens)) force(whisper_token_eot(context_), logits);
    }

    void force(whisper_token token, float* logits) const {
        std::fill_n(logits, whisper_n_vocab(context_), -INFINITY);
        logits[token] = 0;
    }

    // Upstream counts samplings in the beam search only.
    StateTimings timings() const {
        StateTimings timings = read_timings(*state_);
        if (timings.sample.runs == 0) timings.sample.runs = n_samplings_;
        return timings;
    }

    void on_progress(int percent) {
        guarded([&] { observer_.on_progress(static_cast<float>(std::clamp(percent, 0, 100)) / 100); });
    }

    bool on_window() {
        if (should_stop()) return false;
        if (!options_.condition_on_previous_text && n_windows_ > 0) forget_previous_text(*state_);
        ++n_windows_;
        window_is_new_ = true;
        failures_before_window_ = failed_temperatures(*state_);
        return true;
    }

    void on_segments() {
        const int n_segments = whisper_full_n_segments_from_state(state_.get());
        for (; n_described_ < n_segments; ++n_described_) {
            guarded([&] { observer_.on_segment(describe(n_described_)); });
        }
    }

    std::vector<whisper_token_data> tokens_of(int segment) const {
        std::vector<whisper_token_data> tokens;
        const int n_tokens = whisper_full_n_tokens_from_state(state_.get(), segment);
        for (int i = 0; i < n_tokens; ++i) {
            tokens.push_back(whisper_full_get_token_data_from_state(state_.get(), segment, i));
        }
        return tokens;
    }

    SegmentData describe(int segment) {
        const std::vector<whisper_token_data> tokens = tokens_of(segment);
        const WindowSequence window = find_window_sequence(*state_, tokens);
        SegmentData data;
        const int64_t start_cs = whisper_full_get_segment_t0_from_state(state_.get(), segment);
        data.end_cs = std::min<int64_t>(whisper_full_get_segment_t1_from_state(state_.get(), segment), n_frames_);
        data.start_cs = std::min(start_cs, data.end_cs);
        data.text = whisper_full_get_segment_text_from_state(state_.get(), segment);
        data.tokens = tokens_with_start(tokens, window);
        data.seek_frames = window_start(start_cs, data.tokens, tokens);
        data.pieces = pieces(tokens);
        data.temperature = temperature_of_window();
        data.avg_logprob = window.avg_logprob;
        data.no_speech_prob = whisper_full_get_segment_no_speech_prob_from_state(state_.get(), segment);
        data.window_text = text_of(window.tokens);
        return data;
    }

    // Upstream computes a segment's start as the window's start plus the timestamp token before its text or, where
    // there is none, plus the timestamp that it would have forced on the window's first token.
    int64_t window_start(int64_t start_cs, const std::vector<whisper_token>& ids,
                         const std::vector<whisper_token_data>& tokens) {
        const whisper_token first_timestamp = whisper_token_beg(context_);
        if (!ids.empty() && ids.front() >= first_timestamp) {
            seek_frames_ = start_cs - 2 * (ids.front() - first_timestamp);
        } else if (window_is_new_ && !tokens.empty()) {
            seek_frames_ = start_cs - 2 * (tokens.front().tid - first_timestamp);
        }
        window_is_new_ = false;
        return seek_frames_;
    }

    // Upstream leaves out most segments' start timestamp; openai/whisper keeps it.
    std::vector<whisper_token> tokens_with_start(const std::vector<whisper_token_data>& tokens,
                                                 const WindowSequence& window) const {
        std::vector<whisper_token> ids;
        const whisper_token first_timestamp = whisper_token_beg(context_);
        const bool has_start = !tokens.empty() && tokens.front().id >= first_timestamp;
        if (!has_start && window.offset > 0) {
            const whisper_token before = window.tokens[static_cast<size_t>(window.offset) - 1];
            if (before >= first_timestamp) ids.push_back(before);
        }
        for (const whisper_token_data& token : tokens) ids.push_back(token.id);
        return ids;
    }

    std::vector<TokenPiece> pieces(const std::vector<whisper_token_data>& tokens) const {
        std::vector<TokenPiece> pieces;
        for (const whisper_token_data& token : tokens) {
            if (token.id >= whisper_token_eot(context_)) continue;
            pieces.push_back({token.id, whisper_token_to_str(context_, token.id), token.t0, token.t1, token.p});
        }
        return pieces;
    }

    std::string text_of(const std::vector<whisper_token>& tokens) const {
        std::string text;
        for (const whisper_token id : tokens) {
            if (id < whisper_token_eot(context_)) text += whisper_token_to_str(context_, id);
        }
        return text;
    }

    float temperature_of_window() const {
        const int failures = failed_temperatures(*state_) - failures_before_window_;
        return options_.temperature + static_cast<float>(failures) * options_.temperature_increment;
    }

    whisper_context* context_;
    const TranscribeOptions& options_;
    Observer& observer_;
    StatePtr state_;
    int n_frames_ = 0;
    int n_windows_ = 0;
    int n_described_ = 0;
    int failures_before_window_ = 0;
    int64_t seek_frames_ = 0;
    std::atomic<int> n_samplings_{0};
    bool window_is_new_ = false;
    bool stopped_ = false;
    std::exception_ptr pending_;
};

}  // namespace

Engine::Engine(const std::string& path, bool use_gpu, int gpu_device, bool flash_attention,
               const MatrixTypes& matrix_types) {
    const CallLog log;
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(Status::model_not_found, path + " cannot be opened");
    whisper_context_params params = whisper_context_default_params();
    params.use_gpu = use_gpu;
    params.gpu_device = gpu_device;
    params.flash_attn = flash_attention;
    whisper_model_loader loader = loader_for(file);
    {
        const MatrixTypesScope scope(matrix_types);
        context_.reset(upstream([&] { return whisper_init_with_params_no_state(&loader, params); }));
    }
    if (!context_) throw Error(Status::unsupported_model, path + ": whisper.cpp refuses it: " + last_complaint());
    for (const auto& [name, type] : matrix_types) {
        if (type_of_tensor(*context_, name) == type) continue;
        throw Error(Status::internal, path + ": " + name + " was not loaded as " + type);
    }
}

TranscribeResult Engine::transcribe(const float* samples, int n_samples, const TranscribeOptions& options,
                                    Observer& observer) const {
    const CallLog log;
    return Call(context_.get(), options, observer).run(samples, n_samples);
}

ProbeShape Engine::check_probe(const ProbeRequest& request) const {
    return ggml::check_probe(*context_, request);
}

ProbeResult Engine::probe(const ProbeRequest& request, const ProbeOutput& output) const {
    return ggml::probe(*context_, request, output);
}

std::vector<whisper_token> Engine::tokenize(const std::string& text) const {
    const int n_tokens = whisper_token_count(context_.get(), text.c_str());
    std::vector<whisper_token> tokens(static_cast<size_t>(std::max(n_tokens, 0)));
    whisper_tokenize(context_.get(), text.c_str(), tokens.data(), n_tokens);
    return tokens;
}

bool Engine::is_multilingual() const {
    return whisper_is_multilingual(context_.get()) != 0;
}

int Engine::n_vocab() const {
    return whisper_n_vocab(context_.get());
}

}  // namespace whisperq::ggml
