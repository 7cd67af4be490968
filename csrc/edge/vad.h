// Silero's voice detector on our kernels: one probability of speech for each window of 512 samples (32 ms at 16 kHz).
//
//   512 samples -> mirrored at both ends to 640 -> 4 frames of 256 -> |DFT| (129) -> 4 convolutions over time -> 128
//   -> LSTM -> output layer -> probability
//
// The windows of a batch go through all but the LSTM together: the rows of a product are the frames of several windows,
// so that each weight is loaded once for many of them. The LSTM goes on from window to window.
//
// whisper.cpp rounds the inputs of its convolutions to f16. That moves probabilities by up to 5e-3, so we do it too:
// what was tuned against one is right for the other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/aligned.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

// The weights, packed for the kernels: about 1.4 MB. Never changes; several streams may share it.
class VadNetwork {
  public:
    static constexpr int64_t kWindowSamples = 512;

    // Throws as model::read_silero_file does.
    VadNetwork(const std::filesystem::path& path, const kernels::KernelTable& kernels);

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }

  private:
    friend class VadStream;

    static constexpr size_t kConvolutions = 4;

    // Products sum over so many values at a time, and then the sums. One sum over all of them would be further from
    // the exact one (frames of a quiet frequency are small differences of large terms), and so end at another f16.
    static constexpr int64_t kChunk = 64;

    // n outputs of k inputs; chunk after chunk of the inputs, each packed as a matrix of its own.
    struct Matrix {
        int64_t n_chunks() const noexcept { return k / kChunk; }
        int64_t chunk_size(int64_t i) const noexcept { return i + 1 < n_chunks() ? kChunk : k - i * kChunk; }

        int64_t n = 0, k = 0;
        AlignedBuffer packed, bias;  // the bias is empty where there is none
    };

    Matrix pack(const std::vector<float>& rows, int64_t n, int64_t k, const std::vector<float>& bias) const;

    const kernels::KernelTable& kernels_;
    Matrix basis_, encoder_[kConvolutions], input_, state_;
    std::vector<float> output_weight_;
    float output_bias_ = 0.0f;
};

// Audio in pieces of any length. One thread at a time; memory does not grow with the audio.
class VadStream {
  public:
    // Windows that are computed together: 0.4 s.
    static constexpr int64_t kBatch = 12;

    explicit VadStream(std::shared_ptr<const VadNetwork> network);

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
    void multiply(const VadNetwork::Matrix& matrix, const Rows& input, const float* residual, const Rows& out) const;

    std::shared_ptr<const VadNetwork> network_;
    // Products read inputs_ and write outputs_; what lies between two of them goes the other way.
    AlignedBuffer inputs_, outputs_, halves_;
    AlignedBuffer gates_, hidden_, cell_;
    AlignedBuffer pending_;  // the window that has begun
    int64_t n_pending_ = 0;
};

}  // namespace whisperq::edge
