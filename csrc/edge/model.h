// One model in memory: its weights, packed once, and the machine that its encoder and its decoder compute on in turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>

#include "core/thread_pool.h"
#include "edge/linear.h"
#include "edge/weights.h"
#include "kernels/kernels.h"
#include "model/file_format.h"

namespace whisperq::edge {

class Model {
  public:
    // Throws Error(Status::unsupported_model) for types without kernels, and what the model reader throws.
    Model(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads);

    const model::Hparams& hparams() const noexcept { return hparams_; }
    const EncoderWeights& encoder() const noexcept { return encoder_; }
    const DecoderWeights& decoder() const noexcept { return decoder_; }
    uint64_t packed_bytes() const noexcept { return arena_.n_bytes(); }
    // Of all weights: packed matrices, biases, norms and positions.
    size_t weight_bytes() const noexcept { return weight_bytes_; }

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }
    ThreadPool& pool() noexcept { return pool_; }
    // To be used under the lock.
    Machine& machine() noexcept { return machine_; }
    // One computation at a time: others wait, so that four threads on one model get what one would get.
    std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(mutex_); }

  private:
    const kernels::KernelTable& kernels_;
    model::Hparams hparams_;
    Arena arena_;
    size_t weight_bytes_ = 0;
    EncoderWeights encoder_;
    DecoderWeights decoder_;
    ThreadPool pool_;
    Machine machine_;
    std::mutex mutex_;
};

}  // namespace whisperq::edge
