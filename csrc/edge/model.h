// A model in memory: its weights, packed once, and the machine that its encoder and its decoder compute on in turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "core/turn.h"
#include "edge/activation_study.h"
#include "edge/machine.h"
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
    std::vector<const Linear*> linears() const { return linears_of(encoder_, decoder_); }
    // Return the size of all weights: packed matrices, biases, norms and positions.
    size_t weight_bytes() const noexcept { return weight_bytes_; }

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }
    ThreadPool& pool() noexcept { return pool_; }
    // Only the thread that has the turn may use it.
    Machine& machine() noexcept { return machine_; }
    // One computation runs at a time. Others wait, because they would compete for the same threads and memory.
    Turn& turn() noexcept { return turn_; }

    // Round activations from the next computation on, and wait for the one that runs. Throws what
    // ActivationStudy::start() throws.
    void round_activations(ActivationRounding rounding);
    // Return ActivationStudy::observed() by now.
    std::map<std::string, float> activation_ranges();

  private:
    const kernels::KernelTable& kernels_;
    model::Hparams hparams_;
    Arena arena_;
    size_t weight_bytes_ = 0;
    EncoderWeights encoder_;
    DecoderWeights decoder_;
    ThreadPool pool_;
    Machine machine_;
    ActivationStudy study_;
    Turn turn_;
};

}  // namespace whisperq::edge
