// The machine of encoder and decoder: kernels, threads, and memory that every layer uses again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

class ActivationStudy;

// The memory that a computation needs of its machine.
struct MachineNeeds {
    size_t scratch_bytes = 0;  // of each worker
    size_t strip_bytes = 0;
    size_t row_bytes = 0;

    size_t n_bytes(int n_threads) const {
        return static_cast<size_t>(n_threads) * scratch_bytes + strip_bytes + row_bytes;
    }
    void include(const MachineNeeds& other) {
        scratch_bytes = std::max(scratch_bytes, other.scratch_bytes);
        strip_bytes = std::max(strip_bytes, other.strip_bytes);
        row_bytes = std::max(row_bytes, other.row_bytes);
    }
};

// A machine for computations: the kernels, the threads, and memory that is allocated once and used again by every
// layer.
class Machine {
  public:
    Machine(const kernels::KernelTable& kernels, ThreadPool& pool)
        : kernels_(kernels), pool_(pool), scratch_(static_cast<size_t>(pool.size())) {}

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }
    ThreadPool& pool() noexcept { return pool_; }

    // Return the memory of one worker: for an expanded panel, a strip's rows, or attention's packed keys and values.
    uint8_t* scratch(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].data(); }
    float* scratch_floats(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].floats(); }
    // Return the memory of a product's input: quantised, or normalised.
    uint8_t* strips() noexcept { return strips_.data(); }
    const uint8_t* strips() const noexcept { return strips_.data(); }
    float* rows() noexcept { return rows_.floats(); }
    // Return the study that rounds the inputs of products, or null. Only measurements have one.
    ActivationStudy* study() noexcept { return study_; }
    void set_study(ActivationStudy* study) noexcept { study_ = study; }
    void reserve(const MachineNeeds& needs);
    // Return the size of all of it.
    size_t n_bytes() const noexcept;

  private:
    const kernels::KernelTable& kernels_;
    ThreadPool& pool_;
    std::vector<AlignedBuffer> scratch_;
    AlignedBuffer strips_, rows_;
    ActivationStudy* study_ = nullptr;
};

// Make the buffer hold so many bytes or floats. They are not initialised, and the old ones are lost.
void reserve_bytes(AlignedBuffer& buffer, size_t n_bytes);
float* reserve_floats(AlignedBuffer& buffer, int64_t n_floats);

}  // namespace whisperq::edge
