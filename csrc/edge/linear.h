// y = x W' + b on all threads: the loops around the kernels' strips and tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "edge/weights.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

class ActivationStudy;

// Memory that a computation needs of its machine.
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

// What a computation runs on: the kernels, the threads, and memory that is allocated once and used again by every
// layer.
class Machine {
  public:
    Machine(const kernels::KernelTable& kernels, ThreadPool& pool)
        : kernels_(kernels), pool_(pool), scratch_(static_cast<size_t>(pool.size())) {}

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }
    ThreadPool& pool() noexcept { return pool_; }

    // Of one worker: an expanded panel, a strip's rows, or what attention packs.
    uint8_t* scratch(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].data(); }
    float* scratch_floats(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].floats(); }
    // A product's input, quantised, or normalised.
    uint8_t* strips() noexcept { return strips_.data(); }
    const uint8_t* strips() const noexcept { return strips_.data(); }
    float* rows() noexcept { return rows_.floats(); }
    // What rounds the inputs of products, or null, as it is but for measurements.
    ActivationStudy* study() noexcept { return study_; }
    void set_study(ActivationStudy* study) noexcept { study_ = study; }
    void reserve(const MachineNeeds& needs);
    // Of all of it.
    size_t n_bytes() const noexcept;

  private:
    const kernels::KernelTable& kernels_;
    ThreadPool& pool_;
    std::vector<AlignedBuffer> scratch_;
    AlignedBuffer strips_, rows_;
    ActivationStudy* study_ = nullptr;
};

// Rows of floats, `stride` apart (less than `k` where windows overlap).
struct Rows {
    const float* data;
    int64_t m;
    int64_t stride;
};

// One product. Several that share their input are given together: it is quantised once.
struct Product {
    const Linear* linear;
    float* out;                  // [m][n]
    kernels::Epilogue epilogue;  // bias aside, which is the linear's
};

// What multiply() of m rows needs, which it reserves itself. `packed` and `out` need not be there yet.
MachineNeeds product_needs(const kernels::KernelTable& kernels, int64_t m, bool has_norm,
                           const std::vector<Product>& products);

// `norm`, if there is one, is applied to each input row first. All of the linears have the same k.
void multiply(Machine& machine, const Rows& input, const LayerNormWeights* norm, const std::vector<Product>& products);

// The floats that lie between the two products of an MLP, and what the products need.
int64_t mlp_floats(const MlpWeights& weights, int64_t m);
MachineNeeds mlp_needs(const kernels::KernelTable& kernels, const MlpWeights& weights, int64_t m);

// x += mlp(norm(x)) for m rows; `hidden` is grown to hold what lies between the two products.
void apply_mlp(Machine& machine, const MlpWeights& weights, int64_t m, float* x, AlignedBuffer& hidden);

// Layer norm of m rows, in place.
void normalize(Machine& machine, const LayerNormWeights& norm, int64_t m, float* x);

// Makes the buffer hold so much, which is not initialised and not kept.
void reserve_bytes(AlignedBuffer& buffer, size_t n_bytes);
float* reserve_floats(AlignedBuffer& buffer, int64_t n_floats);

}  // namespace whisperq::edge
