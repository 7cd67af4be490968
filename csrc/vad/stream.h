// Silero's voice detector on our kernels: one probability of speech for each window of 512 samples (32 ms at 16 kHz).
//
//   512 samples -> mirrored at both ends to 640 -> 4 frames of 256 -> |DFT| (129) -> 4 convolutions over time -> 128
//   -> LSTM -> output layer -> probability
//
// The windows of a batch go through all but the LSTM together. The rows of a product are the frames of several windows,
// so that each weight is loaded once for many of them. The LSTM goes on from window to window.
//
// whisper.cpp rounds the inputs of its convolutions to f16, which moves probabilities by up to 5e-3. We do it too, so
// that thresholds that were tuned against one are right for the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/aligned.h"
#include "vad/network.h"

namespace whisperq::vad {

// Audio in pieces of any length. One thread at a time; memory does not grow with the audio.
class Stream {
  public:
    // Windows that are computed together: 0.4 s.
    static constexpr int64_t kBatch = 12;

    explicit Stream(std::shared_ptr<const Network> network);

    // Appends the probabilities of the windows that are full now, and keeps the rest for the next call. Throws
    // Error(Status::audio), and hears nothing, when a sample is not finite.
    void feed(const float* samples, int64_t n_samples, std::vector<float>& probabilities);

    // The audio ends here: a window that has begun is filled with silence. Ready for other audio afterwards.
    void finish(std::vector<float>& probabilities);

    // Forgets all audio.
    void reset() noexcept;

  private:
    // Rows of floats, one after the other in one of the buffers.
    struct Rows {
        float* data;
        int64_t n, stride;

        float* operator[](int64_t i) const noexcept { return data + i * stride; }
    };

    void compute(const float* samples, int64_t n_windows, std::vector<float>& probabilities);
    Rows frames(const float* samples, int64_t n_windows);
    Rows magnitudes(const Rows& frames);
    Rows convolve(size_t layer, const Rows& input, int64_t n_windows);
    float step(const float* gates);
    void round(float* values, int64_t n) noexcept;
    void multiply(const Network::Matrix& matrix, const Rows& input, const float* residual, const Rows& out) const;

    std::shared_ptr<const Network> network_;
    // Products read inputs_ and write outputs_; what lies between two of them goes the other way.
    AlignedBuffer inputs_, outputs_, halves_;
    AlignedBuffer gates_, hidden_, cell_;
    AlignedBuffer pending_;  // the window that has begun
    int64_t n_pending_ = 0;
};

}  // namespace whisperq::vad
