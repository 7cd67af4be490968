#include "ggml/vad.h"

#include <algorithm>

#include "core/status.h"
#include "ggml/log.h"

namespace whisperq::ggml {
namespace {

constexpr size_t kWindowsPerBlock = 30 * 16000 / Vad::kWindowSamples;

}  // namespace

Vad::Vad(const std::string& path, int n_threads) {
    const CallLog log;
    whisper_vad_context_params params = whisper_vad_default_context_params();
    params.n_threads = n_threads;
    params.use_gpu = false;
    context_.reset(whisper_vad_init_from_file_with_params(path.c_str(), params));
    if (!context_) throw Error(Status::internal, "the voice detector " + path + " does not load: " + last_complaint());
}

std::vector<float> Vad::probabilities(const float* samples, size_t n_samples,
                                      const std::function<bool()>& should_stop) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const CallLog log;
    whisper_vad_reset_state(context_.get());
    std::vector<float> all;
    constexpr size_t block = kWindowsPerBlock * kWindowSamples;
    for (size_t at = 0; at < n_samples && !should_stop(); at += block) {
        const int n = static_cast<int>(std::min(block, n_samples - at));
        if (!whisper_vad_detect_speech_no_reset(context_.get(), samples + at, n)) {
            throw Error(Status::inference, "voice detection failed: " + last_complaint());
        }
        const float* probs = whisper_vad_probs(context_.get());
        all.insert(all.end(), probs, probs + whisper_vad_n_probs(context_.get()));
    }
    return all;
}

}  // namespace whisperq::ggml
