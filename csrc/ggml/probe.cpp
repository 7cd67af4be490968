#include "ggml/probe.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/clock.h"
#include "core/status.h"
#include "ggml/log.h"
#include "ggml/upstream.h"

namespace whisperq::ggml {
namespace {

constexpr int64_t kWindowSamples = 30 * WHISPER_SAMPLE_RATE;
constexpr size_t kLeastSamples = WHISPER_SAMPLE_RATE;  // upstream reads the first 201, be they there or not
constexpr int kMostThreads = 512;

[[noreturn]] void refuse(const std::string& what) {
    throw Error(Status::inference, what);
}

// Adds up the squares of what the weight matrices are multiplied with, node by node as the graphs are computed.
// Upstream calls it between two nodes on the thread that asked for the graph. No exception may pass through upstream's
// frames, so nothing is allocated there.
class InputCollector {
  public:
    explicit InputCollector(const whisper_context& context) {
        for (const auto& [name, tensor] : matrices(context)) {
            InputStatistics& input = inputs_[tensor];
            input.name = name;
            input.sum_squares.resize(static_cast<size_t>(tensor->ne[0]));
        }
    }

    static bool callback(ggml_tensor* node, bool ask, void* collector) {
        return static_cast<InputCollector*>(collector)->on_node(*node, ask);
    }

    // Of the matrices that were used, by name.
    std::vector<InputStatistics> take() {
        std::vector<InputStatistics> used;
        for (auto& [tensor, input] : inputs_) {
            if (input.n_vectors > 0) used.push_back(std::move(input));
        }
        std::sort(used.begin(), used.end(),
                  [](const InputStatistics& a, const InputStatistics& b) { return a.name < b.name; });
        return used;
    }

  private:
    // Asked before a node is computed: whether it is to be shown afterwards. Shown: whether to go on.
    bool on_node(const ggml_tensor& node, bool ask) {
        const auto found = node.op == GGML_OP_MUL_MAT ? inputs_.find(node.src[0]) : inputs_.end();
        if (ask) return found != inputs_.end();
        if (found != inputs_.end()) add(*node.src[1], found->second);
        return true;
    }

    // ggml's CPU takes float32 vectors only, each contiguous.
    static void add(const ggml_tensor& vectors, InputStatistics& input) {
        const char* data = static_cast<const char*>(vectors.data);
        double* sums = input.sum_squares.data();
        for (int64_t i3 = 0; i3 < vectors.ne[3]; ++i3) {
            for (int64_t i2 = 0; i2 < vectors.ne[2]; ++i2) {
                for (int64_t i1 = 0; i1 < vectors.ne[1]; ++i1) {
                    const auto at = static_cast<size_t>(i1) * vectors.nb[1] + static_cast<size_t>(i2) * vectors.nb[2] +
                                    static_cast<size_t>(i3) * vectors.nb[3];
                    add_squares(reinterpret_cast<const float*>(data + at), vectors.ne[0], sums);
                }
            }
        }
        input.n_vectors += vectors.ne[1] * vectors.ne[2] * vectors.ne[3];
    }

    static void add_squares(const float* vector, int64_t n, double* sums) {
        for (int64_t j = 0; j < n; ++j) sums[j] += static_cast<double>(vector[j]) * static_cast<double>(vector[j]);
    }

    std::unordered_map<const ggml_tensor*, InputStatistics> inputs_;
};

class Probe {
  public:
    Probe(whisper_context& context, const ProbeRequest& request)
        : context_(context), request_(request), state_(whisper_init_state(&context)) {
        if (!state_) fail("the engine could not allocate its buffers");
        set_stop_callback(*state_, &Probe::stop_callback, this);
        set_audio_ctx(*state_, request.audio_ctx);
    }

    ProbeResult run(const ProbeOutput& output) {
        if (!request_.statistics) return compute(output);
        if (!runs_on_cpu(*state_)) refuse("statistics are taken on the CPU only: load the model with use_gpu=false");
        InputCollector collector(context_);
        set_eval_callback(*state_, &InputCollector::callback, &collector);
        ProbeResult result = compute(output);
        result.statistics = collector.take();
        return result;
    }

  private:
    ProbeResult compute(const ProbeOutput& output) {
        encode(output.audio_features);
        for (size_t i = 0; i < request_.sequences.size() && !stopped_; ++i) {
            decode(request_.sequences[i], output.logits[i]);
        }
        result_.stopped = stopped_;
        return std::move(result_);
    }

