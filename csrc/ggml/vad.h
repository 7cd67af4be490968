// Speech probabilities from upstream's silero network.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "whisper.h"

namespace whisperq::ggml {

class Vad {
  public:
    static constexpr int kWindowSamples = 512;

    Vad(const std::string& path, int n_threads);

    // One probability for every started window of 512 samples at 16 kHz. `should_stop` is asked every 30 s of audio;
    // the result is shorter when it said so. Calls from several threads wait for each other: the network has one state.
    std::vector<float> probabilities(const float* samples, size_t n_samples, const std::function<bool()>& should_stop);

  private:
    struct FreeContext {
        void operator()(whisper_vad_context* context) const { whisper_vad_free(context); }
    };
    std::unique_ptr<whisper_vad_context, FreeContext> context_;
    std::mutex mutex_;
};

}  // namespace whisperq::ggml
