// The weights of silero's voice detector, packed for our kernels (stream.h has the network that they make).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/aligned.h"
#include "kernels/kernels.h"

namespace whisperq::vad {

// The weights, packed for the kernels: about 1.4 MB. Never changes; several streams may share it.
class Network {
  public:
    static constexpr int64_t kWindowSamples = 512;

    // Throws as model::read_silero_file does.
    Network(const std::filesystem::path& path, const kernels::KernelTable& kernels);

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }

  private:
    friend class Stream;

    static constexpr size_t kConvolutions = 4;

    // Products sum over so many values at a time, and then over the sums. A single sum would be further from the exact
    // one, because a quiet frequency is a small difference of large terms. It would end at another f16.
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

}  // namespace whisperq::vad