    bool should_stop() {
        if (!stopped_ && request_.should_stop) stopped_ = request_.should_stop();
        return stopped_;
    }

    static bool stop_callback(void* probe) { return static_cast<Probe*>(probe)->should_stop(); }

    // The first window, followed by silence when it is short.
    std::vector<float> window() const {
        const int64_t n_heard = std::min(request_.n_samples, kWindowSamples);
        std::vector<float> samples(request_.samples, request_.samples + n_heard);
        samples.resize(std::max(samples.size(), kLeastSamples));
        return samples;
    }

    void encode(float* audio_features) {
        const std::vector<float> samples = window();
        if (whisper_pcm_to_mel_with_state(&context_, state_.get(), samples.data(), static_cast<int>(samples.size()),
                                          request_.n_threads) != 0) {
            fail("the mel spectrogram could not be computed");
        }
        if (should_stop()) return;
        const int64_t began_us = now_us();
        const int code = whisper_encode_with_state(&context_, state_.get(), 0, request_.n_threads);
        result_.encode_ms = static_cast<double>(now_us() - began_us) / 1000;
        if (code != 0 && !stopped_) fail("the encoder failed");
        if (!stopped_) read_audio_features(*state_, audio_features);
    }

    void decode(const std::vector<whisper_token>& tokens, float* logits) {
        clear_self_attention(*state_);
        const int n_vocab = whisper_n_vocab(&context_);
        const int n_tokens = static_cast<int>(tokens.size());
        const int step = request_.tokens_per_call > 0 ? request_.tokens_per_call : n_tokens;
        for (int at = 0; at < n_tokens && !should_stop(); at += step) {
            const int n = std::min(step, n_tokens - at);
            const int64_t began_us = now_us();
            const bool done = decode_every_position(context_, *state_, tokens.data() + at, n, at, request_.n_threads);
            result_.decode_ms += static_cast<double>(now_us() - began_us) / 1000;
            if (stopped_) return;
            if (!done) fail("the decoder failed");
            const float* computed = whisper_get_logits_from_state(state_.get());
            std::copy_n(computed, static_cast<size_t>(n) * static_cast<size_t>(n_vocab),
                        logits + static_cast<size_t>(at) * static_cast<size_t>(n_vocab));
        }
    }

    whisper_context& context_;
    const ProbeRequest& request_;
    StatePtr state_;
    ProbeResult result_;
    bool stopped_ = false;
};

void check_sequence(const std::vector<whisper_token>& tokens, const std::string& name, int n_text_ctx, int n_vocab) {
    if (tokens.empty() || tokens.size() > static_cast<size_t>(n_text_ctx)) {
        refuse(name + " has " + std::to_string(tokens.size()) + " tokens; this model takes 1 to " +
               std::to_string(n_text_ctx));
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] >= 0 && tokens[i] < n_vocab) continue;
        refuse(name + "[" + std::to_string(i) + "] is " + std::to_string(tokens[i]) +
               "; this model's token ids are 0 to " + std::to_string(n_vocab - 1));
    }
}

}  // namespace

ProbeShape check_probe(whisper_context& context, const ProbeRequest& request) {
    if (request.n_samples < 1) throw Error(Status::audio, "there are no samples to probe the model with");
    if (request.n_threads < 1 || request.n_threads > kMostThreads) {
        refuse("n_threads is " + std::to_string(request.n_threads) + "; 1 to " + std::to_string(kMostThreads) +
               " are possible");
    }
    if (request.tokens_per_call < 0) {
        refuse("tokens_per_call is " + std::to_string(request.tokens_per_call) + "; 0 (all) or more is possible");
    }
    const int n_audio_ctx = whisper_n_audio_ctx(&context);
    if (request.audio_ctx < 0 || request.audio_ctx > n_audio_ctx) {
        refuse("audio_ctx is " + std::to_string(request.audio_ctx) + "; 0 (all) to " + std::to_string(n_audio_ctx) +
               " are possible");
    }
    const int n_vocab = whisper_n_vocab(&context);
    for (size_t i = 0; i < request.sequences.size(); ++i) {
        check_sequence(request.sequences[i], "sequences[" + std::to_string(i) + "]", whisper_n_text_ctx(&context),
                       n_vocab);
    }
    return {request.audio_ctx > 0 ? request.audio_ctx : n_audio_ctx, whisper_model_n_audio_state(&context), n_vocab};
}

ProbeResult probe(whisper_context& context, const ProbeRequest& request, const ProbeOutput& output) {
    const CallLog log;
    return Probe(context, request).run(output);
}

}  // namespace whisperq::ggml
