#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define WHISPERQ_REPLACE_MATRIX_CALLS
#include "ggml/matrix_types.h"
#include "whisper.cpp"  // the source, not a header: see upstream.h
#undef ggml_new_tensor_2d
#undef ggml_ftype_to_ggml_type
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#include <algorithm>
#include <cmath>

#include "ggml/upstream.h"

namespace whisperq::ggml {
namespace {

std::string lower_case(std::string text) {
    for (char& c : text) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return text;
}

bool same_token(const whisper_token_data& a, const whisper_token_data& b) {
    return a.id == b.id && a.plog == b.plog;
}

float mean_logprob(const std::vector<whisper_token_data>& tokens) {
    double sum = 0;
    for (const whisper_token_data& token : tokens) sum += token.plog;
    return tokens.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(tokens.size()));
}

WindowSequence describe(const whisper_sequence& sequence, int offset) {
    WindowSequence found;
    for (const whisper_token_data& token : sequence.tokens) found.tokens.push_back(token.id);
    // A sequence that failed before it was scored still carries -inf.
    found.avg_logprob = std::isfinite(sequence.avg_logprobs) ? static_cast<float>(sequence.avg_logprobs)
                                                             : mean_logprob(sequence.tokens);
    found.offset = offset;
    return found;
}

}  // namespace

StateTimings read_timings(const whisper_state& state) {
    StateTimings timings;
    timings.mel = {state.t_mel_us, state.t_mel_us > 0 ? 1 : 0};
    timings.encode = {state.t_encode_us, state.n_encode};
    timings.prompt = {state.t_prompt_us, state.n_prompt};
    timings.decode = {state.t_decode_us, state.n_decode};
    timings.batchd = {state.t_batchd_us, state.n_batchd};
    timings.sample = {state.t_sample_us, state.n_sample};
    return timings;
}

std::string type_of_tensor(const whisper_context& context, const std::string& name) {
    const auto found = context.model.tensors.find(name);
    return found == context.model.tensors.end() ? "" : lower_case(ggml_type_name(found->second->type));
}

int max_decoders() {
    return WHISPER_MAX_DECODERS;
}

void set_stop_callback(whisper_state& state, ggml_abort_callback stop, void* data) {
    for (ggml_backend_t backend : state.backends) {
        ggml_backend_dev_t device = ggml_backend_get_device(backend);
        ggml_backend_reg_t registry = device ? ggml_backend_dev_backend_reg(device) : nullptr;
        if (!registry) continue;
        auto set_callback = reinterpret_cast<ggml_backend_set_abort_callback_t>(
            ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_abort_callback"));
        if (set_callback) set_callback(backend, stop, data);
    }
}

void set_signal_energy(whisper_state& state, const float* samples, int n_samples) {
    state.energy = get_signal_energy(samples, n_samples, 32);
}

SilencedFrames::SilencedFrames(whisper_state& state, int first, int end)
    : state_(state), first_(first), n_(std::max(std::min(end, state.mel.n_len) - first, 0)) {
    whisper_mel& mel = state.mel;
    if (n_ == 0) return;
    const float silence = mel.data.back();  // upstream puts 30 s of silence behind the audio
    for (int band = 0; band < mel.n_mel; ++band) {
        const auto begin = mel.data.begin() + static_cast<ptrdiff_t>(band) * mel.n_len + first_;
        kept_.insert(kept_.end(), begin, begin + n_);
        std::fill_n(begin, n_, silence);
    }
}

SilencedFrames::~SilencedFrames() {
    whisper_mel& mel = state_.mel;
    for (int band = 0; n_ > 0 && band < mel.n_mel; ++band) {
        std::copy_n(kept_.begin() + static_cast<ptrdiff_t>(band) * n_, n_,
                    mel.data.begin() + static_cast<ptrdiff_t>(band) * mel.n_len + first_);
    }
}

void forget_previous_text(whisper_state& state) {
    state.prompt_past1.clear();
}

int failed_temperatures(const whisper_state& state) {
    return state.n_fail_p;
}

WindowSequence find_window_sequence(const whisper_state& state, const std::vector<whisper_token_data>& segment) {
    for (const whisper_decoder& decoder : state.decoders) {
        const auto& tokens = decoder.sequence.tokens;
        const auto at = std::search(tokens.begin(), tokens.end(), segment.begin(), segment.end(), same_token);
        if (at != tokens.end()) return describe(decoder.sequence, static_cast<int>(at - tokens.begin()));
    }
    WindowSequence alone;
    for (const whisper_token_data& token : segment) alone.tokens.push_back(token.id);
    alone.avg_logprob = mean_logprob(segment);
    return alone;
}

std::vector<std::pair<std::string, const ggml_tensor*>> matrices(const whisper_context& context) {
    std::vector<std::pair<std::string, const ggml_tensor*>> found;
    for (const auto& [name, tensor] : context.model.tensors) {
        if (ggml_n_dims(tensor) == 2 && tensor->ne[0] > 1) found.emplace_back(name, tensor);
    }
    return found;
}

bool runs_on_cpu(const whisper_state& state) {
    return std::all_of(state.backends.begin(), state.backends.end(), [](ggml_backend_t backend) {
        const auto type = ggml_backend_dev_type(ggml_backend_get_device(backend));
        return type == GGML_BACKEND_DEVICE_TYPE_CPU || type == GGML_BACKEND_DEVICE_TYPE_ACCEL;
    });
}

void set_eval_callback(whisper_state& state, ggml_backend_sched_eval_callback callback, void* data) {
    for (const whisper_sched* graph : {&state.sched_encode, &state.sched_cross, &state.sched_decode}) {
        if (graph->sched) ggml_backend_sched_set_eval_callback(graph->sched, callback, data);
    }
}

void set_audio_ctx(whisper_state& state, int n_audio_ctx) {
    state.exp_n_audio_ctx = n_audio_ctx;
}

void read_audio_features(const whisper_state& state, float* features) {
    ggml_backend_tensor_get(state.embd_enc, features, 0, ggml_nbytes(state.embd_enc));
}

void clear_self_attention(whisper_state& state) {
    whisper_kv_cache_clear(state.kv_self);
}

bool decode_every_position(whisper_context& context, whisper_state& state, const whisper_token* tokens, int n_tokens,
                           int n_past, int n_threads) {
    whisper_batch_prep_legacy(state.batch, tokens, n_tokens, n_past, 0);
    std::fill_n(state.batch.logits, n_tokens, static_cast<int8_t>(1));
    return whisper_decode_internal(context, state, state.batch, n_threads, false, nullptr, nullptr);
}

}  // namespace whisperq::ggml
